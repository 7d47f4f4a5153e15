"""Several models in one run: each request goes to the engine of its model.

Models on servers answer side by side. So do models that are loaded into this process while its memory holds them all. Where it
does not, they come in waves: of the models with nothing left to do as many are released as must be, and the one with the most
requests waiting is loaded. So that waves are long, many councils are open at once: each phase of a council whose critic is
another model costs a change of models for all of them, and not for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import NamedTuple, Protocol, Self

from fleet_pipeline.common.errors import EngineCrashed, EngineError
from fleet_pipeline.deliberation.exchange import Completion, Request, Result
from fleet_pipeline.inference.engine import Engine, Finished, Hands, Job, OnCompletion, Origin, ignore
from fleet_pipeline.inference.loop import Backend, drive

# Requests that may be under way or wait for their model at a time: some 340 councils of three agents in a wave.
WAVE = 1_024
# How long the engine of this process is waited for while others are answering as well.
_SHORT_SECONDS = 0.02
# Shares of memory are sums of fractions: three of 1/3 must fit.
_ROUNDING = 1e-9


def fit_together(shares: Iterable[float]) -> bool:
    """Whether models that take these shares of the memory can be loaded at a time."""
    return sum(shares) <= 1 + _ROUNDING


class Speaker(Engine, Backend, Protocol):
    """The engine of one model."""


class LocalModel(NamedTuple):
    """A model that this process loads. `share` is the part of the memory for models that it takes."""

    start: Callable[[], Speaker]
    share: float


class Router:
    """The engine of several models. Use it as a context manager."""

    def __init__(
        self,
        served: Mapping[str, Speaker],
        local: Mapping[str, LocalModel],
        local_origin: Origin,
        max_in_flight: int,
        max_restarts: int,
    ) -> None:
        """`served` are connected. Rows of `local` models are of `local_origin` until they are loaded."""
        self._served = dict(served)
        self._local = dict(local)
        self._origins = dict.fromkeys(local, local_origin) | {name: one.origin(name) for name, one in served.items()}
        self._loaded: dict[str, Speaker] = {}
        self._parked: dict[str, dict[str, Request]] = {model: {} for model in local}  # by model and request id
        self._asked: dict[str, set[str]] = {model: set() for model in (*served, *local)}  # request ids, by model
        self._at_once: list[tuple[str, Completion]] = []  # refusals of requests that had been parked
        in_waves = not fit_together(one.share for one in local.values())
        self._max_in_flight = max(WAVE, max_in_flight) if in_waves else max_in_flight
        self._max_restarts = max_restarts
        self._failed: tuple[str, EngineError] | None = None  # a model's, met in a step that had answers as well
        self._crashed: str | None = None  # the model whose crash was told last
        self._down, self._downs = 0.0, [engine.down_seconds for engine in served.values()]
        self._released_crashes: list[str] = []
        self._released_start_seconds = sum(one.start_seconds for one in served.values())

    @property
    def crashes(self) -> list[str]:
        return self._released_crashes + [crash for engine in self._loaded.values() for crash in engine.crashes]

    @property
    def start_seconds(self) -> float:
        return self._released_start_seconds + sum(engine.start_seconds for engine in self._loaded.values())

    @property
    def down_seconds(self) -> float:
        """While a model is loaded, or any model's servers are gone, the clocks of deadlines stand still."""
        self._count_down()
        return self._down

    def _count_down(self, loading_seconds: float = 0.0) -> None:
        """Add what has passed since the last call. Where several stood still at a time, it counts once."""
        downs = [engine.down_seconds for engine in self._served.values()]
        grown = [after - before for before, after in zip(self._downs, downs, strict=True)]
        self._down += max([loading_seconds, *grown])
        self._downs = downs

    def origin(self, model: str) -> Origin:
        return self._origins[model]

    def run(
        self, jobs: Iterable[Job[Result]], on_completion: OnCompletion = ignore, hands: Hands | None = None
    ) -> Generator[Finished[Result]]:
        return drive(
            jobs,
            self,
            max_in_flight=self._max_in_flight,
            restarts=self._max_restarts,
            on_completion=on_completion,
            hands=hands,
        )

    def submit(self, request_id: str, request: Request) -> Completion | None:
        model = request.model
        engine = self._engine_of(model)
        if engine is None:
            self._parked[model][request_id] = request
            return None
        return self._ask(model, engine, request_id, request)

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise self._of(*failed)
        while (model := self._next()) is not None:
            self._load(model)
        answers, self._at_once = self._at_once, []
        busy = [name for name, asked in self._asked.items() if asked]
        patience = patience_seconds if len(busy) < 2 else _SHORT_SECONDS
        for model in busy:
            engine = self._engine_of(model)
            if engine is None:
                continue
            try:
                answers += engine.step(0.0 if answers else patience)
            except EngineError as error:
                if not answers:
                    raise self._of(model, error) from None
                self._failed = model, error  # the answers of the others are delivered first
                break
        for request_id, _ in answers:
            self._forget(request_id)
        return answers

    def _of(self, model: str, error: EngineError) -> EngineError:
        """Of a crash of the engine of `model`: councils that wait for other engines have no part in it.

        Asked when it is told: the answers that went before it may have led to further requests.
        """
        if isinstance(error, EngineCrashed):
            self._crashed = model
            error.request_ids = frozenset(self._asked[model])
        return error

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        partials: dict[str, Completion] = {}
        wanted = set(request_ids)
        for parked in self._parked.values():
            for request_id in wanted & parked.keys():
                del parked[request_id]
        for model, asked in self._asked.items():
            engine = self._engine_of(model)
            if engine is not None and (own := wanted & asked):
                partials |= engine.abort(sorted(own))
                asked -= own
        return partials

    def restart(self, reason: str) -> None:
        """Of the engine whose crash was told last: those of servers do not crash."""
        assert self._crashed is not None
        self._asked[self._crashed].clear()
        self._loaded[self._crashed].restart(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for model in list(self._loaded):
            self._release(model)
        for engine in self._served.values():
            engine.__exit__(None, None, None)

    def _engine_of(self, model: str) -> Speaker | None:
        return self._served.get(model) or self._loaded.get(model)

    def _ask(self, model: str, engine: Speaker, request_id: str, request: Request) -> Completion | None:
        refused = engine.submit(request_id, request)
        if refused is None:
            self._asked[model].add(request_id)
        return refused

    def _forget(self, request_id: str) -> None:
        for asked in self._asked.values():
            asked.discard(request_id)

    def _next(self) -> str | None:
        """The model to load now, after as many as must be were released; None where nothing waits, or memory is short."""
        waiting = [name for name, parked in self._parked.items() if parked]
        for model in sorted(waiting, key=lambda name: -len(self._parked[name])):
            staying = list(self._loaded)
            idle = [name for name in staying if not self._asked[name]]
            while staying and not self._fits(model, beside=staying) and idle:
                staying.remove(idle.pop())
            if not staying or self._fits(model, beside=staying):  # a model that is too large alone says so itself
                for name in self._loaded.keys() - staying:
                    self._release(name)
                return model
        return None

    def _fits(self, model: str, beside: Iterable[str]) -> bool:
        return fit_together(self._local[name].share for name in (model, *beside))

    def _load(self, model: str) -> None:
        """Load `model`, and hand it what has waited for it. Raises `EngineError`."""
        self._count_down()
        began = time.monotonic()
        engine = self._local[model].start()
        self._loaded[model] = engine
        self._origins[model] = engine.origin(model)
        self._count_down(time.monotonic() - began)
        waiting, self._parked[model] = self._parked[model], {}
        for request_id, request in waiting.items():
            refused = self._ask(model, engine, request_id, request)
            if refused is not None:
                self._at_once.append((request_id, refused))

    def _release(self, model: str) -> None:
        engine = self._loaded.pop(model)
        self._released_crashes += engine.crashes
        self._released_start_seconds += engine.start_seconds
        engine.__exit__(None, None, None)
