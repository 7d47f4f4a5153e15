"""Sending events: awaited acks, `Nats-Msg-Id` so that a repeat is dropped by the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fleet_pipeline.events.connection import ask, connect
from fleet_pipeline.events.envelope import Sealed
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import ANNOUNCING, STREAMS, Stream, ensure_streams

ACK_TIMEOUT_SECONDS = 10.0
# Events under way without an ack. Each may be a megabyte.
MOST_PENDING = 256


@dataclass(frozen=True)
class Receipts:
    """What the broker acknowledged: the idempotency keys it stored, and those it knew already."""

    stored: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()

    def __add__(self, other: Receipts) -> Receipts:
        return Receipts(self.stored + other.stored, self.duplicates + other.duplicates)


MakeEvents = Callable[[int], Iterable[Sealed]]


def publish(options: NatsOptions, make_events: MakeEvents) -> Receipts:
    """Send `make_events(largest payload in bytes)` to JetStream; return when every ack is in.

    Raises `BrokerUnavailable` when one is missing: some events may then be stored, and sending all
    of them again is safe. Raises `StreamMismatch` where a stream would lose them.
    """
    return ask(options, _publish(options, make_events))


def check(options: NatsOptions, streams: tuple[Stream, ...] = STREAMS) -> list[str]:
    """Make sure that the broker answers and has `streams`; returns what differs without harm.

    Raises `BrokerUnavailable` and `StreamMismatch`.
    """
    return ask(options, _check(options, streams))


async def _check(options: NatsOptions, streams: tuple[Stream, ...]) -> list[str]:
    async with connect(options) as connection:
        return await ensure_streams(connection.jetstream(), streams)


async def _publish(options: NatsOptions, make_events: MakeEvents) -> Receipts:
    async with connect(options) as connection:
        jetstream = connection.jetstream(publish_async_max_pending=MOST_PENDING)
        await ensure_streams(jetstream, ANNOUNCING)
        sent: list[tuple[str, asyncio.Future[Any]]] = []
        for subject, key, body in make_events(connection.max_payload):
            ack = await jetstream.publish_async(
                subject, body, wait_stall=ACK_TIMEOUT_SECONDS, headers={"Nats-Msg-Id": key}
            )
            sent.append((key, ack))
        if sent:
            _, late = await asyncio.wait([ack for _, ack in sent], timeout=ACK_TIMEOUT_SECONDS)
            if late:
                raise TimeoutError(
                    f"{len(late)} of {len(sent)} events were not acknowledged in {ACK_TIMEOUT_SECONDS:g} s"
                )
        acks = [(key, ack.result()) for key, ack in sent]
        return Receipts(
            stored=tuple(key for key, ack in acks if not ack.duplicate),
            duplicates=tuple(key for key, ack in acks if ack.duplicate),
        )
