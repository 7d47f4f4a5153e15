"""The JetStream streams, declared in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DAY = 24 * 3_600.0


@dataclass(frozen=True)
class Stream:
    name: str
    subjects: tuple[str, ...]
    max_age_seconds: float
    max_messages: int
    duplicate_window_seconds: float


# Completion events had no stream in the original: every one of them was lost.
DELIBERATIONS = Stream(
    name="DELIBERATIONS",
    subjects=("deliberation.completed", "deliberation.failed", "deliberation.timeout"),
    max_age_seconds=30 * DAY,
    max_messages=1_000_000,
    # The server's default of 2 minutes is shorter than a restarted sensor's silence.
    duplicate_window_seconds=3_600.0,
)
STREAMS = (DELIBERATIONS,)


async def ensure_streams(jetstream: Any) -> None:
    """Create the streams that are absent. Existing ones are left as their owner set them up."""
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import NotFoundError

    for stream in STREAMS:
        try:
            await jetstream.stream_info(stream.name)
        except NotFoundError:
            await jetstream.add_stream(
                StreamConfig(
                    name=stream.name,
                    subjects=list(stream.subjects),
                    storage=StorageType.FILE,
                    retention=RetentionPolicy.LIMITS,
                    discard=DiscardPolicy.OLD,
                    max_age=stream.max_age_seconds,
                    max_msgs=stream.max_messages,
                    duplicate_window=stream.duplicate_window_seconds,
                )
            )
