"""The idempotency keys of all events in the streams, read without their payloads."""

from typing import Any

from fleet_pipeline.events.consumer import iter_messages
from fleet_pipeline.events.streams import OUTGOING, PUBLISHED_STREAMS, ensure_streams


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
