"""Which models are on this machine: built in, converted, in the hub's cache, and in folders. And which it can hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.inference.gpu import GIB
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.models.facts import ModelFacts, read_facts
from fleet_pipeline.models.registry import FLEET_TINY, PACKED, is_model, known_folders
from fleet_pipeline.services.memory import Memory

Kind = Literal["built-in", "converted", "hub cache", "folder"]


@dataclass(frozen=True)
class ModelHere:
    """A model that could be named with `--model`. `facts` is None for one that must be fetched first."""

    name: str
    kind: Kind
    location: str
    facts: ModelFacts | None
    fits: bool | None  # whether this machine can hold it; None where its size is not known
    remark: str  # why not, or what to do first


def models_here(engine: VllmConfig, folders: Sequence[Path] = ()) -> Iterator[ModelHere]:
    """Every model, in the order in which people look for one. `folders` hold models, or folders with models in them.

    Raises `InvalidInput` for a folder that does not exist.
    """
    memory = Memory.of(engine)
    for name, folder in known_folders().items():
        kind: Kind = "built-in" if name == FLEET_TINY else "converted"
        if is_model(folder):
            yield _here(name, kind, folder, memory)
        else:
            size = f"{PACKED[name].megabytes} MB, {PACKED[name].licence}"
            yield ModelHere(name, kind, str(folder), None, None, f"not fetched ({size}): fleet models get {name}")
    yield from (_here(name, "hub cache", folder, memory) for name, folder in _hub_cache())
    for folder in folders:
        yield from (_here(str(found), "folder", found, memory) for found in _in(folder))


def _here(name: str, kind: Kind, folder: Path, memory: Memory) -> ModelHere:
    facts = read_facts(folder)
    fits = facts.weight_bytes <= memory.for_weights if facts.weight_bytes else None
    remarks = []
    if fits is None:
        remarks.append("no weights")
    elif not fits:
        most = max(memory.for_weights, 0) / GIB
        remarks.append(
            f"too large: {facts.weight_bytes / GIB:.1f} GiB of weights, {most:.1f} GiB of {memory.words} for them"
        )
    if not facts.chat_template:
        remarks.append("no chat template: name one with chat_template")
    return ModelHere(name, kind, str(folder), facts, fits, "; ".join(remarks))


def _hub_cache() -> Iterator[tuple[str, Path]]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return
    for repository in sorted(cache.repos, key=lambda one: one.repo_id):
        for revision in sorted(repository.revisions, key=lambda one: -one.last_modified):
            if repository.repo_type == "model" and is_model(revision.snapshot_path):
                yield repository.repo_id, revision.snapshot_path
                break


def _in(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder")
    if is_model(folder):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and is_model(path):
            yield path
