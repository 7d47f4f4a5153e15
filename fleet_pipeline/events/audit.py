"""What the streams hold: the idempotency keys of all events, read without their payloads."""

from __future__ import annotations

from fleet_pipeline.events.connection import ask, connect
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.pull import reading
from fleet_pipeline.events.streams import ANNOUNCING, OUTGOING, ensure_streams


def stored_keys(options: NatsOptions) -> frozenset[str]:
    """The keys of every event of ours that the broker holds. Raises `BrokerUnavailable`, `StreamMismatch`."""
    return ask(options, _stored_keys(options))


async def _stored_keys(options: NatsOptions) -> frozenset[str]:
    found: set[str] = set()
    async with connect(options) as connection:
        jetstream = connection.jetstream()
        await ensure_streams(jetstream, ANNOUNCING)
        for subject in OUTGOING:
            # By subject and not by name: another stream may have taken it.
            stream = await jetstream.find_stream_name_by_subject(subject)
            async for message in reading(connection, stream, subject, headers_only=True):
                found.add((message.headers or {}).get("Nats-Msg-Id", ""))
    return frozenset(found - {""})
