"""Taking requests from JetStream: durable consumers, explicit acks, bounded redelivery, a place for poison.

A message is acknowledged after what it asks for is durable, or after the poison stream has it with the
reason. Anything else, a crash included, brings it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet_pipeline.deliberation.entries import BadRecord, parse_entry
from fleet_pipeline.deliberation.task import deliberation_id
from fleet_pipeline.events.connection import ask, connect
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.requests import PLAN_APPROVED, REQUESTED, Received
from fleet_pipeline.events.streams import DAY, PLANS, POISON, REQUESTS, Stream, StreamMismatch, ensure_streams

# The first exceeds a tick of the sensor (60 s at most), so that nothing comes again while it is being taken.
BACKOFF_SECONDS = (75.0, 120.0, 300.0, 900.0)
# About four and a half hours of outage, after which a request is put where people look.
MOST_DELIVERIES = 20
# How long requests are waited for at a time. Those that come meanwhile are taken together.
SLICE_SECONDS = 0.25
POISON_CONTENT_BYTES = 64_000
ACKED = 30.0  # seconds within which the broker must answer

# Returns, for each message, why it cannot be taken, or None where what it asks for is durable.
Take = Callable[[Sequence[Received]], Sequence[str | None]]


@dataclass(frozen=True)
class Source:
    """Where requests come from: a durable consumer on a stream."""

    durable: str
    subject: str
    stream: Stream
    poison: str
    # Another service's stream keeps 30 days: plans approved long before we came are not ours to refuse.
    from_age_seconds: float | None = None


SOURCES = (
    Source("fleet-requests", REQUESTED, REQUESTS, "fleet.poison.request"),
    Source("fleet-plans", PLAN_APPROVED, PLANS, "fleet.poison.plan", from_age_seconds=DAY),
)


@dataclass
class Counts:
    taken: int = 0
    refused: int = 0


def receive(options: NatsOptions, take: Take, *, wait_seconds: float, work_seconds: float, batch: int) -> Counts:
    """Hand waiting requests to `take`, up to `batch` at a time, until no more wait.

    Waits up to `wait_seconds` for the first; begins no further batch after `work_seconds`. Raises
    `BrokerUnavailable`, `StreamMismatch`, and what `take` raises: its messages then come again.
    """
    return ask(options, _receive(options, take, wait_seconds, work_seconds, batch))


def waiting(options: NatsOptions) -> dict[str, int]:
    """How many messages have not been taken yet, by subject, and how many lie in the poison stream."""
    return ask(options, _waiting(options))


def is_waiting(options: NatsOptions, deliberation: str) -> bool:
    """Whether a request for this deliberation has come in and has not been taken yet."""
    return ask(options, _is_waiting(options, deliberation))


async def _receive(options: NatsOptions, take: Take, wait: float, work: float, batch: int) -> Counts:
    began, counts, ending = time.monotonic(), Counts(), False
    async with connect(options) as connection:
        jetstream = connection.jetstream()
        await ensure_streams(jetstream, (REQUESTS, PLANS, POISON))
        inlets = [(source, await _subscribe(jetstream, source)) for source in SOURCES]
        while True:
            fetched = await asyncio.gather(*(_fetch(subscription, batch) for _, subscription in inlets))
            came = [(source, message) for (source, _), found in zip(inlets, fetched, strict=True) for message in found]
            if came:
                await _handle(connection, jetstream, came, take, counts)
            handled, spent = counts.taken + counts.refused, time.monotonic() - began
            if handled and not came:
                return counts
            if came and max(map(len, fetched)) < batch and not await _under_way(inlets):
                return counts
            if spent > (work if handled else wait):
                if came or ending or not await _under_way(inlets):
                    return counts
                ending = True  # one look more, for what was sent to us as the last one ended


async def _under_way(inlets: Sequence[tuple[Source, Any]]) -> bool:
    """Whether messages have been sent to us that have not arrived: left behind, they would come again, but late."""
    return any([(await subscription.consumer_info()).num_ack_pending for _, subscription in inlets])


async def _fetch(subscription: Any, batch: int) -> list[Any]:
    try:
        found: list[Any] = await subscription.fetch(batch, timeout=SLICE_SECONDS)
    except TimeoutError:
        return []
    return found


async def _handle(connection: Any, jetstream: Any, came: list[tuple[Source, Any]], take: Take, counts: Counts) -> None:
    received = [_received(source, message) for source, message in came]
    fit = [number for number, message in enumerate(received) if message.deliveries <= MOST_DELIVERIES]
    reasons: list[str | None] = [f"it has come {MOST_DELIVERIES} times and never could be taken"] * len(received)
    for number, reason in zip(fit, take([received[number] for number in fit]), strict=True):
        reasons[number] = reason
    poison = [
        jetstream.publish(source.poison, _poisoned(source, message, reason), headers={"Nats-Msg-Id": _name(message)})
        for (source, _), message, reason in zip(came, received, reasons, strict=True)
        if reason is not None
    ]
    await asyncio.wait_for(asyncio.gather(*poison), ACKED)
    for (_, message), reason in zip(came, reasons, strict=True):
        await (message.ack() if reason is None else message.term())
    await connection.flush()
    counts.refused += len(poison)
    counts.taken += len(received) - len(poison)


def _received(source: Source, message: Any) -> Received:
    about = message.metadata
    return Received(
        subject=source.subject,
        content=message.data,
        id=(message.headers or {}).get("Nats-Msg-Id") or f"{about.stream}:{about.sequence.stream}",
        stream=about.stream,
        sequence=about.sequence.stream,
        sent_at=about.timestamp,
        deliveries=about.num_delivered,
    )


def _poisoned(source: Source, message: Received, reason: str) -> bytes:
    beginning = message.content[:POISON_CONTENT_BYTES]
    payload = {
        "reason": _clean(reason),
        "subject": message.subject,
        "stream": message.stream,
        "sequence": message.sequence,
        "request_id": _clean(message.id),
        "sent_at": message.sent_at.isoformat(),
        "bytes": len(message.content),
        "sha256": hashlib.sha256(message.content).hexdigest(),
        "content": beginning.decode("utf-8", "replace"),
        "content_is_whole": len(beginning) == len(message.content),
    }
    return Envelope(
        event_type=source.poison, idempotency_key=_name(message), correlation_id=_clean(message.id), payload=payload
    ).sealed()[2]


def _name(message: Received) -> str:
    return f"poison:{message.stream}:{message.sequence}"


def _clean(text: str) -> str:
    """JSON can name code points that are no characters, and reasons repeat the names of fields."""
    return text.encode("utf-8", "replace").decode()


async def _subscribe(jetstream: Any, source: Source) -> Any:
    """Bind to the durable consumer; make it where it is absent, and never change it where it is not."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.js.errors import NotFoundError

    stream = await _stream_of(jetstream, source)
    try:
        found = (await jetstream.consumer_info(stream, source.durable)).config
    except NotFoundError:
        start: dict[str, Any] = {"deliver_policy": DeliverPolicy.ALL}
        if source.from_age_seconds is not None:
            since = datetime.now(UTC) - timedelta(seconds=source.from_age_seconds)
            start = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": since}
        config = ConsumerConfig(
            durable_name=source.durable,
            filter_subject=source.subject,
            **start,
            ack_policy=AckPolicy.EXPLICIT,
            # Beyond MOST_DELIVERIES, so that it is our hand that puts it away, with a reason.
            max_deliver=MOST_DELIVERIES + 10,
            backoff=list(BACKOFF_SECONDS),
            max_ack_pending=20_000,
        )
        await jetstream.add_consumer(stream, config)
    else:
        if found.filter_subject != source.subject or found.ack_policy != AckPolicy.EXPLICIT:
            raise StreamMismatch(
                f"consumer {source.durable} of stream {stream} is not ours: it takes {found.filter_subject} with "
                f"acks {found.ack_policy}; remove it with `nats consumer rm {stream} {source.durable}`"
            )
    return await jetstream.pull_subscribe_bind(source.durable, stream)


