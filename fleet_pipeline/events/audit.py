"""What the streams hold: the idempotency keys of all events, read without their payloads."""

from __future__ import annotations

from fleet_pipeline.events.connection import ask, connect
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import ANNOUNCING, OUTGOING, ensure_streams

BATCH = 500
PATIENCE_SECONDS = 5.0


def stored_keys(options: NatsOptions) -> frozenset[str]:
    """The keys of every event of ours that the broker holds. Raises `BrokerUnavailable`, `StreamMismatch`."""
    return ask(options, _stored_keys(options))


async def _stored_keys(options: NatsOptions) -> frozenset[str]:
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    found: set[str] = set()
    async with connect(options) as connection:
        jetstream = connection.jetstream()
        await ensure_streams(jetstream, ANNOUNCING)
        headers_alone = ConsumerConfig(
            deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, headers_only=True, inactive_threshold=30.0
        )
        # Subjects and not stream names: another stream may have taken them.
        for subject in OUTGOING:
            subscription = await jetstream.pull_subscribe(subject, config=headers_alone)
            left = (await subscription.consumer_info()).num_pending
            while left > 0:
                messages = await subscription.fetch(min(BATCH, left), timeout=PATIENCE_SECONDS)
                found |= {
                    message.headers["Nats-Msg-Id"] for message in messages if "Nats-Msg-Id" in (message.headers or {})
                }
                left -= len(messages)
            await subscription.unsubscribe()
    return frozenset(found)
