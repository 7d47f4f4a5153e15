"""The JetStream streams, declared in one place; created where they are absent, checked where they are not."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fleet_pipeline.common.errors import StreamMismatch

HOUR = 3_600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class Stream:
    """`subjects` are those the stream is made with, `needs` those that this project sends or reads."""

    name: str
    subjects: tuple[str, ...]
    needs: tuple[str, ...]
    max_age_seconds: float
    max_messages: int
    # new: what is full refuses, and whoever publishes knows. old: what is full lets go of the oldest.
    discard: str = "old"
    # The server's default of 2 minutes is shorter than a restarted sensor's silence.
    duplicate_window_seconds: float = HOUR


# Completion events had no stream in the original: every one of them was lost. Names, subjects and
# limits of the others are those of the original, whose services may have made them already.
DELIBERATIONS = Stream(
    "DELIBERATIONS",
    ("deliberation.completed", "deliberation.failed", "deliberation.timeout"),
    ("deliberation.completed", "deliberation.failed", "deliberation.timeout"),
    30 * DAY,
    1_000_000,
)
REQUESTS = Stream(
    "DELIBERATION_REQUESTS", ("deliberation.requested",), ("deliberation.requested",), 7 * DAY, 1_000_000, "new"
)
PLANS = Stream("PLANNING_EVENTS", ("planning.>",), ("planning.plan.approved",), 30 * DAY, 1_000_000)
RESPONSES = Stream(
    "AGENT_RESPONSES", ("agent.response.>",), ("agent.response.completed", "agent.response.failed"), 7 * DAY, 1_000_000
)
ORCHESTRATION = Stream(
    "ORCHESTRATOR_EVENTS", ("orchestration.>",), ("orchestration.deliberation.completed",), 7 * DAY, 1_000_000
)
POISON = Stream("FLEET_POISON", ("fleet.poison.>",), ("fleet.poison.request", "fleet.poison.plan"), 30 * DAY, 100_000)
# What whoever announces needs: it may have no right to look at the others.
PUBLISHED_STREAMS = (DELIBERATIONS, RESPONSES, ORCHESTRATION)
OUTGOING = tuple(subject for stream in PUBLISHED_STREAMS for subject in stream.needs)
STREAMS = (*PUBLISHED_STREAMS, REQUESTS, PLANS, POISON)


async def ensure_streams(jetstream: Any, streams: tuple[Stream, ...] = STREAMS) -> list[str]:
    """Create the streams that are absent, and check that the others take what is sent to them.

    Returns what differs without harm, in words: limits, and streams of other names. An existing
    stream is never changed: it may be another service's. Raises `StreamMismatch` where a subject would
    be lost.
    """
    from nats.js.errors import NotFoundError

    remarks: list[str] = []
    for stream in streams:
        try:
            found = (await jetstream.stream_info(stream.name)).config
        except NotFoundError:
            remarks += await _create(jetstream, stream)
            continue
        for subject in stream.needs:
            if not any(_covers(pattern, subject) for pattern in found.subjects or []):
                raise StreamMismatch(
                    f"stream {stream.name} on the server does not take {subject} (it takes "
                    f"{', '.join(found.subjects or [])}): add it with `nats stream edit {stream.name} --subjects ...`"
                )
        if found.no_ack:
            raise StreamMismatch(
                f"stream {stream.name} on the server acknowledges nothing (no_ack), so that nobody can know what it "
                "has; make it anew without that"
            )
        if found.retention == "interest" and stream in PUBLISHED_STREAMS:
            raise StreamMismatch(
                f"stream {stream.name} on the server keeps only what somebody waits for (retention interest); events "
                "would be lost: make it anew with retention limits"
            )
        remarks += _differences(stream, found)
    return remarks


async def _create(jetstream: Any, stream: Stream) -> list[str]:
    """Where other streams take all of its subjects already, theirs is the place."""
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import APIError, NotFoundError

    taken: dict[str, str] = {}
    for subject in stream.needs:
        try:
            taken[subject] = await jetstream.find_stream_name_by_subject(subject)
        except NotFoundError:
            continue
    if len(taken) == len(stream.needs):
        return [f"{', '.join(stream.needs)} go to stream {', '.join(sorted(set(taken.values())))}, not {stream.name}"]
    try:
        await jetstream.add_stream(
            StreamConfig(
                name=stream.name,
                subjects=[subject for subject in stream.subjects if subject not in taken],
                storage=StorageType.FILE,
                retention=RetentionPolicy.LIMITS,
                discard=DiscardPolicy(stream.discard),
                max_age=stream.max_age_seconds,
                max_msgs=stream.max_messages,
                duplicate_window=stream.duplicate_window_seconds,
            )
        )
    except APIError as error:
        raise StreamMismatch(
            f"stream {stream.name} cannot be made for {', '.join(stream.subjects)}: {error.description}; "
            "make it by hand, or let another stream take these subjects"
        ) from error
    return []


async def largest_message(jetstream: Any, streams: tuple[Stream, ...], max_payload: int) -> int:
    """The bytes that every one of the streams takes: the broker's limit, or a smaller one of a stream's own."""
    from nats.js.errors import NotFoundError

    largest = max_payload
    for stream in streams:
        with suppress(NotFoundError):  # its subjects go to one of another name
            limit = (await jetstream.stream_info(stream.name)).config.max_msg_size
            largest = min(largest, limit) if limit and limit > 0 else largest
    return largest


def _covers(pattern: str, subject: str) -> bool:
    """Whether a stream's subject, with * for one word and > for the rest, takes `subject`."""
    words, wanted = pattern.split("."), subject.split(".")
    for place, word in enumerate(words):
        if word == ">":
            return len(wanted) > place
        if place >= len(wanted) or word not in ("*", wanted[place]):
            return False
    return len(words) == len(wanted)


def _differences(stream: Stream, found: Any) -> list[str]:
    kinds = {
        "retention": ("limits", found.retention, "a message may go before everyone who needs it has read it"),
        "storage": ("file", found.storage, "its messages end with the server"),
        "discard": (
            stream.discard,
            found.discard,
            "when it is full it "
            + ("refuses new messages" if stream.discard == "old" else "drops the oldest, taken or not"),
        ),
    }
    remarks = [
        f"stream {stream.name}: {name} is {there} on the server, {here} here: {consequence}"
        for name, (here, there, consequence) in kinds.items()
        if there not in (None, here)
    ]
    declared = {
        "max_age": (stream.max_age_seconds, found.max_age),
        "max_msgs": (stream.max_messages, found.max_msgs),
        "duplicate_window": (stream.duplicate_window_seconds, found.duplicate_window),
    }
    return remarks + [
        f"stream {stream.name}: {name} is {there:g} on the server, {here:g} here"
        for name, (here, there) in declared.items()
        if there is not None and there != here
    ]
