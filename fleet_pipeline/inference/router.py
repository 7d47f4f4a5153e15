"""Several models in one run: each request goes to the engine of its model.

Models on servers answer side by side. Of models that are loaded into this process one is there at a time, because
each takes what memory there is. They come in waves: when nothing is left to do with the one that is loaded, it is released, and
the one with the most requests waiting is loaded. So that waves are long, many councils are open at once: each phase of
a council whose critic is another model costs a change of models for all of them, and not for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Protocol, Self

from fleet_pipeline.common.errors import EngineCrashed, EngineError
from fleet_pipeline.deliberation.exchange import Completion, Request, Result
from fleet_pipeline.inference.engine import Engine, Finished, Job, OnCompletion, Origin, ignore
from fleet_pipeline.inference.loop import Backend, drive

# Requests that may be under way or wait for their model at a time: some 340 councils of three agents in a wave.
WAVE = 1_024
# How long the engine of this process is waited for while servers are answering as well.
_SHORT_SECONDS = 0.02


class Speaker(Engine, Backend, Protocol):
    """The engine of one model."""


class Router:
    """The engine of several models. Use it as a context manager."""

    def __init__(
        self,
        served: Mapping[str, Speaker],
        local: Mapping[str, Callable[[], Speaker]],
        local_origin: Origin,
        max_in_flight: int,
        max_restarts: int,
    ) -> None:
        """`served` are connected. `local` start the models of this process, whose rows are of `local_origin` until they have."""
        self._served = dict(served)
        self._local = dict(local)
        self._origins = dict.fromkeys(local, local_origin) | {name: one.origin(name) for name, one in served.items()}
        self._loaded: tuple[str, Speaker] | None = None
        self._parked: dict[str, dict[str, Request]] = {model: {} for model in local}  # by model and request id
        self._asked: dict[str, set[str]] = {model: set() for model in (*served, *local)}  # request ids, by model
        self._at_once: list[tuple[str, Completion]] = []  # refusals of requests that had been parked
        self._max_in_flight = max(WAVE, max_in_flight) if len(local) > 1 else max_in_flight
        self._max_restarts = max_restarts
        self._failure: EngineError | None = None  # met in a step that had answers as well
        self._down, self._downs = 0.0, [engine.down_seconds for engine in served.values()]
        self._released_crashes: list[str] = []
        self._released_start_seconds = sum(one.start_seconds for one in served.values())

    @property
    def crashes(self) -> list[str]:
        return [*self._released_crashes, *(self._loaded[1].crashes if self._loaded else ())]

    @property
    def start_seconds(self) -> float:
        return self._released_start_seconds + (self._loaded[1].start_seconds if self._loaded else 0.0)

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

    def run(self, jobs: Iterable[Job[Result]], on_completion: OnCompletion = ignore) -> Generator[Finished[Result]]:
        return drive(
            jobs, self, max_in_flight=self._max_in_flight, restarts=self._max_restarts, on_completion=on_completion
        )

    def submit(self, request_id: str, request: Request) -> Completion | None:
        model = request.model
        engine = self._engine_of(model)
        if engine is None:
            self._parked[model][request_id] = request
            return None
        return self._ask(model, engine, request_id, request)

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._concerning(failure)
        if any(self._parked.values()) and (self._loaded is None or not self._asked[self._loaded[0]]):
            self._change()
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
                    raise self._concerning(error) from None
                self._failure = error  # the answers of the others are delivered first
                break
        for request_id, _ in answers:
            self._forget(request_id)
        return answers

    def _concerning(self, error: EngineError) -> EngineError:
        """Of a crash of the engine in this process: councils that wait for other engines have no part in it.

        Asked when it is told: the answers that went before it may have led to further requests.
        """
        if isinstance(error, EngineCrashed) and self._loaded is not None:
            error.request_ids = frozenset(self._asked[self._loaded[0]])
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
        """Of the engine in this process: those of servers do not crash."""
        assert self._loaded is not None
        self._asked[self._loaded[0]].clear()
        self._loaded[1].restart(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
        for engine in self._served.values():
            engine.__exit__(None, None, None)

    def _engine_of(self, model: str) -> Speaker | None:
        if model in self._served:
            return self._served[model]
        return self._loaded[1] if self._loaded and self._loaded[0] == model else None

    def _ask(self, model: str, engine: Speaker, request_id: str, request: Request) -> Completion | None:
        refused = engine.submit(request_id, request)
        if refused is None:
            self._asked[model].add(request_id)
        return refused

    def _forget(self, request_id: str) -> None:
        for asked in self._asked.values():
            asked.discard(request_id)

    def _change(self) -> None:
        """Release the loaded model, and load the one that most requests wait for. Raises `EngineError`."""
        self._count_down()
        began = time.monotonic()
        model = max(self._parked, key=lambda name: len(self._parked[name]))
        self._release()
        engine = self._local[model]()
        self._loaded = model, engine
        self._origins[model] = engine.origin(model)
        self._count_down(time.monotonic() - began)
        waiting, self._parked[model] = self._parked[model], {}
        for request_id, request in waiting.items():
            refused = self._ask(model, engine, request_id, request)
            if refused is not None:
                self._at_once.append((request_id, refused))

    def _release(self) -> None:
        if self._loaded is None:
            return
        _, engine = self._loaded
        self._loaded = None
        self._released_crashes += engine.crashes
        self._released_start_seconds += engine.start_seconds
        engine.__exit__(None, None, None)
