"""What `--model NAME_OR_PATH` means.

Names of this project's own models are turned into local folders; anything else is passed on to
vLLM as it is. Nothing is chosen where nothing was named.
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
    """Build the random model once per version of its recipe (about 5 s)."""
    from fleet_pipeline.deliberation import prompts, roles
    from fleet_pipeline.models import chatml, random_tiny

    recipe = [
        Path(str(module.__file__)).read_text(encoding="utf-8") for module in (chatml, random_tiny, prompts, roles)
    ]
    corpus = recipe[2:]
    version = hashlib.sha256("".join(recipe).encode()).hexdigest()[:12]
    folder = _cache() / f"{RANDOM_TINY}-{version}"
    if not (folder / "config.json").exists():
        with built_whole(folder, complete="config.json") as building:
            random_tiny.build(building, corpus)
    return folder
