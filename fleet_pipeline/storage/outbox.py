"""The outbox: events of a finished deliberation, ready to be published: `<storage>/outbox/<deliberation_id>.gz`.

It is a cache of the Parquet tables, written with the outcome. Where a file is absent or torn, the events are made
again from the tables. It exists for speed: reading two Parquet files and building five events takes 2.5 ms, reading
this file takes 0.1 ms, and a night has 10,000 deliberations.

A file is gzipped and has one line per event: subject, idempotency key and body, separated by tabs.
"""

import gzip
import zlib
from collections.abc import Iterable

from fleet_pipeline.deliberation.task import checked_id
from fleet_pipeline.storage.store import Store

# (subject, idempotency key, JSON in UTF-8 without line breaks or tabs)
Sealed = tuple[str, str, bytes]


def put_events(store: Store, key: str, events: Iterable[Sealed]) -> None:
    lines = [b"\t".join((subject.encode(), event_key.encode(), body)) for subject, event_key, body in events]
    # Level 1: each text occurs three times, and any level finds the repetition.
    store.write(_path(key), gzip.compress(b"\n".join(lines), compresslevel=1), synced=False)


def get_events(store: Store, key: str) -> list[Sealed] | None:
    """The events of a deliberation; None where its file is absent or cannot be read."""
    content = store.read(_path(key))
    if content is None:
        return None
    try:
        lines = [line.split(b"\t", 2) for line in gzip.decompress(content).split(b"\n")]
        return [(subject.decode(), event_key.decode(), body) for subject, event_key, body in lines]
    except (EOFError, OSError, ValueError, zlib.error):
        return None


def remove_events(store: Store, key: str) -> None:
    store.delete(_path(key))


def _path(key: str) -> str:
    return f"outbox/{checked_id(key)}.gz"
