"""Pulling messages from a JetStream consumer.

nats-py's `fetch` has two faults. It takes any message with a `Status` header for a status message of the server, so
any publisher could have messages skipped or make it raise. It leaves behind messages that arrive as its time ends,
until they are redelivered. Here only a message without an ack subject is a status message, and a pull ends when the
server says so.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

# The server disconnects a client with more than 64 MB pending (its `max_pending`).
MAX_BYTES = 16_000_000
# Extra time for the server to report the end of a pull.
PATIENCE_SECONDS = 5.0
READ_AT_ONCE = 500
# The server's statuses: no messages, the time is up, the next message would exceed the bytes.
_ENDS = ("404", "408", "409")


class PullConsumer:
    """Pulls from one consumer over one connection."""

    def __init__(self, connection: Any, stream: str, name: str) -> None:
        self._connection = connection
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        self._inbox: str = connection.new_inbox()
        self._pulls = 0
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()

    async def open(self) -> PullConsumer:
        await self._connection.subscribe(f"{self._inbox}.*", cb=self._arrived.put)
        return self

    async def pull(self, most: int, seconds: float) -> tuple[list[Any], bool]:
        """Returns (up to `most` messages, whether more may be waiting). Waits up to `seconds` for `most` of them.

        Raises `TimeoutError` if the server does not answer, and `nats.errors.Error` if it rejects the pull.
        """
        self._pulls += 1
        reply = f"{self._inbox}.{self._pulls}"
        body = {"batch": most, "expires": int(seconds * 1e9), "max_bytes": MAX_BYTES}
        await self._connection.publish(self._next, json.dumps(body).encode(), reply=reply)
        messages: list[Any] = []
        deadline = time.monotonic() + seconds + PATIENCE_SECONDS
        while len(messages) < most:
            try:
                message = await asyncio.wait_for(self._arrived.get(), max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                if messages:
                    return messages, True
                raise
            if message.reply:
                messages.append(message)
            elif message.subject == reply:
                return messages, _end_status(message) == "409"
        return messages, True


async def iter_messages(connection: Any, stream: str, subject: str, **start: Any) -> AsyncIterator[Any]:
    """The messages of a subject in a stream, read by an ephemeral consumer that leaves nothing behind. `start` holds
    fields of `ConsumerConfig`: where to begin (the start of the stream by default), and `headers_only`.
    """
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    policy = DeliverPolicy.ALL
    if "opt_start_time" in start:
        policy = DeliverPolicy.BY_START_TIME
    elif "opt_start_seq" in start:
        policy = DeliverPolicy.BY_START_SEQUENCE
    config = ConsumerConfig(
        deliver_policy=policy, filter_subject=subject, ack_policy=AckPolicy.NONE, inactive_threshold=30.0, **start
    )
    info = await connection.jetstream().add_consumer(stream, config)
    consumer, remaining = await PullConsumer(connection, stream, info.name).open(), info.num_pending
    while remaining > 0:
        messages, more = await consumer.pull(min(READ_AT_ONCE, remaining), PATIENCE_SECONDS)
        if not messages and not more:
            return  # the stream has dropped the rest meanwhile
        for message in messages:
            yield message
        remaining -= len(messages)


def _end_status(message: Any) -> str:
    from nats.errors import Error

    headers = message.headers or {}
    status: str = headers.get("Status", "")
    if status not in _ENDS or "consumer" in headers.get("Description", "").lower():
        raise Error(f"the consumer cannot be pulled from: {status} {headers.get('Description', '')}")
    return status
