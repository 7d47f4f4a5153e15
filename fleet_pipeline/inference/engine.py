"""The engine interface: jobs go in, and their results come out as they finish."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, Self, get_args

from fleet_pipeline.deliberation.exchange import Action, Completion, Dialogue, Done, Message, Result
from fleet_pipeline.deliberation.transcript import SYNTHETIC
from fleet_pipeline.inference.options import Price


@dataclass(frozen=True)
class Job(Generic[Result]):
    """A dialogue to run: a deliberation, or its judging. `course` must not have been started.

    Without `timeout_seconds` its deadline follows from `most_tokens`, the tokens of its longest course one after
    another, and the engine's measured speed (`fleet_pipeline.inference.pace`).
    """

    key: str
    course: Dialogue[Result]
    timeout_seconds: float | None
    most_tokens: int = 10_000
    tool_seconds: float = 0.0  # that a seat may use tools, beside


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """A job that ended. Times are seconds since the epoch.

    `result` is None only if the dialogue raised an exception. `error` then holds the exception. Other
    jobs are not affected. `timeout_seconds` is the deadline that was in force when it ended.
    """

    key: str
    result: Result | None
    started_at: float
    finished_at: float
    timeout_seconds: float
    error: BaseException | None = None


# What an engine can do to a prompt before it runs it. "length": refuse one that leaves no room for an answer. Otherwise
# the model cuts it off, or breaks. "control_tokens": break up the model's own control tokens in a task or a proposal.
# Otherwise a text can end its turn and open a system turn.
PromptCheck = Literal["length", "control_tokens"]
ALL_CHECKS: frozenset[PromptCheck] = frozenset(get_args(PromptCheck))

OnCompletion = Callable[[Completion], None]


def ignore(_: Completion) -> None:
    """Do nothing. For callers that do not need each completion."""


class Hands(Protocol):
    """What does the actions of agents: many at a time, and those of one workspace one after another."""

    def submit(self, request_id: str, action: Action) -> None: ...

    def take(self, patience_seconds: float) -> list[tuple[str, Done]]:
        """What has been done since the last call. Waits for the first at most so long."""
        ...

    def abort(self, request_ids: Sequence[str]) -> None:
        """End these actions. Nothing is told of them any more."""
        ...


class Origin(NamedTuple):
    """What rows say of the engine that made them: its kind, and what it could not check of prompts; None if it checks all."""

    engine: str
    not_checked: str | None


class Engine(Protocol):
    """Runs many dialogues at once on one model, or on several. As a context manager it frees them at exit."""

    @property
    def start_seconds(self) -> float:
        """Total over all starts."""
        ...

    @property
    def crashes(self) -> list[str]:
        """The reason for each restart."""
        ...

    def run(
        self, jobs: Iterable[Job[Result]], on_completion: OnCompletion = ignore, hands: Hands | None = None
    ) -> Generator[Finished[Result]]:
        """Run every job, with `hands` for the actions of its agents. Read the next one from `jobs` only when there is room for it.

        Calls `on_completion` with every answer as it arrives, unfinished ones included. Raises `EngineError` if the
        engine crashes and cannot be restarted, or has been restarted too often. Before that, and before any other
        exception passes, it yields the jobs under way, ended with what was generated until then: one that the caller
        throws in, too.
        """
        ...

    def origin(self, model: str) -> Origin:
        """Of what `model` says here."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def origin_of(kind: str, checks: frozenset[PromptCheck], *, synthetic: bool = False) -> Origin:
    """`kind` is such as "vllm"; of a `synthetic` engine no model answers. `checks` are those that it does."""
    missing = ", ".join(name for name in get_args(PromptCheck) if name not in checks)  # in their order
    return Origin(f"{SYNTHETIC}{kind}" if synthetic else kind, missing or None)


class Reward(NamedTuple):
    """`value` is None where the chat does not fit into the model's context."""

    value: float | None
    prompt_tokens: int


class RewardModel(Protocol):
    """Rates chats. As a context manager it frees the model at exit."""

    kind: str  # such as "vllm"

    def rate(self, chats: Sequence[Sequence[Message]]) -> list[Reward]:
        """A reward for each chat, whose last message is the answer. Raises `EngineError`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class EngineProvider(Protocol):
    """Starts engines. `model` is the default when neither the task nor the role names one."""

    model: str
    synthetic: bool  # of its engines; production refuses it

    def identity(self, model: str) -> str:
        """A text that changes whenever something other than the name changes the model's output."""
        ...

    def max_tokens(self, model: str) -> int | None:
        """The longest answer that the options of `model` ask for; None where they say nothing."""
        ...

    def price_of(self, model: str) -> Price | None: ...

    def start(self, *models: str) -> Engine:
        """An engine on which all of `models` speak."""
        ...

    def start_reward(self, model: str) -> RewardModel:
        """Load a reward model, when no engine holds the memory."""
        ...
