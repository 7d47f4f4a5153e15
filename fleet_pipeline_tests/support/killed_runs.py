"""A whole run in a process of its own, killed at any of `POINTS`.

What the engine was asked is counted in a file, across processes, so that what a kill cost can be told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import sklearn.feature_extraction.text  # noqa: F401 - once, and not in every process: two seconds each

from fleet_pipeline.defs import assets, io_managers, score_ops
from fleet_pipeline.deliberation.prompts import Prompt
from fleet_pipeline.deliberation.transcript import Completion
from fleet_pipeline.inference.scripted import echo
from fleet_pipeline.services import transcribe
from fleet_pipeline.storage import store, transcripts
from fleet_pipeline_tests.support.kill_points import after, before, die, die_in
from fleet_pipeline_tests.support.pipeline import Pipeline


class KilledRun(NamedTuple):
    """What to run, and at which of `POINTS` to end it."""

    home: Path
    storage: Path
    keys: Sequence[str]
    point: str

    @property
    def asked(self) -> Path:
        return self.storage.parent / "asked"


def run_and_kill(run: KilledRun) -> None:
    """Execute the run in a process of its own, and make sure that it died where it should."""
    die_in(execute, run)


def execute(run: KilledRun) -> None:
    with dg.DagsterInstance.from_config(str(run.home)) as instance:
        pipeline = Pipeline(instance, run.storage)
        pipeline.answer = counted(run.asked)
        arm = POINTS[run.point]
        arm(pipeline)
        pipeline.run(list(run.keys))
    # It came to its end: the point was never reached, and `run_and_kill` says so.
    os._exit(0)


def counted(file: Path) -> Callable[[Prompt], Completion]:
    def answer(prompt: Prompt) -> Completion:
        with file.open("ab") as counter:
            counter.write(b".")
        return echo(prompt)

    return answer


def _asked(phase: str, nth: int) -> Callable[[Pipeline], None]:
    """Die when the nth prompt of a phase is about to be answered."""

    def arm(pipeline: Pipeline) -> None:
        answer, seen = pipeline.answer, 0

        def counting(prompt: Prompt) -> Completion:
            nonlocal seen
            seen += prompt.phase == phase
            if prompt.phase == phase and seen == nth:
                die()
            return answer(prompt)

        pipeline.answer = counting

    return arm


def _at(instrument: Callable[[], None]) -> Callable[[Pipeline], None]:
    return lambda _: instrument()


def finished(count: int) -> Callable[[Pipeline], None]:
    """Die when so many transcripts have been written."""
    return _at(after(transcribe, "write_transcript", count))


# Numbers are of four deliberations, where a point does not say otherwise.
POINTS: dict[str, Callable[[Pipeline], None]] = {
    "at the first proposal": _asked("propose", 1),
    "in the midst of proposing": _asked("propose", 7),
    "at the first critique": _asked("critique", 1),
    "in the midst of criticising": _asked("critique", 7),
    "at the first revision": _asked("revise", 1),
    "in the midst of revising": _asked("revise", 7),
    "before a transcript is written": _at(before(transcribe, "write_transcript", 3)),
    "when a transcript is written and has not got its name": _at(before(Path, "replace", 3)),
    "after a transcript is written": finished(3),
    "after the last transcript": finished(4),
    "when an earlier attempt is kept and not replaced": _at(after(transcripts, "_keep_earlier", 3)),
    "before scoring": _at(before(score_ops, "diversity")),
    "in the midst of scoring": _at(before(score_ops, "relevance")),
    "before the rank": _at(before(score_ops, "rank")),
    "between scores and proposals": _at(before(io_managers, "write_rows", 3)),
    "when proposals are written and have not got their name": _at(before(store, "_write_local", 8)),
    "after the proposals": _at(after(io_managers, "write_rows", 4)),
    "before the first outcome": _at(before(assets, "write_outcome")),
    "in the midst of the outcomes": _at(after(assets, "write_outcome", 3)),
    "between an outcome and its events": _at(before(assets, "fill_outbox", 3)),
    "between an outcome's events and the event log": _at(after(assets, "fill_outbox", 3)),
    "after the last outcome": _at(after(assets, "fill_outbox", 4)),
    "after 6 more": finished(6),
    "after 24 more": finished(24),
    "never": lambda _: None,
}
