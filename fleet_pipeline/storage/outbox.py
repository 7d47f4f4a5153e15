"""The outbox: events of a finished deliberation, ready to be sent: `<storage>/outbox/<deliberation_id>.gz`.

Made from the Parquet tables when the outcome is written, and not the truth: where a file is absent or
torn the events are made again from the tables. It is there for speed: reading two Parquet files and
building five events takes 2.5 ms, reading this 0.1 ms, and a night's 10,000 deliberations are waiting.

A file is one line per event, gzipped: subject, idempotency key and body with tabs between.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable

from fleet_pipeline.deliberation.task import checked_id
from fleet_pipeline.storage.store import Store

# (subject, idempotency key, JSON in UTF-8 without line breaks or tabs)
Sealed = tuple[str, str, bytes]


def put_events(store: Store, key: str, events: Iterable[Sealed]) -> None:
    lines = [b"\t".join((subject.encode(), name.encode(), body)) for subject, name, body in events]
    # Level 1: the texts stand in it three times, which any level finds.
    store.write(_path(key), gzip.compress(b"\n".join(lines), compresslevel=1))


def get_events(store: Store, key: str) -> list[Sealed] | None:
    """The events of a deliberation, or None where there are none that can be read."""
    content = store.read(_path(key))
    if content is None:
        return None
    try:
        lines = [line.split(b"\t", 2) for line in gzip.decompress(content).split(b"\n")]
        return [(subject.decode(), name.decode(), body) for subject, name, body in lines]
    except (EOFError, OSError, ValueError, zlib.error):
        return None


def remove_events(store: Store, key: str) -> None:
    store.delete(_path(key))


def _path(key: str) -> str:
    return f"outbox/{checked_id(key)}.gz"
