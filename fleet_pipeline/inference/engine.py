"""What an engine is: jobs go in, their results come out as they finish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from fleet_pipeline.deliberation.protocol import Dialogue
from fleet_pipeline.deliberation.transcript import Completion

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """A course to run: a deliberation, or its judging. `course` is fresh: it has not been started."""

    key: str
    course: Dialogue[Result]
    timeout_seconds: float


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """A job that ended. Times are seconds since the epoch.

    `result` is None only when the course itself raised: `error` then says what, and the other
    jobs went on.
    """

    key: str
    result: Result | None
    started_at: float
    finished_at: float
    error: BaseException | None = None


OnCompletion = Callable[[Completion], None]


def ignore(_: Completion) -> None:
    """For callers that need no news between finished deliberations."""


class Engine(Protocol):
    """Runs many deliberations at once on one model. A context manager: leaving it frees the model."""

    name: str
    start_seconds: float  # of all starts together
    crashes: list[str]  # why it had to be started again, each time

    def run(self, jobs: Iterable[Job[Result]], on_completion: OnCompletion = ignore) -> Iterator[Finished[Result]]:
        """Run every job, reading `jobs` only as room becomes free.

        `on_completion` is called with every answer as it comes. Raises `EngineError` when the engine breaks and
        cannot be started again, or has been too often.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EngineProvider(Protocol):
    """What starts engines. `model` is the one used where a task and role name none."""

    model: str

    def identity(self, model: str) -> str:
        """What decides a model's words beside its name."""
        ...

    def start(self, model: str) -> Engine: ...
