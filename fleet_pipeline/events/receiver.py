"""Taking requests from JetStream: durable consumers, explicit acks, bounded redelivery, a poison stream.

A message is acknowledged once its request is durable, or once the poison stream holds it with the
reason. In every other case, a crash included, the broker delivers it again.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet_pipeline.common.errors import StreamMismatch
from fleet_pipeline.common.messages import EXECUTE, PLAN_APPROVED, REQUESTED, Received
from fleet_pipeline.events.consumer import PullConsumer
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.payloads import Poisoned
from fleet_pipeline.events.streams import ASKED_STREAMS, COMMANDS, DAY, PLANS, POISON, REQUESTS, Stream, ensure_streams

POISON_CONTENT_BYTES = 64_000
MOST_REASON = 4_000
MOST_POISON = 500  # unacknowledged at once
REQUEST_HEADER = "Fleet-Request"
ACKED = 30.0  # seconds for the broker to acknowledge poison messages

# Returns for each message the reason it cannot be taken, or None if its request is durable.
Take = Callable[[Sequence[Received]], Sequence[str | None]]


@dataclass(frozen=True)
class DeliveryPolicy:
    """When a message that could not be taken is delivered again, and when it is given up."""

    # The first exceeds a sensor tick (60 s at most), so no message is redelivered while it is being taken.
    backoff_seconds: tuple[float, ...] = (75.0, 120.0, 300.0, 900.0)
    # About four and a half hours of outage. Then a request goes to the poison stream, where people look.
    most_deliveries: int = 20
    # Up to this many deliveries, messages are taken together, with one write. After that, one by one.
    together: int = 3
    # Duration of one pull. Requests that arrive during it are taken together.
    slice_seconds: float = 0.25
    # How far back another service's stream is read when our consumer is created.
    recent_seconds: float = DAY


@dataclass(frozen=True)
class Source:
    """A source of requests: a durable consumer on a stream."""

    durable: str
    subject: str
    stream: Stream
    poison: str
    # Another service's stream keeps 30 days. Plans approved long before our first start are not ours to reject.
    recent_only: bool = False


SOURCES = (
    Source("fleet-requests", REQUESTED, REQUESTS, "fleet.poison.request"),
    Source("fleet-plans", PLAN_APPROVED, PLANS, "fleet.poison.plan", recent_only=True),
    Source("fleet-commands", EXECUTE, COMMANDS, "fleet.poison.command"),
)


@dataclass
class Counts:
    """`failures`: the messages that will be delivered again, each with its error."""

    taken: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


async def receive(
    connection: Any,
    take: Take,
    *,
    wait_seconds: float,
    work_seconds: float,
    batch: int,
    policy: DeliveryPolicy = DeliveryPolicy(),
) -> Counts:
    """Pass waiting requests to `take`, up to `batch` at a time, until no more wait.

    Waits up to `wait_seconds` for the first. Starts no further batch after `work_seconds`. Raises
    `StreamMismatch`, and errors of `take`: its messages are then delivered again.
    """
    began, counts = time.monotonic(), Counts()
    jetstream = connection.jetstream()
    await ensure_streams(jetstream, (*ASKED_STREAMS, POISON))
    consumers = [(source, await _consumer(connection, jetstream, source, policy)) for source in SOURCES]
    while True:
        pulled = await asyncio.gather(*(consumer.pull(batch, policy.slice_seconds) for _, consumer in consumers))
        arrived = [
            (source, message)
            for (source, _), (messages, _) in zip(consumers, pulled, strict=True)
            for message in messages
        ]
        if arrived:
            await _handle(connection, jetstream, arrived, take, counts, policy)
        handled, elapsed = counts.taken + counts.refused, time.monotonic() - began
        no_more = not arrived or not any(more for _, more in pulled)
        if (handled and no_more) or elapsed > (work_seconds if handled else wait_seconds):
            return counts


async def _handle(
    connection: Any, jetstream: Any, batch: list[tuple[Source, Any]], take: Take, counts: Counts, policy: DeliveryPolicy
) -> None:
    received = [_received(source, message) for source, message in batch]
    answers = _answers(take, received, policy)
    rejected = [
        (source, message, answer)
        for (source, _), message, answer in zip(batch, received, answers, strict=True)
        if isinstance(answer, str)
    ]
    for start in range(0, len(rejected), MOST_POISON):
        poison = [
            jetstream.publish(source.poison, _poisoned(source, message, reason), headers=_headers(message))
            for source, message, reason in rejected[start : start + MOST_POISON]
        ]
        await asyncio.wait_for(asyncio.gather(*poison), ACKED)
    for (_, message), answer in zip(batch, answers, strict=True):
        if not isinstance(answer, Exception):
            await (message.ack() if answer is None else message.term())
    await connection.flush()
    counts.refused += len(rejected)
    counts.taken += answers.count(None)
    counts.failures += [
        f"message {message.sequence} of {message.stream} could not be taken and comes again: {answer!r}"
        for message, answer in zip(received, answers, strict=True)
        if isinstance(answer, Exception)
    ]


def _answers(take: Take, received: Sequence[Received], policy: DeliveryPolicy) -> list[str | Exception | None]:
    """The answer of `take` for each message. One that makes `take` fail must not block its neighbours forever: after
    `policy.together` deliveries messages are passed one by one, and only those that fail are delivered again.
    """
    exhausted = f"it has come {policy.most_deliveries} times and never could be taken"
    deliverable = [message for message in received if message.deliveries <= policy.most_deliveries]
    if all(message.deliveries <= policy.together for message in deliverable):
        answers: list[str | Exception | None] = list(take(deliverable))
    else:
        answers = [_alone(take, message) for message in deliverable]
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if failures and len(failures) == len(received):
            raise failures[0]
    remaining = iter(answers)
    return [next(remaining) if message.deliveries <= policy.most_deliveries else exhausted for message in received]


def _alone(take: Take, message: Received) -> str | Exception | None:
    try:
        return take([message])[0]
    except Exception as error:  # noqa: BLE001 - no error may stop the other messages
        return error


def _received(source: Source, message: Any) -> Received:
    info = message.metadata
    return Received(
        subject=source.subject,
        content=message.data,
        id=_clean((message.headers or {}).get("Nats-Msg-Id", ""))[:500] or f"{info.stream}:{info.sequence.stream}",
        stream=info.stream,
        sequence=info.sequence.stream,
        sent_at=info.timestamp,
        deliveries=info.num_delivered,
    )


def _poisoned(source: Source, message: Received, reason: str) -> bytes:
    beginning = message.content[:POISON_CONTENT_BYTES]
    payload = Poisoned(
        reason=_clean(reason)[:MOST_REASON],
        subject=message.subject,
        stream=message.stream,
        sequence=message.sequence,
        request_id=message.id,
        sent_at=message.sent_at,
        bytes=len(message.content),
        sha256=hashlib.sha256(message.content).hexdigest(),
        content=beginning.decode("utf-8", "replace"),
        content_is_whole=len(beginning) == len(message.content),
    )
    return Envelope(
        event_type=source.poison,
        idempotency_key=_poison_key(message),
        correlation_id=message.id,
        payload=payload.model_dump(mode="json"),
    ).sealed()[2]


def _headers(message: Received) -> dict[str, str]:
    # The header lets a sender find its request without reading payloads. A header is one line.
    return {"Nats-Msg-Id": _poison_key(message), REQUEST_HEADER: " ".join(message.id.split())}


def _poison_key(message: Received) -> str:
    return f"poison:{message.stream}:{message.sequence}"


def _clean(text: str) -> str:
    """Replace lone surrogates: JSON can escape them, and reasons repeat field names that hold them."""
    return text.encode("utf-8", "replace").decode()


async def _consumer(connection: Any, jetstream: Any, source: Source, policy: DeliveryPolicy) -> PullConsumer:
    """Bind to the durable consumer. Create it if absent; never change an existing one."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.js.errors import NotFoundError

    stream = await stream_of(jetstream, source)
    try:
        existing = (await jetstream.consumer_info(stream, source.durable)).config
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
            # Above `most_deliveries`: we move the message to the poison stream before the server gives up on it.
            max_deliver=policy.most_deliveries + 10,
            backoff=list(policy.backoff_seconds),
            max_ack_pending=20_000,
        )
        await jetstream.add_consumer(stream, config)
    else:
        if existing.filter_subject != source.subject or existing.ack_policy != AckPolicy.EXPLICIT:
            raise StreamMismatch(
                f"consumer {source.durable} of stream {stream} is not ours: it takes {existing.filter_subject} with "
                f"acks {existing.ack_policy}; remove it with `nats consumer rm {stream} {source.durable}`"
            )
    return await PullConsumer(connection, stream, source.durable).open()


async def stream_of(jetstream: Any, source: Source) -> str:
    """The name of the stream that takes the subject. It can differ from our name for it."""
    from nats.js.errors import NotFoundError

    try:
        await jetstream.stream_info(source.stream.name)
    except NotFoundError:
        name: str = await jetstream.find_stream_name_by_subject(source.subject)
        return name
    return source.stream.name
