"""Batches of accepted requests that have no run yet: `<storage>/pending/<batch id>.json`.

A batch is written before anything else is done with it, and removed when its run exists. If the process crashes in
between, the next one reads the batch and does the rest. Each step (storing specs, adding partitions, asking for a
run) can be done twice.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.validation import describe
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import Spec, TaskStore


@dataclass(frozen=True)
class Batch:
    """Specs for one run. With `rerun` they replace earlier ones."""

    id: str
    source: str
    specs: tuple[Spec, ...]
    rerun: bool

    @property
    def keys(self) -> list[str]:
        return [spec.key for spec in self.specs]


def new_batch(source: str, specs: Sequence[Spec], rerun: bool, now: datetime) -> Batch:
    """A batch whose id sorts by time and names its source."""
    digest = hashlib.sha256("\n".join(f"{spec.key} {spec.request_id}" for spec in specs).encode()).hexdigest()[:12]
    return Batch(f"{now:%Y%m%dT%H%M%S%f}-{source}-{digest}", source, tuple(specs), rerun)


def put_batch(store: Store, batch: Batch) -> None:
    document = {"source": batch.source, "rerun": batch.rerun, "specs": [spec.document() for spec in batch.specs]}
    store.write(_path(batch.id), json.dumps(document).encode())


def pending_batches(tasks: TaskStore) -> tuple[list[Batch], dict[str, str]]:
    """(batches, oldest first; by file name, why a file cannot be read in full)."""
    batches: list[Batch] = []
    damaged: dict[str, str] = {}
    for name in tasks.store.names("pending", ".json"):
        content = tasks.store.read(_path(name))
        if content is None:
            continue
        try:
            document = json.loads(content)
            specs: list[Spec] = []
            for entry in document["specs"]:
                try:
                    specs.append(Spec.parse(entry, tasks.roles))
                except ValidationError as error:  # its role may no longer exist
                    damaged[name] = describe(error)
            if specs:
                # Batches of earlier versions name their source only in their id.
                source = document.get("source") or name.split("-")[1]
                batches.append(Batch(name, source, tuple(specs), bool(document["rerun"])))
        except (InvalidInput, ValueError, LookupError, TypeError, AttributeError) as error:
            damaged[name] = f"{type(error).__name__}: {error}"
    return batches, damaged


def settle(store: Store, batch: Batch) -> None:
    """Remove a batch that has its run."""
    store.delete(_path(batch.id))


def _path(name: str) -> str:
    return f"pending/{name}.json"
