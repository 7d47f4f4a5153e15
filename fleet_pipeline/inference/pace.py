"""How fast an engine answers, and the deadline that follows from it.

The earlier system gave every deliberation 300 s. On a busy machine every seat of two councils ran into that while it was
still being generated. A deadline is there to end what hangs or runs away, so it must follow the engine's speed, which
depends on the machine, the model and how many requests share the batch.
"""

from collections import deque

from fleet_pipeline.inference.engine import Job

# Answers that count for the measured speed: the batch fills and empties, and older ones had other company.
RECENT = 64
# A deadline is so many times what the longest course takes at the measured speed: the batch may fill meanwhile.
SLACK = 2.0
# Never shorter: a short answer is mostly the time that its prompt takes.
LEAST_SECONDS = 120.0
# Until an answer has been measured. An engine that has not given one within an hour hangs.
UNMEASURED_SECONDS = 3_600.0


class Pace:
    """Seconds that a seat waits for a token, over the most recent answers. Waiting for a slot in the batch counts."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._seconds = 0.0
        self._tokens = 0

    def note(self, seconds: float, tokens: int) -> None:
        """Count an answer of `tokens` that was there `seconds` after it was asked for."""
        if len(self._recent) == RECENT:
            oldest_seconds, oldest_tokens = self._recent[0]
            self._seconds -= oldest_seconds
            self._tokens -= oldest_tokens
        self._recent.append((seconds, tokens))
        self._seconds += seconds
        self._tokens += tokens

    @property
    def seconds_a_token(self) -> float | None:
        """None until an answer has been measured."""
        return self._seconds / self._tokens if self._tokens > 0 else None

    def deadline(self, job: Job[object]) -> float:
        """Seconds of running time that `job` may take: what it asks for, or what follows from this pace."""
        if job.timeout_seconds is not None:
            return job.timeout_seconds
        pace = self.seconds_a_token
        speaking = UNMEASURED_SECONDS if pace is None else max(LEAST_SECONDS, SLACK * job.most_tokens * pace)
        return speaking + job.tool_seconds

    def reason(self, job: Job[object]) -> str:
        """Why the deadline of `job` is what it is, for people."""
        if job.timeout_seconds is not None:
            return f"unfinished after the deliberation's {job.timeout_seconds:g} s"
        pace = self.seconds_a_token
        if pace is None:
            return f"unfinished after {self.deadline(job):.0f} s, in which the engine gave no answer at all"
        tools = f", and {job.tool_seconds:g} s for tools" if job.tool_seconds else ""
        return (
            f"unfinished after {self.deadline(job):.0f} s, {SLACK:g} times what its longest course takes at the "
            f"measured {pace * 1_000:.0f} ms a token{tools}"
        )
