"""A whole run in a process of its own, killed at one of `POINTS`.

A file counts the prompts to the engine across processes, so that a test can tell what a kill cost.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import sklearn.feature_extraction.text  # noqa: F401 - imported once: two seconds in each process otherwise

from fleet_pipeline.cli import local_run
from fleet_pipeline.cli.local_run import RunPublisher
from fleet_pipeline.defs import assets, score_ops
from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.deliberation.protocol import request_name
from fleet_pipeline.events import publisher
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.services import conclude, keeping, publishing, score_councils
from fleet_pipeline.storage import transcripts
from fleet_pipeline.storage.answer_log import earlier_logs
from fleet_pipeline.storage.schemas import UTTERANCES
from fleet_pipeline.storage.tables import read_file
from fleet_pipeline_tests.support.deployment import instance_at
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.kill_points import after, before, die, die_in
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import echo


class KilledRun(NamedTuple):
    """What to run, and the one of `POINTS` at which to kill it. With `nats` it publishes as it goes, as `fleet run` does."""

    home: Path
    storage: Path
    keys: Sequence[str]
    point: str
    nats: str | None = None

    @property
    def asked(self) -> Path:
        return self.storage.parent / "asked"


def run_and_kill(run: KilledRun) -> None:
    """Execute the run in a process of its own, and assert that it was killed."""
    die_in(execute, run)


def execute(run: KilledRun) -> None:
    with instance_at(run.home) as instance:
        pipeline = Pipeline(instance, run.storage)
        pipeline.answer = counted(run.asked)
        arm = POINTS[run.point]
        arm(pipeline)
        run_and_publish(pipeline, run)
    # The run ended, so the point was never reached; `run_and_kill` fails on this exit code.
    os._exit(0)


def run_and_publish(pipeline: Pipeline, run: KilledRun) -> None:
    if run.nats is None:
        pipeline.run(list(run.keys))
        return
    # So that it publishes in the midst of a short run, and in more than one batch.
    local_run.PUBLISH_SECONDS = 0.02
    local_run.publish_pending = partial(publishing.publish_pending, page=1)  # type: ignore[assignment]
    with RunPublisher(pipeline.instance, NatsOptions(url=run.nats)) as announcer:
        pipeline.run(list(run.keys))
        announcer.finish()


def answers_known(pipeline: Pipeline, keys: Sequence[str], run_id: str | None = None) -> int:
    """How many answers that count stand in transcripts or in logs, of one run or of all."""
    logs = earlier_logs(pipeline.store, keys)
    wanted = [log for log in logs if run_id in (None, log.run_id)]
    known = {one.request for log in wanted for one in log.answers if one.completion.text}
    for key in pipeline.store.names("utterances", ".parquet"):
        known |= {
            request_name(key, one.agent_id, one.phase, one.round, one.about_agent_id, one.attempt)
            for one in read_file(pipeline.store, UTTERANCES, key).rows
            if one.error_type is None and run_id in (None, one.run_id)
        }
    return len(known)


def counted(file: Path) -> Callable[[Heard], Completion]:
    def answer(prompt: Heard) -> Completion:
        with file.open("ab") as counter:
            counter.write(b".")
        return echo(prompt)

    return answer


def _at_prompt(phase: str, nth: int) -> Callable[[Pipeline], None]:
    """Die before the nth prompt of a phase is answered."""

    def arm(pipeline: Pipeline) -> None:
        answer, seen = pipeline.answer, 0

        def counting(prompt: Heard) -> Completion:
            nonlocal seen
            seen += prompt.phase == phase
            if prompt.phase == phase and seen == nth:
                die()
            return answer(prompt)

        pipeline.answer = counting

    return arm


def _at_answer(nth: int) -> Callable[[Pipeline], None]:
    """Die after nth answers of an engine that gives one at a time, slowly enough for a disk to log it."""

    def arm(pipeline: Pipeline) -> None:
        answer, seen = pipeline.answer, 0

        def counting(prompt: Heard) -> Completion:
            nonlocal seen
            time.sleep(0.02)
            if seen == nth:
                die()
            seen += 1
            return answer(prompt)

        pipeline.answer, pipeline.source.batch = counting, 1

    return arm


def _at_call(instrument: Callable[[], None]) -> Callable[[Pipeline], None]:
    return lambda _: instrument()


def _at_proposals(nth: int) -> Callable[[Pipeline], None]:
    """Die when the nth file of proposals is written and has not got its name."""

    def arm(_: Pipeline) -> None:
        real, seen = Path.replace, 0

        def replace(path: Path, target: Path) -> Path:
            nonlocal seen
            seen += Path(target).parent.name == "proposals"
            if Path(target).parent.name == "proposals" and seen == nth:
                die()
            return real(path, target)

        Path.replace = replace  # type: ignore[assignment, method-assign]

    return arm


def _left(instrument: Callable[[], None]) -> Callable[[Pipeline], None]:
    """As `instrument` says, in a run that concludes nothing while it generates."""

    def arm(_: Pipeline) -> None:
        def fail(*_: object) -> None:
            raise OSError("no more threads")

        conclude.CouncilScorer.score = fail  # type: ignore[assignment, method-assign]
        instrument()

    return arm


def finished(count: int) -> Callable[[Pipeline], None]:
    """Die when `count` transcripts have been written."""
    return _at_call(after(keeping, "write_transcript", count))


# The counts assume four deliberations, unless a point says otherwise.
POINTS: dict[str, Callable[[Pipeline], None]] = {
    "at the first proposal": _at_prompt("propose", 1),
    "in the midst of proposing": _at_prompt("propose", 7),
    "at the first critique": _at_prompt("critique", 1),
    "in the midst of criticising": _at_prompt("critique", 7),
    "at the first revision": _at_prompt("revise", 1),
    "in the midst of revising": _at_prompt("revise", 7),
    "before a transcript is written": _at_call(before(keeping, "write_transcript", 3)),
    "when a transcript is written and has not got its name": _at_call(before(Path, "replace", 3)),
    "after a transcript is written": finished(3),
    "after the last transcript": finished(4),
    "when an earlier attempt is kept and not replaced": _at_call(after(transcripts, "_keep_attempt", 3)),
    # In the thread that concludes, while the engine goes on or has just ended.
    "before the first council is concluded": _at_call(before(conclude, "read_batches")),
    "before a council is scored": _at_call(before(conclude, "relevance_part")),
    "before a council is ranked": _at_call(before(conclude, "ranked_councils")),
    "between scores and proposals": _at_call(before(score_councils, "write_rows", 6)),
    "when proposals are written and have not got their name": _at_proposals(2),
    "after the proposals": _at_call(after(score_councils, "write_rows", 8)),
    "before the first outcome": _at_call(before(conclude, "write_outcome")),
    "in the midst of the outcomes": _at_call(after(conclude, "write_outcome", 3)),
    "between an outcome and its events": _at_call(before(assets, "fill_outbox", 3)),
    "between an outcome's events and the event log": _at_call(after(assets, "fill_outbox", 3)),
    "after the last outcome": _at_call(after(assets, "fill_outbox", 4)),
    # In the thread that publishes while the run goes on.
    "published: before the first": _at_call(before(publishing, "publish")),
    "published: before the second batch": _at_call(before(publishing, "publish", 2)),
    "published: third batch sent, no ack yet": _at_call(before(publisher, "_settle", 3)),
    "published: after the acks": _at_call(after(publishing, "publish")),
    # In the ops that conclude what is left.
    "before what is left is read": _at_call(before(score_ops, "read_batches")),
    "before what is left is scored": _at_call(before(score_ops, "diversity_part")),
    "before what is left is ranked": _at_call(before(score_ops, "ranked_councils")),
    "in the midst of what is left": _left(after(assets, "write_outcome", 3)),
    "after 6 more": finished(6),
    "after 24 more": finished(24),
    **{f"{nth} answers more": _at_answer(nth) for nth in range(1, 9)},
    "never": lambda _: None,
}
