"""Resolves `--model NAME_OR_PATH`.

Names of this project's own models become local folders. Any other value goes to vLLM unchanged.
This module never chooses a model by itself.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fleet_pipeline.common.files import built_whole

FLEET_TINY = "fleet-tiny"
RANDOM_TINY = "random-tiny"


def resolve(model: str) -> str:
    """The folder of one of this project's models, or `model` unchanged."""
    if model == FLEET_TINY:
        return str(Path(__file__).with_name("fleet_tiny"))
    return str(_random_tiny()) if model == RANDOM_TINY else model


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fleet-pipeline" / "models"


def _random_tiny() -> Path:
    """The folder of the random model. Builds it once per version of its source files (about 5 s)."""
    from fleet_pipeline.deliberation import prompts, roles
    from fleet_pipeline.models import chatml, random_tiny

    sources = [
        Path(str(module.__file__)).read_text(encoding="utf-8") for module in (chatml, random_tiny, prompts, roles)
    ]
    corpus = sources[2:]  # prompts and roles
    version = hashlib.sha256("".join(sources).encode()).hexdigest()[:12]
    folder = _cache() / f"{RANDOM_TINY}-{version}"
    if not (folder / "config.json").exists():
        with built_whole(folder, complete="config.json") as building:
            random_tiny.build(building, corpus)
    return folder
