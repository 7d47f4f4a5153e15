"""Publishing events: every ack is awaited, and `Nats-Msg-Id` lets the broker drop repeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fleet_pipeline.events.envelope import Sealed
from fleet_pipeline.events.streams import PUBLISHED_STREAMS, STREAMS, Stream, ensure_streams, largest_message

ACK_TIMEOUT_SECONDS = 10.0
LOOK_SECONDS = 0.25  # between two looks at whether the broker refuses what is sent
# Events sent at a time. Up to two chunks wait for their acks at once, and each event may be a megabyte.
CHUNK = 128
Sent = tuple[str, asyncio.Future[Any]]  # an idempotency key and the broker's ack


@dataclass(frozen=True)
class Receipts:
    """Idempotency keys that the broker acknowledged: those it stored now, and those it already had."""

    stored: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stored or self.duplicates)

    def __add__(self, other: Receipts) -> Receipts:
        return Receipts(self.stored + other.stored, self.duplicates + other.duplicates)


MakeEvents = Callable[[int], Iterable[Sealed]]


async def publish(connection: Any, make_events: MakeEvents, chunk_size: int = CHUNK) -> Receipts:
    """Send `make_events(largest payload in bytes)` to JetStream; return once every ack has arrived.

    Raises `TimeoutError` if an ack is missing: some events may then be stored, and sending all of them again is safe. Raises `StreamMismatch` if a stream would lose events.
    """
    jetstream = connection.jetstream(publish_async_max_pending=2 * chunk_size)
    await ensure_streams(jetstream, PUBLISHED_STREAMS)
    events = iter(make_events(await largest_message(jetstream, PUBLISHED_STREAMS, connection.max_payload)))
    stored: list[str] = []
    duplicates: list[str] = []
    unacknowledged: list[Sent] = []
    while chunk := list(islice(events, chunk_size)):
        # No `wait_stall`: its timer would send every event in a packet of its own.
        sent = [
            (key, await jetstream.publish_async(subject, body, headers={"Nats-Msg-Id": key}))
            for subject, key, body in chunk
        ]
        await _settle(connection, unacknowledged, stored, duplicates)
        unacknowledged = sent
    await _settle(connection, unacknowledged, stored, duplicates)
    return Receipts(tuple(stored), tuple(duplicates))


async def prepare_broker(connection: Any, streams: tuple[Stream, ...] = STREAMS, replicas: int = 1) -> list[str]:
    """Make sure that the broker has `streams`; returns harmless differences as sentences. Raises `StreamMismatch`."""
    return await ensure_streams(connection.jetstream(), streams, replicas)


async def _settle(connection: Any, sent: Sequence[Sent], stored: list[str], duplicates: list[str]) -> None:
    """Wait for acks. Raises the broker's error for a rejected event, and `TimeoutError` if an ack is missing."""
    if not sent:
        return
    late = {ack for _, ack in sent}
    deadline, known = time.monotonic() + ACK_TIMEOUT_SECONDS, len(connection.refusals)
    while late and len(connection.refusals) == known and time.monotonic() < deadline:
        _, late = await asyncio.wait(late, timeout=LOOK_SECONDS)
    if late:
        raise TimeoutError(f"{len(late)} of {len(sent)} events were not acknowledged in {ACK_TIMEOUT_SECONDS:g} s")
    for key, ack in sent:
        (duplicates if ack.result().duplicate else stored).append(key)
