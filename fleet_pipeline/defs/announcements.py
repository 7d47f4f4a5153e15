"""The events of finished deliberations: sent as their verdicts appear in the event log, sent again from
disk, or held against what the broker has.

The event log is the outbox's table of contents: it says what is finished, in order. The cursor into it
moves only after the broker's acks, so that after a crash events are sent again, under the same ids, and
none is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeVar

import dagster as dg

from fleet_pipeline.defs.display import STORAGE
from fleet_pipeline.deliberation.task import is_key
from fleet_pipeline.events.audit import stored_keys
from fleet_pipeline.events.completions import deliberation_events
from fleet_pipeline.events.envelope import Envelope, Sealed
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import Receipts, publish
from fleet_pipeline.storage.outbox import get_events, put_events, remove_events
from fleet_pipeline.storage.store import Damaged, StorageError, Store
from fleet_pipeline.storage.tables import read_rows, table_path

T = TypeVar("T")
VERDICTS = dg.AssetKey("deliberations")
PAGE = 500  # deliberations whose events are sent before the cursor moves
# Headers and protocol take room in the broker's payload limit as well.
HEADROOM = 1_024
UNBOUNDED = 1 << 62


class Judged(NamedTuple):
    """A verdict in the event log: which deliberation, and the storage its run wrote to."""

    key: str
    storage: str


@dataclass
class Announced:
    """What has been sent. `unreadable`: deliberations whose files are torn or gone, and why; their
    neighbours' events are sent all the same.
    """

    receipts: Receipts = field(default_factory=Receipts)
    unreadable: dict[str, str] = field(default_factory=dict)


def fill_outbox(store: Store, key: str) -> None:
    """Put the events of a deliberation, as the tables on disk have it, where they are quick to read.

    Where one of its tables is damaged there are none: who announces says so.
    """
    try:
        events = [event.sealed() for event in _from_tables(store, key, UNBOUNDED)]
    except Damaged:
        remove_events(store, key)
    else:
        put_events(store, key, events)


def announce(instance: dg.DagsterInstance, nats: NatsOptions, cursor: int, total: Announced) -> int:
    """Publish one page of verdicts after `cursor`, and add to `total`; returns the next cursor.

    Raises `BrokerUnavailable`, `StreamMismatch`.
    """
    verdicts, following = read_verdicts(instance, cursor)
    if verdicts:
        total.receipts += publish(nats, lambda max_bytes: _ready(verdicts, max_bytes, total.unreadable))
    return following


def read_verdicts(instance: dg.DagsterInstance, cursor: int, limit: int = PAGE) -> tuple[list[Judged], int]:
    """(verdicts after `cursor`, next cursor), oldest first, each deliberation once.

    A good verdict is a materialization and a bad one an observation, so that two logs are read.
    """
    # Read first: what is written between the two reads below must not count as read by both.
    newest = instance.event_log_storage.get_maximum_record_id() or 0
    filter_ = dg.AssetRecordsFilter(asset_key=VERDICTS, after_storage_id=cursor)
    good = instance.fetch_materializations(filter_, limit=limit, ascending=True).records
    bad = instance.fetch_observations(filter_, limit=limit, ascending=True).records
    logs = [
        [(r.storage_id, r.partition_key, r.asset_materialization.metadata) for r in good if r.asset_materialization],
        [(r.storage_id, r.partition_key, r.asset_observation.metadata) for r in bad if r.asset_observation],
    ]
    entries, following = merge(
        [[(at, Judged(key or "", _storage(found))) for at, key, found in log] for log in logs], cursor, limit, newest
    )
    return [judged for judged in entries if judged.key and judged.storage], following


def unannounced(instance: dg.DagsterInstance, nats: NatsOptions) -> frozenset[str]:
    """Keys whose verdicts the sensor `completions` has not come to, where there is a broker to announce them to."""
    states = [state for state in instance.all_instigator_state() if state.name == "completions"]
    if nats.url is None or not states:
        return frozenset()
    cursor = min(int(getattr(state.instigator_data, "cursor", None) or 0) for state in states)
    waiting: set[str] = set()
    while True:
        verdicts, following = read_verdicts(instance, cursor)
        if following == cursor:
            return frozenset(waiting)
        waiting |= {verdict.key for verdict in verdicts}
        cursor = following


def merge(logs: Sequence[Sequence[tuple[int, T]]], cursor: int, limit: int, newest: int) -> tuple[list[T], int]:
    """Merge pages of logs by position, up to where all of them have been read.

    A page of `limit` entries may have more behind it: entries of other logs beyond its end wait. So do those
    beyond `newest`, the last position when reading began.
    """
    full = [log[-1][0] for log in logs if len(log) == limit]
    last = max((position for log in logs for position, _ in log), default=cursor)
    end = max(cursor, min([*full, last, newest]))
    entries = sorted((entry for log in logs for entry in log if entry[0] <= end), key=lambda entry: entry[0])
    return list(dict.fromkeys(found for _, found in entries)), end


def finished_keys(store: Store, since: datetime | None, unreadable: MutableMapping[str, str]) -> list[str]:
    """Ids of the deliberations on disk that have finished, since then where a time is given."""
    keys = [key for key in store.names("deliberations", ".parquet") if is_key(key)]
    if since is None:
        return keys
    found = []
    for key in keys:
        try:
            rows = read_rows(store, "deliberations", key)
        except Damaged as error:
            unreadable[key] = str(error)
            continue
        finished = rows.column("finished_at")[0].as_py() if rows is not None and rows.num_rows else None
        if finished is not None and finished >= since:
            found.append(key)
    return found


def replay(store: Store, nats: NatsOptions, keys: Sequence[str], total: Announced) -> None:
    """Send all events of `keys` again, under their own idempotency keys.

    Inside the streams' duplicate window the broker drops what it has; beyond it, it stores them again,
    and consumers know them by their keys. Raises `BrokerUnavailable`, `StreamMismatch`.
    """
    _send(store, nats, keys, frozenset(), total)


def reconcile(store: Store, nats: NatsOptions, keys: Sequence[str], total: Announced) -> None:
    """Send those events of `keys` that the broker does not hold."""
    _send(store, nats, keys, stored_keys(nats), total)


def _send(store: Store, nats: NatsOptions, keys: Sequence[str], held: frozenset[str], total: Announced) -> None:
    def missing(keys: Sequence[str], max_bytes: int) -> Iterator[Sealed]:
        for key in keys:
            try:
                events = list(_from_tables(store, key, max_bytes - HEADROOM))
            except Damaged as error:
                total.unreadable[key] = str(error)
                continue
            yield from (event.sealed() for event in events if event.idempotency_key not in held)

    for start in range(0, len(keys), PAGE):
        page = keys[start : start + PAGE]
        total.receipts += publish(nats, lambda max_bytes, page=page: missing(page, max_bytes))  # type: ignore[misc]


def _ready(verdicts: Sequence[Judged], max_bytes: int, unreadable: MutableMapping[str, str]) -> Iterator[Sealed]:
    """Events from the outbox; from the tables where it has none that can be sent.

    What is damaged or gone costs its own events, and is told. Raises `StorageError` where the storage cannot be
    read: that passes, and the events wait.
    """
    stores: dict[str, Store] = {}
    for key, storage in verdicts:
        try:
            store = stores.get(storage) or stores.setdefault(storage, Store(storage))
        except StorageError as error:  # a run's own, of a kind that is not known here
            unreadable[key] = str(error)
            continue
        try:
            events: Sequence[Sealed] | None = get_events(store, key)
            if events is None or any(len(body) > max_bytes - HEADROOM for _, _, body in events):
                events = [event.sealed() for event in _from_tables(store, key, max_bytes - HEADROOM)]
        except Damaged as error:
            unreadable[key] = str(error)
            continue
        if not events:
            unreadable[key] = f"nothing of it is in {storage}: it was pruned, or that is not there now"
        yield from events


def _from_tables(store: Store, key: str, max_bytes: int) -> Iterator[Envelope]:
    """The events of a deliberation as the tables have it; one that was pruned has none."""
    verdict = read_rows(store, "deliberations", key)
    if verdict is None or not verdict.num_rows:
        return
    seats = read_rows(store, "proposals", key)
    said = read_rows(store, "utterances", key)
    columns = ("agent_id", "temperature")
    warmth = dict(zip(*(said.column(name).to_pylist() for name in columns), strict=True)) if said is not None else {}
    proposals = [
        {**seat, "temperature": warmth.get(seat["agent_id"])}
        for seat in (seats.to_pylist() if seats is not None else [])
    ]
    location = store.full_path(table_path("proposals", key))
    yield from deliberation_events(verdict.to_pylist()[0], proposals, location, max_bytes)


def _storage(found: Mapping[str, dg.MetadataValue]) -> str:
    """Materializations that are not ours, such as ones reported by hand in the UI, name no storage."""
    return str(found[STORAGE].value) if STORAGE in found else ""
