"""Progress of a run: its counts, and the text that people read."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fleet_pipeline.common.logs import install_text
from fleet_pipeline.deliberation.transcript import Status, Transcript

_log = logging.getLogger(__name__)
# Share of the answers. Before, an estimate went from 2 s to 2 min 39 s.
_TOLD_FROM = 0.1


@dataclass
class Progress:
    """Counts of one run of the GPU op. Times are in monotonic seconds."""

    total: int = 0
    reused: int = 0
    completed: int = 0
    failed: int = 0
    answers: int = 0  # that were generated
    answers_of_ended: int = 0  # of those, the ones of deliberations that have ended
    planned: int = 0  # answers of the deliberations that have not ended, as far as it can be told
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    by_phase: dict[str, list[int]] = field(default_factory=dict)  # phase -> [prompt tokens, those from the cache]
    gpu_memory: str = ""
    engine_starts: int = 0
    engine_start_seconds: float = 0.0
    engine_crashes: list[str] = field(default_factory=list)
    generating_seconds: float = 0.0
    generating_since: float | None = field(default=None, repr=False)
    models_found: bool = False  # and an engine starts
    phase: str = "reading tasks"

    def count(self, transcript: Transcript, planned: int) -> None:
        """A deliberation has ended, and is stored. It was `planned` to have so many answers."""
        self.answers_of_ended += len(transcript.utterances)
        self.planned = max(self.planned - planned, 0)
        for utterance in transcript.utterances:
            tokens = self.by_phase.setdefault(str(utterance.turn.phase), [0, 0])
            tokens[0] += utterance.completion.prompt_tokens
            tokens[1] += utterance.completion.cached_tokens
        if transcript.status is Status.COMPLETED:
            self.completed += 1
        else:
            self.failed += 1

    @property
    def done(self) -> int:
        return self.reused + self.completed + self.failed

    @property
    def seconds(self) -> float:
        """Seconds spent generating, without engine starts."""
        running = time.monotonic() - self.generating_since if self.generating_since is not None else 0.0
        return self.generating_seconds + running

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def cache_hit_rate(self) -> float:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def cache_hit_rates(self) -> dict[str, float]:
        """Cached share of the prompt tokens by phase, over finished deliberations; 0 to 1."""
        return {phase: cached / prompt for phase, (prompt, cached) in self.by_phase.items() if prompt}

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the present rate of answers; None before a tenth of them is there. A deliberation that failed has no
        answers left, and does not make others look quick.
        """
        under_way = max(self.answers - self.answers_of_ended, 0)
        left = max(self.planned - under_way, self.total - self.done)
        if not self.answers or self.answers < _TOLD_FROM * (self.answers + left):
            return None
        return self.seconds / self.answers * left

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.total} done"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.reused:
            parts.append(f"{self.reused} done before")
        if self.engine_crashes:
            parts.append(
                f"engine started again {len(self.engine_crashes)} times, the last time after: {self.engine_crashes[-1]}"
            )
        if self.completion_tokens:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
            parts.append(f"{self.cache_hit_rate:.0%} cached")
        if self.eta_seconds is not None and self.done < self.total:
            parts.append(f"about {duration(self.eta_seconds)} left")
        return ", ".join([self.phase, *parts] if self.phase != "deliberating" else parts)


OnProgress = Callable[[Progress], None]


def duration(seconds: float) -> str:
    """Seconds as text: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


class ComputeLog:
    """For runs that Dagster starts: standard error is the step's compute log. It gets a line at each change of phase, and one
    for each deliberation that ends, from where it is stored.
    """

    def __init__(self) -> None:
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        if progress.phase != self._phase:
            if not self._phase:
                install_text()
            self._phase = progress.phase
            _log.info(str(progress))


def log_progress(log: logging.Logger, every_seconds: float = 10.0) -> OnProgress:
    """A function that logs progress to the event log: at every change of phase, else every `every_seconds`."""
    last_phase, last_time = "", 0.0

    def report(progress: Progress) -> None:
        nonlocal last_phase, last_time
        now = time.monotonic()
        if progress.phase != last_phase or now - last_time >= every_seconds:
            last_phase, last_time = progress.phase, now
            log.info(str(progress))

    return report
