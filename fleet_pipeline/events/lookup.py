"""Inspecting streams without taking anything: which requests wait, why one was rejected, which events are there."""

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

from fleet_pipeline.common.errors import InvalidRecord
from fleet_pipeline.common.json_input import parse_json
from fleet_pipeline.common.messages import EXECUTE, PLAN_APPROVED, REQUESTED
from fleet_pipeline.deliberation.task import deliberation_id
from fleet_pipeline.events.consumer import iter_messages
from fleet_pipeline.events.receiver import REQUEST_HEADER, SOURCES, stream_of
from fleet_pipeline.events.streams import OUTGOING, POISON, PUBLISHED_STREAMS, ensure_streams


async def waiting(connection: Any) -> dict[str, int]:
    """The number of messages not taken yet, by subject. The key `poison` counts those in the poison stream."""
    from nats.js.errors import NotFoundError

    jetstream = connection.jetstream()
    counts = dict.fromkeys((REQUESTED, PLAN_APPROVED, EXECUTE, "poison"), 0)
    for source in SOURCES:
        with suppress(NotFoundError):
            stream = await stream_of(jetstream, source)
            try:
                consumer = await jetstream.consumer_info(stream, source.durable)
                counts[source.subject] = consumer.num_pending + consumer.num_ack_pending
            except NotFoundError:  # no consumer yet: nobody has pulled requests
                state = (await jetstream.stream_info(stream, subjects_filter=source.subject)).state
                counts[source.subject] = (state.subjects or {}).get(source.subject, 0)
    with suppress(NotFoundError):
        counts["poison"] = (await jetstream.stream_info(POISON.name)).state.messages
    return counts


async def untaken(connection: Any) -> frozenset[str]:
    """Ids of the requests not taken yet, and ids of the deliberations they ask for."""
    from nats.js.errors import NotFoundError

    ids: set[str] = set()
    jetstream = connection.jetstream()
    for source in SOURCES:
        with suppress(NotFoundError):
            stream = await stream_of(jetstream, source)
            first_sequence = 1
            try:
                first_sequence = (await jetstream.consumer_info(stream, source.durable)).ack_floor.stream_seq + 1
            except NotFoundError:
                if source.recent_only:
                    continue  # nobody has read this stream yet, and most of it is old
            async for message in iter_messages(connection, stream, source.subject, opt_start_seq=first_sequence):
                ids.add((message.headers or {}).get("Nats-Msg-Id", ""))
                ids |= _requested_ids(message.data)
    return frozenset(ids)


async def stored_keys(connection: Any) -> frozenset[str]:
    """The idempotency keys of all our events that the broker holds. Raises `StreamMismatch`."""
    keys: set[str] = set()
    jetstream = connection.jetstream()
    await ensure_streams(jetstream, PUBLISHED_STREAMS)
    for subject in OUTGOING:
        # By subject, not by name: a stream of another name may take it.
        stream = await jetstream.find_stream_name_by_subject(subject)
        async for message in iter_messages(connection, stream, subject, headers_only=True):
            keys.add((message.headers or {}).get("Nats-Msg-Id", ""))
    return frozenset(keys - {""})


async def refusal(connection: Any, request_id: str, since: datetime) -> str | None:
    """Why a request was put into the poison stream after `since`; None if it was not."""
    header = " ".join(request_id.split())
    await ensure_streams(connection.jetstream(), (POISON,))
    async for message in iter_messages(connection, POISON.name, POISON.subjects[0], opt_start_time=since):
        if (message.headers or {}).get(REQUEST_HEADER) == header:
            reason: str = json.loads(message.data)["payload"]["reason"]
            return reason
    return None


def _requested_ids(content: bytes) -> set[str]:
    """Ids of the deliberations that a request asks for, and its own id; empty if it cannot be read."""
    try:
        request = parse_json(content)
        fields = request.get("payload", request)
        roles = fields.get("roles") or fields.get("role") or ["DEV"]
        task_id = str(fields.get("task_id") or fields.get("plan_id"))
        ids = {deliberation_id(task_id, str(role)) for role in ([roles] if isinstance(roles, str) else roles)}
        return ids | {str(request.get("idempotency_key", ""))}
    except (InvalidRecord, AttributeError, TypeError):
        return set()