async def _stream_of(jetstream: Any, source: Source) -> str:
    """The stream that takes the subject, which may have another name than ours."""
    from nats.js.errors import NotFoundError

    try:
        await jetstream.stream_info(source.stream.name)
    except NotFoundError:
        name: str = await jetstream.find_stream_name_by_subject(source.subject)
        return name
    return source.stream.name


async def _is_waiting(options: NatsOptions, deliberation: str) -> bool:
    """Reads what has come after the consumers' last ack, with a consumer of its own that leaves nothing behind."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.js.errors import NotFoundError

    task_id = deliberation.rpartition(".")[0].encode()
    async with connect(options) as connection:
        jetstream = connection.jetstream()
        for source in SOURCES:
            start = 1
            with suppress(NotFoundError):
                stream = await _stream_of(jetstream, source)
                with suppress(NotFoundError):
                    start = (await jetstream.consumer_info(stream, source.durable)).ack_floor.stream_seq + 1
                config = ConsumerConfig(
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=start,
                    ack_policy=AckPolicy.NONE,
                    inactive_threshold=30.0,
                )
                subscription = await jetstream.pull_subscribe(source.subject, stream=stream, config=config)
                left = (await subscription.consumer_info()).num_pending
                while left > 0:
                    messages = await subscription.fetch(min(500, left), timeout=ACKED)
                    # Most messages speak of other tasks, and are told by that alone.
                    if any(task_id in message.data and _asks_for(message.data, deliberation) for message in messages):
                        return True
                    left -= len(messages)
    return False


def _asks_for(content: bytes, deliberation: str) -> bool:
    try:
        found = parse_entry(content)
        fields = found.get("payload", found)
        roles = fields.get("roles") or ["DEV"]
        named = fields.get("task_id") or fields.get("plan_id")
        return any(
            deliberation_id(named, str(role)) == deliberation for role in ([roles] if isinstance(roles, str) else roles)
        )
    except (BadRecord, AttributeError, TypeError):
        return False


async def _waiting(options: NatsOptions) -> dict[str, int]:
    from nats.js.errors import NotFoundError

    async with connect(options) as connection:
        jetstream = connection.jetstream()
        counts = dict.fromkeys((REQUESTED, PLAN_APPROVED, "poison"), 0)
        for source in SOURCES:
            with suppress(NotFoundError):
                stream = await _stream_of(jetstream, source)
                try:
                    about = await jetstream.consumer_info(stream, source.durable)
                    counts[source.subject] = about.num_pending + about.num_ack_pending
                except NotFoundError:  # nobody has looked for requests yet
                    state = (await jetstream.stream_info(stream, subjects_filter=source.subject)).state
                    counts[source.subject] = (state.subjects or {}).get(source.subject, 0)
        with suppress(NotFoundError):
            counts["poison"] = (await jetstream.stream_info(POISON.name)).state.messages
        return counts
