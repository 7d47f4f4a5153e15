"""The events of deliberations as they stand on disk: sent, sent again, or held against what the broker has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from fleet_pipeline.events.audit import stored_keys
from fleet_pipeline.events.completions import deliberation_events
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import Receipts, publish
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows, table_path

PAGE = 100  # deliberations whose events are under way together


class Judged(NamedTuple):
    """A verdict in the event log: which deliberation, and the storage its run wrote to."""

    key: str
    storage: str


def events(verdicts: Sequence[Judged], max_bytes: int) -> Iterator[Envelope]:
    """The completion events of deliberations as they stand on disk; pruned ones have none."""
    for key, storage in verdicts:
        store = Store(storage)
        verdict = read_rows(store, "deliberations", key)
        if verdict is None or not verdict.num_rows:
            continue
        seats = read_rows(store, "proposals", key)
        yield from deliberation_events(
            verdict.to_pylist()[0],
            seats.to_pylist() if seats is not None else [],
            store.full_path(table_path("proposals", key)),
            # Headers and protocol take room in the payload limit as well.
            max_bytes - 1_024,
        )


def finished_keys(store: Store, since: datetime | None) -> list[str]:
    """Ids of the deliberations on disk that have finished, since then where a time is given."""
    keys = store.names("deliberations", ".parquet")
    if since is None:
        return keys
    return [key for key in keys if (finished := _finished(store, key)) is not None and finished >= since]


def replay(store: Store, nats: NatsOptions, keys: Sequence[str]) -> Receipts:
    """Send all events of `keys` again, under their own idempotency keys.

    Inside the streams' duplicate window the broker drops what it has; beyond it, it stores them again,
    and consumers know them by their keys. Raises `BrokerUnavailable`, `StreamMismatch`.
    """
    return _send(store, nats, keys, frozenset())


def reconcile(store: Store, nats: NatsOptions, keys: Sequence[str]) -> Receipts:
    """Send those events of `keys` that the broker does not hold."""
    return _send(store, nats, keys, stored_keys(nats))


def _send(store: Store, nats: NatsOptions, keys: Sequence[str], held: frozenset[str]) -> Receipts:
    total = Receipts()
    for start in range(0, len(keys), PAGE):
        judged = [Judged(key, store.url) for key in keys[start : start + PAGE]]

        def missing(max_bytes: int, judged: Sequence[Judged] = judged) -> Iterator[Envelope]:
            return (event for event in events(judged, max_bytes) if event.idempotency_key not in held)

        total += publish(nats, missing)
    return total


def _finished(store: Store, key: str) -> datetime | None:
    rows = read_rows(store, "deliberations", key)
    found: datetime | None = rows.column("finished_at")[0].as_py() if rows is not None and rows.num_rows else None
    return found
