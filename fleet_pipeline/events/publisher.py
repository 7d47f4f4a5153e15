"""Sending events: awaited acks, `Nats-Msg-Id` so that a repeat is dropped by the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.streams import ensure_streams

T = TypeVar("T")
ACK_TIMEOUT_SECONDS = 10.0


class BrokerUnavailable(RuntimeError):
    """The broker cannot be reached or did not acknowledge. Sending again later is safe."""


@dataclass(frozen=True)
class Receipts:
    """What the broker acknowledged: the idempotency keys it stored, and those it knew already."""

    stored: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()

    def __add__(self, other: Receipts) -> Receipts:
        return Receipts(self.stored + other.stored, self.duplicates + other.duplicates)


MakeEvents = Callable[[int], Iterable[Envelope]]


def publish(url: str, make_events: MakeEvents) -> Receipts:
    """Send `make_events(largest payload in bytes)` to JetStream; return when every ack is in.

    Raises `BrokerUnavailable` when one is missing: some events may then be stored, and sending all
    of them again is safe.
    """
    return _ask(url, _publish(url, make_events))


def check(url: str) -> None:
    """Make sure that the broker answers and has JetStream. Raises `BrokerUnavailable`."""
    _ask(url, _publish(url, lambda _: ()))


def _ask(url: str, conversation: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(conversation)
    except (OSError, TimeoutError, _nats_error()) as error:
        detail = str(error) or "no answer"
        raise BrokerUnavailable(f"NATS at {without_secrets(url)}: {type(error).__name__}: {detail}") from error


async def _publish(url: str, make_events: MakeEvents) -> Receipts:
    async with connect(url) as connection:
        jetstream = connection.jetstream()
        await ensure_streams(jetstream)
        receipts = Receipts()
        for event in make_events(connection.max_payload):
            ack = await jetstream.publish(
                event.event_type,
                event.model_dump_json().encode(),
                timeout=ACK_TIMEOUT_SECONDS,
                headers={"Nats-Msg-Id": event.idempotency_key},
            )
            key = (event.idempotency_key,)
            receipts += Receipts(duplicates=key) if ack.duplicate else Receipts(stored=key)
        return receipts


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Any]:
    """A connection that fails in seconds when there is no broker, and is always closed."""
    import nats

    async def ignore(_: Exception) -> None:
        """Every failure reaches the caller as an exception; nats-py would log each attempt as well."""

    connection = await nats.connect(
        url,
        name="fleet-pipeline",
        connect_timeout=5,
        allow_reconnect=False,
        # The first connection counts as one, and the default is 60 attempts, 2 s apart.
        max_reconnect_attempts=1,
        reconnect_time_wait=0.1,
        error_cb=ignore,
    )
    try:
        yield connection
    finally:
        await connection.close()


def without_secrets(url: str) -> str:
    """The URL as logs may show it."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _nats_error() -> type[Exception]:
    import nats.errors

    error: type[Exception] = nats.errors.Error
    return error
