"""A deterministic engine for tests of everything except inference.

It is no part of the package, and `build_definitions` refuses it unless a test passes `allow_synthetic=True`.
Every row that it produces has `engine = "synthetic: scripted"`.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import ClassVar, Self

from fleet_pipeline.deliberation.exchange import Completion, Message, Request
from fleet_pipeline.inference.engine import (
    Finished,
    Hands,
    Job,
    OnCompletion,
    Origin,
    Result,
    Reward,
    ignore,
    origin_of,
)
from fleet_pipeline.inference.loop import drive
from fleet_pipeline.inference.options import Price
from fleet_pipeline_tests.support.heard import Heard

Script = Callable[[Heard], Completion]


def echo(prompt: Heard) -> Completion:
    """The default script. Each answer names its seat, phase and seed, so that all answers differ."""
    text = f"{prompt.seat.agent_id} says {prompt.phase} {prompt.round} on {prompt.about.label} (seed {prompt.seed})."
    return Completion(text=text, finish_reason="stop", prompt_tokens=100, cached_tokens=80, completion_tokens=20)


class ScriptedEngine:
    """Answers prompts with a function, in order, at most `batch` per step."""

    start_seconds = 0.0
    down_seconds = 0.0

    def __init__(self, script: Script = echo, *, batch: int = 16, max_in_flight: int = 32, restarts: int = 5) -> None:
        self.script = script
        self.restarts = restarts
        self.batch = batch
        self.max_in_flight = max_in_flight
        self.queue: dict[str, Heard] = {}
        self.crashes: list[str] = []

    def origin(self, model: str) -> Origin:
        return origin_of("scripted", frozenset(), synthetic=True)

    def submit(self, request_id: str, request: Request) -> Completion | None:
        self.queue[request_id] = Heard(request)
        return None

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        due = list(self.queue.items())[: self.batch]
        for request_id, _ in due:
            del self.queue[request_id]
        return [(request_id, self.script(prompt)) for request_id, prompt in due]

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        for request_id in request_ids:
            self.queue.pop(request_id, None)
        return {}

    def run(
        self, jobs: Iterable[Job[Result]], on_completion: OnCompletion = ignore, hands: Hands | None = None
    ) -> Generator[Finished[Result]]:
        return drive(
            jobs,
            self,
            max_in_flight=self.max_in_flight,
            restarts=self.restarts,
            on_completion=on_completion,
            hands=hands,
        )

    def restart(self, reason: str) -> None:
        self.crashes.append(reason)
        self.queue.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.clear()


class ScriptedProvider:
    """Starts scripted engines. Outside tests, `build_definitions` refuses every provider except vLLM's."""

    model = "scripted"
    synthetic = True
    batch = 16  # answers in a step
    prices: ClassVar[dict[str, Price]] = {}

    def __init__(self, script: Script = echo) -> None:
        self.script = script

    def identity(self, model: str) -> str:
        return ""

    def max_tokens(self, model: str) -> int | None:
        return None

    def price_of(self, model: str) -> Price | None:
        return self.prices.get(model)

    def start(self, *models: str) -> ScriptedEngine:
        return ScriptedEngine(self.script, batch=self.batch)

    def start_reward(self, model: str) -> "ScriptedRewards":
        return ScriptedRewards()


class ScriptedRewards:
    """A reward model that likes long words: the mean length of an answer's words, nothing for one that says "too long"."""

    kind = "synthetic: scripted"

    def rate(self, chats: Sequence[Sequence[Message]]) -> list[Reward]:
        answers = [chat[-1].content for chat in chats]
        return [
            Reward(None if "too long" in text else sum(map(len, text.split())) / len(text.split()), len(text.split()))
            for text in answers
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
