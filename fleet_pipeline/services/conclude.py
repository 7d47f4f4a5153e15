"""Concludes each deliberation while the others are still under way: scores, winner, outcome, announcement.

The engine goes on meanwhile: all of this is done in a thread beside it. Until this existed, the winner of a deliberation
that had finished in the first minute was known after the last of 500.

What cannot be concluded here is left to the later ops of the run, which conclude whatever is not.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Self

from fleet_pipeline.deliberation.judging import Judging
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.options import CouncilCheck, CouncilCheckOptions, ScoringOptions, Weights
from fleet_pipeline.scoring.score import RelevanceScorer, code_part, diversity_part, form_part, relevance_part
from fleet_pipeline.services.outcomes import Outcome, checks_of, write_outcome
from fleet_pipeline.services.score_councils import (
    RankedCouncil,
    ranked_councils,
    rate_by_judge,
    rate_by_reward,
    read_batches,
    valid_tasks,
    write_council,
)
from fleet_pipeline.storage.schemas import UTTERANCES
from fleet_pipeline.storage.tables import Transcripts
from fleet_pipeline.storage.task_store import TaskStore

# Councils that are scored together, at most: the first is announced when all have been scored.
TOGETHER = 64
# How long a council waits for others to be scored with. Alone it takes 55 ms to score, in company 9.
COMPANY_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """How councils are scored and ranked, and what of an outcome is worth a warning."""

    weights: Weights
    options: ScoringOptions
    judging: Judging
    checks: CouncilCheckOptions
    encoder: Callable[[], Encoder | None] = lambda: None


class Concluded:
    """The deliberations that a run has concluded so far.

    `failed` says why, of those that did not complete; `failed_checks`, of those with a council check that failed.
    """

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.failed: dict[str, str] = {}
        self.failed_checks: dict[str, dict[CouncilCheck, str]] = {}

    def add(self, outcome: Outcome) -> None:
        key = outcome.row.deliberation_id
        self.keys.add(key)
        if outcome.row.status is not Status.COMPLETED:
            self.failed[key] = f"{outcome.row.status}: {outcome.row.error_message}"
        if checks := checks_of(outcome):
            self.failed_checks[key] = checks


class CouncilScorer:
    """Scores some councils of a run at a time. The figures are those of scoring all of them at once.

    `keys` are all of the run's: a proposal is compared with the tasks of the others.
    """

    def __init__(self, tasks: TaskStore, keys: Sequence[str], rules: Rules, run_id: str) -> None:
        self.tasks = tasks
        self.rules = rules
        self.run_id = run_id
        self.encoder = rules.encoder()
        self.relevance = RelevanceScorer(valid_tasks(tasks, keys).values(), self.encoder)

    def score(self, keys: Sequence[str]) -> Iterator[RankedCouncil]:
        rules, store = self.rules, self.tasks.store
        for batch in read_batches(Transcripts(store, UTTERANCES, keys), self.tasks):
            parts = [
                diversity_part(batch.seats, self.encoder),
                relevance_part(batch.scored, batch.tasks, self.relevance),
                code_part(batch.seats),
                form_part(batch.scored, batch.tasks),
                rate_by_judge(batch, store, rules.judging),
                rate_by_reward(batch, store, rules.options.reward),
            ]
            yield from ranked_councils(batch, parts, rules.weights, rules.options, self.run_id)


class Concluder:
    """A thread that concludes deliberations as their keys arrive. Those that this run has made go before those
    that it found finished, which nobody waits for.

    `announce` makes a stored outcome known. Use it as a context manager: leaving it waits for what has arrived, or,
    where an exception passes, for what this run has made.
    """

    def __init__(
        self,
        tasks: TaskStore,
        keys: Sequence[str],
        rules: Rules,
        run_id: str,
        announce: Callable[[Outcome], None],
        concluded: Concluded,
    ) -> None:
        self._tasks = tasks
        self._keys = keys
        self._rules = rules
        self._run_id = run_id
        self._announce = announce
        self._concluded = concluded
        self._made: deque[str] = deque()
        self._found: deque[str] = deque()
        self._changed = Condition()
        self._prepared = False
        self._ended = False
        self._thread = Thread(target=self._work, name="fleet-conclude", daemon=True)

    def prepare(self) -> None:
        """Load what scores, while the engine starts: it takes a second or two, and the first outcome would wait for it.

        Not earlier: a run that finds its model missing says so before.
        """
        if not self._prepared:
            with self._changed:
                self._prepared = True
                self._changed.notify()

    def made(self, key: str) -> None:
        """This run has made the transcript of `key`, and its judgements where there are any."""
        with self._changed:
            self._made.append(key)
            self._changed.notify()

    def found(self, key: str) -> None:
        """An earlier run has made them."""
        with self._changed:
            self._found.append(key)
            self._changed.notify()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        self._end(hurry=exception is not None)
        try:
            self._thread.join()
        except BaseException:  # a cancel while this waits: nothing may be logged once the run has ended
            self._end(hurry=True)
            self._thread.join()
            raise

    def _end(self, *, hurry: bool) -> None:
        with self._changed:
            self._ended = True
            if hurry:
                self._found.clear()
            self._changed.notify()

    def _work(self) -> None:
        try:
            if not self._is_needed():
                return
            scorer = CouncilScorer(self._tasks, self._keys, self._rules, self._run_id)
            # Half of either's time is waiting for a disk: files here, the event log there.
            with ThreadPoolExecutor(1, "fleet-announce") as announcer:
                told: deque[Future[None]] = deque()
                while keys := self._next():
                    for council in scorer.score(keys):
                        told.append(announcer.submit(self._tell, self._write(council)))
                        while told and (told[0].done() or len(told) > TOGETHER):  # outcomes are held with their texts
                            told.popleft().result()
                while told:
                    told.popleft().result()
        except Exception as error:  # noqa: BLE001 - the run goes on, and its later ops meet and report it
            _log.warning(
                "results are announced when all have finished, because they cannot be concluded now: %s", error
            )

    def _write(self, council: RankedCouncil) -> Outcome:
        write_council(self._tasks.store, council)
        return write_outcome(self._tasks, council.deliberation_id, self._run_id, self._rules.checks, council)

    def _tell(self, outcome: Outcome) -> None:
        self._announce(outcome)
        self._concluded.add(outcome)

    def _is_needed(self) -> bool:
        """Wait until there is something to conclude, or soon will be. False if there will be nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._prepared or self._made or self._found or self._ended)
            return bool(self._made or self._found or not self._ended)

    def _next(self) -> list[str]:
        """Keys to conclude, at most `TOGETHER`. Waits for one, and a little for others. Empty when no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._made or self._found or self._ended)
            self._changed.wait_for(
                lambda: len(self._made) + len(self._found) >= TOGETHER or self._ended, COMPANY_SECONDS
            )
            keys: list[str] = []
            for queue in (self._made, self._found):
                keys += [queue.popleft() for _ in range(min(len(queue), TOGETHER - len(keys)))]
            return keys
