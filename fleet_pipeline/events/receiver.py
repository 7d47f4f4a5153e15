"""Taking requests from JetStream: durable consumers, explicit acks, bounded redelivery, a place for poison.

A message is acknowledged after what it asks for is durable, or after the poison stream has it with the
reason. Anything else, a crash included, brings it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet_pipeline.common.errors import StreamMismatch
from fleet_pipeline.common.messages import PLAN_APPROVED, REQUESTED, Received
from fleet_pipeline.events.connection import connect, run_blocking
from fleet_pipeline.events.consumer import PullConsumer
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import DAY, PLANS, POISON, REQUESTS, Stream, ensure_streams

POISON_CONTENT_BYTES = 64_000
MOST_REASON = 4_000
MOST_POISON = 500  # under way at once
REQUEST_HEADER = "Fleet-Request"
ACKED = 30.0  # seconds within which the broker must answer

# Returns, for each message, why it cannot be taken, or None where what it asks for is durable.
Take = Callable[[Sequence[Received]], Sequence[str | None]]


@dataclass(frozen=True)
class DeliveryPolicy:
    """When a message that could not be taken comes again, and when it is given up."""

    # The first exceeds a tick of the sensor (60 s at most), so that nothing comes again while it is being taken.
    backoff_seconds: tuple[float, ...] = (75.0, 120.0, 300.0, 900.0)
    # About four and a half hours of outage, after which a request is put where people look.
    most_deliveries: int = 20
    # Up to so many deliveries messages are taken together, with one write; after that one by one.
    together: int = 3
    # How long requests are waited for at a time. Those that come meanwhile are taken together.
    slice_seconds: float = 0.25
    # How far back a stream of another service is read when its consumer is first made.
    recent_seconds: float = DAY


@dataclass(frozen=True)
class Source:
    """Where requests come from: a durable consumer on a stream."""

    durable: str
    subject: str
    stream: Stream
    poison: str
    # Another service's stream keeps 30 days: plans approved long before we came are not ours to refuse.
    recent_only: bool = False


SOURCES = (
    Source("fleet-requests", REQUESTED, REQUESTS, "fleet.poison.request"),
    Source("fleet-plans", PLAN_APPROVED, PLANS, "fleet.poison.plan", recent_only=True),
)


@dataclass
class Counts:
    """`failures`: messages that come again, and what went wrong with them."""

    taken: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def receive(
    options: NatsOptions,
    take: Take,
    *,
    wait_seconds: float,
    work_seconds: float,
    batch: int,
    policy: DeliveryPolicy = DeliveryPolicy(),
) -> Counts:
    """Hand waiting requests to `take`, up to `batch` at a time, until no more wait.

    Waits up to `wait_seconds` for the first; begins no further batch after `work_seconds`. Raises
    `BrokerUnavailable`, `StreamMismatch`, and what `take` raises: its messages then come again.
    """
    return run_blocking(options, _receive(options, take, wait_seconds, work_seconds, batch, policy))


async def _receive(
    options: NatsOptions, take: Take, wait: float, work: float, batch: int, policy: DeliveryPolicy
) -> Counts:
    began, counts = time.monotonic(), Counts()
    async with connect(options) as connection:
        jetstream = connection.jetstream()
        await ensure_streams(jetstream, (REQUESTS, PLANS, POISON))
        consumers = [(source, await _consumer(connection, jetstream, source, policy)) for source in SOURCES]
        while True:
            pulled = await asyncio.gather(*(consumer.pull(batch, policy.slice_seconds) for _, consumer in consumers))
            came = [
                (source, message)
                for (source, _), (found, _) in zip(consumers, pulled, strict=True)
                for message in found
            ]
            if came:
                await _handle(connection, jetstream, came, take, counts, policy)
            handled, spent = counts.taken + counts.refused, time.monotonic() - began
            no_more = not came or not any(more for _, more in pulled)
            if (handled and no_more) or spent > (work if handled else wait):
                return counts


async def _handle(
    connection: Any, jetstream: Any, came: list[tuple[Source, Any]], take: Take, counts: Counts, policy: DeliveryPolicy
) -> None:
    received = [_received(source, message) for source, message in came]
    answers = _answers(take, received, policy)
    told = [
        (source, message, answer)
        for (source, _), message, answer in zip(came, received, answers, strict=True)
        if isinstance(answer, str)
    ]
    for start in range(0, len(told), MOST_POISON):
        poison = [
            jetstream.publish(source.poison, _poisoned(source, message, reason), headers=_headers(message))
            for source, message, reason in told[start : start + MOST_POISON]
        ]
        await asyncio.wait_for(asyncio.gather(*poison), ACKED)
    for (_, message), answer in zip(came, answers, strict=True):
        if not isinstance(answer, Exception):
            await (message.ack() if answer is None else message.term())
    await connection.flush()
    counts.refused += len(told)
    counts.taken += answers.count(None)
    counts.failures += [
        f"message {message.sequence} of {message.stream} could not be taken and comes again: {answer!r}"
        for message, answer in zip(received, answers, strict=True)
        if isinstance(answer, Exception)
    ]


def _answers(take: Take, received: Sequence[Received], policy: DeliveryPolicy) -> list[str | Exception | None]:
    """What `take` says of each message. One that makes it fail must not hold its neighbours for ever: when messages
    have come a few times they are handed over one by one, and those that fail come again.
    """
    tired = f"it has come {policy.most_deliveries} times and never could be taken"
    fit = [message for message in received if message.deliveries <= policy.most_deliveries]
    if all(message.deliveries <= policy.together for message in fit):
        answers: list[str | Exception | None] = list(take(fit))
    else:
        answers = [_alone(take, message) for message in fit]
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if failures and len(failures) == len(received):
            raise failures[0]
    found = iter(answers)
    return [next(found) if message.deliveries <= policy.most_deliveries else tired for message in received]


def _alone(take: Take, message: Received) -> str | Exception | None:
    try:
        return take([message])[0]
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
        return error


def _received(source: Source, message: Any) -> Received:
    about = message.metadata
    return Received(
        subject=source.subject,
        content=message.data,
        id=_clean((message.headers or {}).get("Nats-Msg-Id", ""))[:500] or f"{about.stream}:{about.sequence.stream}",
        stream=about.stream,
        sequence=about.sequence.stream,
        sent_at=about.timestamp,
        deliveries=about.num_delivered,
    )


def _poisoned(source: Source, message: Received, reason: str) -> bytes:
    beginning = message.content[:POISON_CONTENT_BYTES]
    payload = {
        "reason": _clean(reason)[:MOST_REASON],
        "subject": message.subject,
        "stream": message.stream,
        "sequence": message.sequence,
        "request_id": message.id,
        "sent_at": message.sent_at.isoformat(),
        "bytes": len(message.content),
        "sha256": hashlib.sha256(message.content).hexdigest(),
        "content": beginning.decode("utf-8", "replace"),
        "content_is_whole": len(beginning) == len(message.content),
    }
    return Envelope(
        event_type=source.poison, idempotency_key=_name(message), correlation_id=message.id, payload=payload
    ).sealed()[2]


def _headers(message: Received) -> dict[str, str]:
    # Whoever asked looks for the id without reading what was sent. A header is one line.
    return {"Nats-Msg-Id": _name(message), REQUEST_HEADER: " ".join(message.id.split())}


def _name(message: Received) -> str:
    return f"poison:{message.stream}:{message.sequence}"


def _clean(text: str) -> str:
    """JSON can name code points that are no characters, and reasons repeat the names of fields."""
    return text.encode("utf-8", "replace").decode()


async def _consumer(connection: Any, jetstream: Any, source: Source, policy: DeliveryPolicy) -> PullConsumer:
    """Bind to the durable consumer; make it where it is absent, and never change it where it is not."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.js.errors import NotFoundError

    stream = await stream_of(jetstream, source)
    try:
        found = (await jetstream.consumer_info(stream, source.durable)).config
    except NotFoundError:
        start: dict[str, Any] = {"deliver_policy": DeliverPolicy.ALL}
        if source.recent_only:
            since = datetime.now(UTC) - timedelta(seconds=policy.recent_seconds)
            start = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": since}
        config = ConsumerConfig(
            durable_name=source.durable,
            filter_subject=source.subject,
            **start,
            ack_policy=AckPolicy.EXPLICIT,
            # Beyond `most_deliveries`, so that it is our hand that puts it away, with a reason.
            max_deliver=policy.most_deliveries + 10,
            backoff=list(policy.backoff_seconds),
            max_ack_pending=20_000,
        )
        await jetstream.add_consumer(stream, config)
    else:
        if found.filter_subject != source.subject or found.ack_policy != AckPolicy.EXPLICIT:
            raise StreamMismatch(
                f"consumer {source.durable} of stream {stream} is not ours: it takes {found.filter_subject} with "
                f"acks {found.ack_policy}; remove it with `nats consumer rm {stream} {source.durable}`"
            )
    return await PullConsumer(connection, stream, source.durable).open()


async def stream_of(jetstream: Any, source: Source) -> str:
    """The stream that takes the subject, which may have another name than ours."""
    from nats.js.errors import NotFoundError

    try:
        await jetstream.stream_info(source.stream.name)
    except NotFoundError:
        name: str = await jetstream.find_stream_name_by_subject(source.subject)
        return name
    return source.stream.name
