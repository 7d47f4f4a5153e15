"""What the files of a model's folder say of it, without loading it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fleet_pipeline.deliberation.reasoning import HARMONY, MARKS

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")  # the first kind that is there: some models come in two
# Names of the longest context in configurations of various families.
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")


@dataclass(frozen=True)
class ModelFacts:
    """What of a model decides whether and how it can be used."""

    architecture: str  # "" where config.json does not say
    weight_bytes: int
    licence: str  # as its README says; "" for nothing
    context: int | None  # tokens
    chat_template: bool
    reasoning: str  # the mark that opens its reasoning, "harmony", or "" for none


def read_facts(folder: Path) -> ModelFacts:
    """Raises nothing: a file that is missing or broken says nothing."""
    config = _json(folder / "config.json")
    architectures = config.get("architectures")
    template = _template(folder)
    return ModelFacts(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        weight_bytes=_weight_bytes(folder),
        licence=_licence(folder),
        context=_context(config),
        # Mistral's own format has no template: vLLM writes its chats.
        chat_template=bool(template) or (folder / "tekken.json").is_file(),
        reasoning=_reasoning(folder, template),
    )


def _weight_bytes(folder: Path) -> int:
    for pattern in _WEIGHTS:
        with suppress(OSError):
            if sizes := [path.stat().st_size for path in folder.glob(pattern)]:
                return sum(sizes)
    return 0


def _licence(folder: Path) -> str:
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
        return str(head.get("license_name") or head.get("license") or "")
    except (OSError, ValueError, LookupError, AttributeError, yaml.YAMLError):
        return ""


def _context(config: dict[str, Any]) -> int | None:
    text_config = config.get("text_config")  # of models that read pictures as well
    for part in (config, text_config if isinstance(text_config, dict) else {}):
        for name in _CONTEXT:
            if type(part.get(name)) is int:  # no boolean
                return int(part[name])
    return None


def _template(folder: Path) -> str:
    with suppress(OSError, ValueError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    return template if isinstance(template, str) else json.dumps(template)


def _reasoning(folder: Path, template: str) -> str:
    text = template + "\n".join(_special_tokens(folder))
    if HARMONY in text:
        return "harmony"
    return next((opening for opening, closing in MARKS if opening in text or closing in text), "")


def _special_tokens(folder: Path) -> Iterator[str]:
    added = _json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for token in added.values() if isinstance(added, dict) else ():
        if isinstance(token, dict):
            yield str(token.get("content", ""))


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
