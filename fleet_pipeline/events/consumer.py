"""Pulling messages from a consumer.

Not nats-py's `fetch`: it takes any message with a `Status` header for one of the server's own, so that whoever
may publish could have messages skipped or make it raise; and messages that arrive as its time ends are left
behind until they are sent again. Here the server's own words are those without an ack subject, and a pull ends
when the server says that it has.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

# A server cuts off a client for which more than 64 MB wait (its `max_pending`).
MAX_BYTES = 16_000_000
# How much longer than asked the server may take to say that a pull is over.
PATIENCE_SECONDS = 5.0
READ_AT_ONCE = 500
# Its own: no messages, the time is up, and the next one would be too many bytes.
_ENDS = ("404", "408", "409")


class PullConsumer:
    """One consumer, pulled from over one connection."""

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
        """(up to `most` messages, whether more may be waiting). Waits up to `seconds` for that many.

        Raises `TimeoutError` when the server does not answer, and `nats.errors.Error` when it will not.
        """
        self._pulls += 1
        reply = f"{self._inbox}.{self._pulls}"
        wanted = {"batch": most, "expires": int(seconds * 1e9), "max_bytes": MAX_BYTES}
        await self._connection.publish(self._next, json.dumps(wanted).encode(), reply=reply)
        found: list[Any] = []
        deadline = time.monotonic() + seconds + PATIENCE_SECONDS
        while len(found) < most:
            try:
                message = await asyncio.wait_for(self._arrived.get(), max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                if found:
                    return found, True
                raise
            if message.reply:
                found.append(message)
            elif message.subject == reply:
                return found, _ended(message) == "409"
        return found, True


async def iter_messages(connection: Any, stream: str, subject: str, **start: Any) -> AsyncIterator[Any]:
    """The messages that a stream has of a subject, by a consumer that leaves nothing behind. `start` is what a
    `ConsumerConfig` says of where to begin, and whether `headers_only` are wanted; all of the stream by default.
    """
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    by = DeliverPolicy.ALL
    if "opt_start_time" in start:
        by = DeliverPolicy.BY_START_TIME
    elif "opt_start_seq" in start:
        by = DeliverPolicy.BY_START_SEQUENCE
    config = ConsumerConfig(
        deliver_policy=by, filter_subject=subject, ack_policy=AckPolicy.NONE, inactive_threshold=30.0, **start
    )
    about = await connection.jetstream().add_consumer(stream, config)
    consumer, left = await PullConsumer(connection, stream, about.name).open(), about.num_pending
    while left > 0:
        messages, more = await consumer.pull(min(READ_AT_ONCE, left), PATIENCE_SECONDS)
        if not messages and not more:
            return  # the stream has let go of the rest meanwhile
        for message in messages:
            yield message
        left -= len(messages)


def _ended(message: Any) -> str:
    from nats.errors import Error

    headers = message.headers or {}
    status: str = headers.get("Status", "")
    if status not in _ENDS or "consumer" in headers.get("Description", "").lower():
        raise Error(f"the consumer cannot be pulled from: {status} {headers.get('Description', '')}")
    return status
