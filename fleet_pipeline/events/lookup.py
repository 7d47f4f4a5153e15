"""Looking at requests without taking them: how many wait and which, and which were refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from fleet_pipeline.deliberation.entries import BadRecord, parse_entry
from fleet_pipeline.deliberation.task import deliberation_id
from fleet_pipeline.events.connection import ask, connect
from fleet_pipeline.events.intake import ACKED, REQUEST_HEADER, SOURCES, stream_of
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.pull import Inlet
from fleet_pipeline.events.requests import PLAN_APPROVED, REQUESTED
from fleet_pipeline.events.streams import POISON, ensure_streams

READ_AT_ONCE = 500


def waiting(options: NatsOptions) -> dict[str, int]:
    """How many messages have not been taken yet, by subject, and how many lie in the poison stream."""
    return ask(options, _waiting(options))


def untaken(options: NatsOptions) -> frozenset[str]:
    """Of the requests that have come in and have not been taken yet: their own ids, and the deliberations they ask for."""
    return ask(options, _untaken(options))


def refusal(options: NatsOptions, request_id: str, since: datetime) -> str | None:
    """Why a request was put into the poison stream since then; None where it was not."""
    return ask(options, _refusal(options, request_id, since))


async def _waiting(options: NatsOptions) -> dict[str, int]:
    from nats.js.errors import NotFoundError

    async with connect(options) as connection:
        jetstream = connection.jetstream()
        counts = dict.fromkeys((REQUESTED, PLAN_APPROVED, "poison"), 0)
        for source in SOURCES:
            with suppress(NotFoundError):
                stream = await stream_of(jetstream, source)
                try:
                    about = await jetstream.consumer_info(stream, source.durable)
                    counts[source.subject] = about.num_pending + about.num_ack_pending
                except NotFoundError:  # nobody has looked for requests yet
                    state = (await jetstream.stream_info(stream, subjects_filter=source.subject)).state
                    counts[source.subject] = (state.subjects or {}).get(source.subject, 0)
        with suppress(NotFoundError):
            counts["poison"] = (await jetstream.stream_info(POISON.name)).state.messages
        return counts


async def _untaken(options: NatsOptions) -> frozenset[str]:
    from nats.js.errors import NotFoundError

    found: set[str] = set()
    async with connect(options) as connection:
        jetstream = connection.jetstream()
        for source in SOURCES:
            with suppress(NotFoundError):
                stream = await stream_of(jetstream, source)
                start = 1
                try:
                    start = (await jetstream.consumer_info(stream, source.durable)).ack_floor.stream_seq + 1
                except NotFoundError:
                    if source.from_age_seconds is not None:
                        continue  # nobody has begun with this stream, and most of it is old
                async for message in _reading(connection, stream, source.subject, {"opt_start_seq": start}):
                    found.add((message.headers or {}).get("Nats-Msg-Id", ""))
                    found |= _asked_for(message.data)
    return frozenset(found)


async def _refusal(options: NatsOptions, request_id: str, since: datetime) -> str | None:
    wanted = " ".join(request_id.split())
    async with connect(options) as connection:
        await ensure_streams(connection.jetstream(), (POISON,))
        async for message in _reading(connection, POISON.name, POISON.subjects[0], {"opt_start_time": since}):
            if (message.headers or {}).get(REQUEST_HEADER) == wanted:
                reason: str = json.loads(message.data)["payload"]["reason"]
                return reason
    return None


async def _reading(connection: Any, stream: str, subject: str, start: dict[str, Any]) -> AsyncIterator[Any]:
    """The messages of a stream from a start on, by a consumer that leaves nothing behind."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    by = DeliverPolicy.BY_START_TIME if "opt_start_time" in start else DeliverPolicy.BY_START_SEQUENCE
    config = ConsumerConfig(
        deliver_policy=by, filter_subject=subject, ack_policy=AckPolicy.NONE, inactive_threshold=30.0, **start
    )
    about = await connection.jetstream().add_consumer(stream, config)
    inlet, left = await Inlet(connection, stream, about.name).open(), about.num_pending
    while left > 0:
        messages, _ = await inlet.pull(min(READ_AT_ONCE, left), ACKED)
        for message in messages:
            yield message
        left -= len(messages)


def _asked_for(content: bytes) -> set[str]:
    """The deliberations that a request asks for, and its own id, as far as it can be read."""
    try:
        found = parse_entry(content)
        fields = found.get("payload", found)
        roles = fields.get("roles") or ["DEV"]
        named = str(fields.get("task_id") or fields.get("plan_id"))
        ids = {deliberation_id(named, str(role)) for role in ([roles] if isinstance(roles, str) else roles)}
        return ids | {str(found.get("idempotency_key", ""))}
    except (BadRecord, AttributeError, TypeError):
        return set()
