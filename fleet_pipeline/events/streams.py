"""The JetStream streams, declared in one place: created if absent, validated if present."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fleet_pipeline.common.errors import StreamMismatch

HOUR = 3_600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class Stream:
    """`subjects`: the subjects of a newly created stream. `needs`: the subjects this project sends or reads."""

    name: str
    subjects: tuple[str, ...]
    needs: tuple[str, ...]
    max_age_seconds: float
    max_messages: int
    # When the stream is full: `new` rejects new messages, and the publisher gets an error; `old` drops the oldest.
    discard: str = "old"
    # The server's default of 2 minutes is too short: a restarting sensor can be silent for longer.
    duplicate_window_seconds: float = HOUR


# The original system had no stream for completion events and lost all of them. The other streams keep
# its names, subjects and limits, because its services may have created them already.
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
COMMANDS = Stream("AGENT_COMMANDS", ("agent.cmd.>",), ("agent.cmd.execute",), 7 * DAY, 1_000_000, "new")
# The earlier system named this one in its documents, and nothing made it.
RESULTS = Stream("AGENT_RESULTS", ("agent.results.>",), ("agent.results.>",), 7 * DAY, 1_000_000)
TOOLS = Stream("AGENT_TOOLS", ("agent.tool.>",), ("agent.tool.executed",), 7 * DAY, 1_000_000)
POISON = Stream(
    "FLEET_POISON",
    ("fleet.poison.>",),
    ("fleet.poison.request", "fleet.poison.plan", "fleet.poison.command"),
    30 * DAY,
    100_000,
)
# The streams a publisher needs. Its NATS user may not be permitted to inspect the others.
PUBLISHED_STREAMS = (DELIBERATIONS, RESPONSES, ORCHESTRATION, RESULTS, TOOLS)
OUTGOING = tuple(subject for stream in PUBLISHED_STREAMS for subject in stream.needs)
ASKED_STREAMS = (REQUESTS, PLANS, COMMANDS)
STREAMS = (*PUBLISHED_STREAMS, *ASKED_STREAMS, POISON)


async def ensure_streams(jetstream: Any, streams: tuple[Stream, ...] = STREAMS, replicas: int = 1) -> list[str]:
    """Create the absent streams, each kept by `replicas` brokers, and validate that the existing ones take their subjects.

    Returns harmless differences as sentences: limits, and streams of other names. An existing stream
    is never changed: it may belong to another service. Raises `StreamMismatch` if a subject's messages
    would be lost.
    """
    from nats.js.errors import NotFoundError

    remarks: list[str] = []
    for stream in streams:
        try:
            config = (await jetstream.stream_info(stream.name)).config
        except NotFoundError:
            remarks += await _create(jetstream, stream, replicas)
            continue
        for subject in stream.needs:
            if not any(_covers(pattern, subject) for pattern in config.subjects or []):
                raise StreamMismatch(
                    f"stream {stream.name} on the server does not take {subject} (it takes "
                    f"{', '.join(config.subjects or [])}): add it with `nats stream edit {stream.name} --subjects ...`"
                )
        if config.no_ack:
            raise StreamMismatch(
                f"stream {stream.name} on the server acknowledges nothing (no_ack), so that nobody can know what it "
                "has; make it anew without that"
            )
        if config.retention == "interest" and stream in PUBLISHED_STREAMS:
            raise StreamMismatch(
                f"stream {stream.name} on the server keeps only what somebody waits for (retention interest); events "
                "would be lost: make it anew with retention limits"
            )
        remarks += _differences(stream, config, replicas)
    return remarks


async def _create(jetstream: Any, stream: Stream, replicas: int) -> list[str]:
    """Create the stream. If other streams already take all the subjects it needs, return a remark instead."""
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import APIError, NotFoundError

    owner: dict[str, str] = {}
    for subject in stream.needs:
        try:
            owner[subject] = await jetstream.find_stream_name_by_subject(subject)
        except NotFoundError:
            continue
    if len(owner) == len(stream.needs):
        return [f"{', '.join(stream.needs)} go to stream {', '.join(sorted(set(owner.values())))}, not {stream.name}"]
    try:
        await jetstream.add_stream(
            StreamConfig(
                name=stream.name,
                subjects=[subject for subject in stream.subjects if subject not in owner],
                storage=StorageType.FILE,
                retention=RetentionPolicy.LIMITS,
                discard=DiscardPolicy(stream.discard),
                max_age=stream.max_age_seconds,
                max_msgs=stream.max_messages,
                duplicate_window=stream.duplicate_window_seconds,
                num_replicas=replicas,
            )
        )
    except APIError as error:
        raise StreamMismatch(
            f"stream {stream.name} cannot be made for {', '.join(stream.subjects)}: {error.description}; "
            "make it by hand, or let another stream take these subjects"
        ) from error
    return []


async def largest_message(jetstream: Any, streams: tuple[Stream, ...], max_payload: int) -> int:
    """The size in bytes that all the streams take: `max_payload` of the broker, or the smaller limit of a stream."""
    from nats.js.errors import NotFoundError

    largest = max_payload
    for stream in streams:
        with suppress(NotFoundError):  # its subjects go to a stream of another name
            limit = (await jetstream.stream_info(stream.name)).config.max_msg_size
            largest = min(largest, limit) if limit and limit > 0 else largest
    return largest


def _covers(pattern: str, subject: str) -> bool:
    """Whether a stream's subject pattern takes `subject`. `*` matches one token, `>` all that remain."""
    pattern_parts, subject_parts = pattern.split("."), subject.split(".")
    for index, part in enumerate(pattern_parts):
        if part == ">":
            return len(subject_parts) > index
        if index >= len(subject_parts) or part not in ("*", subject_parts[index]):
            return False
    return len(pattern_parts) == len(subject_parts)


def _differences(stream: Stream, config: Any, replicas: int) -> list[str]:
    settings = {
        "retention": ("limits", config.retention, "a message may go before everyone who needs it has read it"),
        "storage": ("file", config.storage, "its messages end with the server"),
        "discard": (
            stream.discard,
            config.discard,
            "when it is full it "
            + ("refuses new messages" if stream.discard == "old" else "drops the oldest, taken or not"),
        ),
    }
    remarks = [
        f"stream {stream.name}: {name} is {actual} on the server, {declared} here: {consequence}"
        for name, (declared, actual, consequence) in settings.items()
        if actual not in (None, declared)
    ]
    if (config.num_replicas or 1) < replicas:
        remarks.append(
            f"stream {stream.name}: {config.num_replicas or 1} of the brokers keep it, {replicas} here: "
            f"`nats stream edit {stream.name} --replicas {replicas}`"
        )
    limits = {
        "max_age": (stream.max_age_seconds, config.max_age),
        "max_msgs": (stream.max_messages, config.max_msgs),
        "duplicate_window": (stream.duplicate_window_seconds, config.duplicate_window),
    }
    return remarks + [
        f"stream {stream.name}: {name} is {actual:g} on the server, {declared:g} here"
        for name, (declared, actual) in limits.items()
        if actual is not None and actual != declared
    ]
