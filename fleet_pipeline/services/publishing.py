"""Publishes the events of finished deliberations: when their outcomes appear in the event log, again from disk, or
only those that the broker lacks.

The event log is the outbox's table of contents: it lists the finished deliberations in order. The cursor into it
moves only after the broker's acks. After a crash events are sent again under the same ids, and none is lost.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import dagster as dg

from fleet_pipeline.common.errors import CorruptFile, StorageError
from fleet_pipeline.deliberation.action_rows import Actions
from fleet_pipeline.deliberation.rows import OutcomeRow, UtteranceRow
from fleet_pipeline.deliberation.task import is_deliberation_id
from fleet_pipeline.events.completions import Temperatures, deliberation_events
from fleet_pipeline.events.connection import run_blocking
from fleet_pipeline.events.envelope import Envelope, Sealed
from fleet_pipeline.events.lookup import stored_keys
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import CHUNK, Receipts, publish
from fleet_pipeline.instance.event_log import PAGE, OutcomeRef, read_outcomes
from fleet_pipeline.instance.names import COMPLETIONS_SENSOR
from fleet_pipeline.services.outcomes import Outcome, read_actions
from fleet_pipeline.storage.outbox import get_events, put_events, remove_events
from fleet_pipeline.storage.schemas import DELIBERATIONS, PROPOSALS, UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_rows, table_path

# Bytes. Headers and protocol count towards the broker's payload limit as well.
HEADROOM = 1_024
UNBOUNDED = 1 << 62


@dataclass
class PublishSummary:
    """Result of publishing. `unreadable`: why files of a deliberation are torn or gone, by id. All others are sent."""

    receipts: Receipts = field(default_factory=Receipts)
    unreadable: dict[str, str] = field(default_factory=dict)


def fill_outbox(store: Store, outcome: Outcome) -> None:
    """Write the events of a deliberation into the outbox, where they are quick to read.

    A damaged table leaves no events in the outbox: `publish_pending` then reports the damage.
    """
    key = outcome.row.deliberation_id
    if outcome.damaged:
        remove_events(store, key)
        return
    location = store.full_path(table_path(PROPOSALS, key))
    temperatures = _temperatures(outcome.utterances)
    events = deliberation_events(outcome.row, outcome.seats, temperatures, location, UNBOUNDED, outcome.actions)
    put_events(store, key, [event.sealed() for event in events])


def publish_pending(
    instance: dg.DagsterInstance,
    nats: NatsOptions,
    cursor: int,
    total: PublishSummary,
    page: int = PAGE,
    chunk: int = CHUNK,
) -> int:
    """Publish one page of outcomes after `cursor` and add the result to `total`; returns the next cursor.

    Raises `BrokerUnavailable`, `StreamMismatch`.
    """
    outcomes, next_cursor = read_outcomes(instance, cursor, page)
    if outcomes:
        make_events = partial(_ready, outcomes, unreadable=total.unreadable)
        total.receipts += run_blocking(nats, partial(publish, make_events=make_events, chunk_size=chunk))
    return next_cursor


def unpublished(instance: dg.DagsterInstance, nats: NatsOptions) -> frozenset[str]:
    """Keys whose outcomes the sensor `completions` has not reached. Empty without a broker."""
    states = [state for state in instance.all_instigator_state() if state.name == COMPLETIONS_SENSOR]
    if nats.url is None or not states:
        return frozenset()
    cursor = min(int(getattr(state.instigator_data, "cursor", None) or 0) for state in states)
    waiting: set[str] = set()
    while True:
        outcomes, next_cursor = read_outcomes(instance, cursor)
        if next_cursor == cursor:
            return frozenset(waiting)
        waiting |= {outcome.key for outcome in outcomes}
        cursor = next_cursor


def finished_keys(store: Store, since: datetime | None, unreadable: MutableMapping[str, str]) -> list[str]:
    """Ids of the finished deliberations on disk: all, or those finished at or after `since`. Adds to `unreadable`."""
    keys = [key for key in store.names("deliberations", ".parquet") if is_deliberation_id(key)]
    if since is None:
        return keys
    recent = []
    for key in keys:
        try:
            rows = read_rows(store, DELIBERATIONS, key)
        except CorruptFile as error:
            unreadable[key] = str(error)
            continue
        if any(row.finished_at is not None and row.finished_at >= since for row in rows):
            recent.append(key)
    return recent


def replay(store: Store, nats: NatsOptions, keys: Sequence[str], total: PublishSummary) -> None:
    """Send all events of `keys` again, under their own idempotency keys.

    Within the streams' duplicate window the broker drops the events it has. After it, the broker stores them again,
    and consumers recognise them by their keys. Raises `BrokerUnavailable`, `StreamMismatch`.
    """
    _send(store, nats, keys, frozenset(), total)


def reconcile(store: Store, nats: NatsOptions, keys: Sequence[str], total: PublishSummary) -> None:
    """Send only the events of `keys` that the broker does not hold."""
    _send(store, nats, keys, run_blocking(nats, stored_keys), total)


def _send(store: Store, nats: NatsOptions, keys: Sequence[str], held: frozenset[str], total: PublishSummary) -> None:
    def missing(keys: Sequence[str], max_bytes: int) -> Iterator[Sealed]:
        for key in keys:
            try:
                events = list(_from_tables(store, key, max_bytes - HEADROOM))
            except CorruptFile as error:
                total.unreadable[key] = str(error)
                continue
            yield from (event.sealed() for event in events if event.idempotency_key not in held)

    async def send(connection: Any) -> None:
        for start in range(0, len(keys), PAGE):
            total.receipts += await publish(connection, partial(missing, keys[start : start + PAGE]))

    run_blocking(nats, send)


def _ready(outcomes: Sequence[OutcomeRef], max_bytes: int, unreadable: MutableMapping[str, str]) -> Iterator[Sealed]:
    """Events from the outbox, or from the tables if the outbox has none that can be sent.

    A damaged or missing deliberation loses only its own events and is added to `unreadable`. Raises `StorageError` if
    the storage cannot be read: that is transient, and the events wait.
    """
    stores: dict[str, Store] = {}
    for key, storage in outcomes:
        try:
            store = stores.get(storage) or stores.setdefault(storage, Store(storage))
        except StorageError as error:  # a run may name its own storage, of a kind unknown here
            unreadable[key] = str(error)
            continue
        try:
            events: Sequence[Sealed] | None = get_events(store, key)
            if events is None or any(len(body) > max_bytes - HEADROOM for _, _, body in events):
                events = [event.sealed() for event in _from_tables(store, key, max_bytes - HEADROOM)]
        except CorruptFile as error:
            unreadable[key] = str(error)
            continue
        if not events:
            unreadable[key] = f"nothing of it is in {storage}: it was pruned, or that is not there now"
        yield from events


def _from_tables(store: Store, key: str, max_bytes: int) -> Iterator[Envelope]:
    """The events of a deliberation, from its tables. A pruned deliberation has none."""
    for outcome in read_rows(store, DELIBERATIONS, key):
        seats, temperatures = read_rows(store, PROPOSALS, key), _temperatures(read_rows(store, UTTERANCES, key))
        location = store.full_path(table_path(PROPOSALS, key))
        yield from deliberation_events(outcome, seats, temperatures, location, max_bytes, _actions(store, outcome))


def _actions(store: Store, outcome: OutcomeRow) -> Actions | None:
    return read_actions(store, outcome.deliberation_id, outcome.fingerprint) if outcome.tools else None


def _temperatures(utterances: Sequence[UtteranceRow]) -> Temperatures:
    return {utterance.agent_id: utterance.temperature for utterance in utterances}
