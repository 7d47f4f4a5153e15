"""What the GPU op does: run the deliberations that are not done yet, have them judged where that is wanted,
and keep each result as it finishes.

Plain Python, so that it can be tested without Dagster. Files are the truth for progress: a
deliberation whose transcript is complete and was made from the same inputs is not run again, and
neither is its judging.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import pandas as pd

from fleet_pipeline.defs.progress import Progress, Report
from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation, convene
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.judging import Judgement, Judging, judge, judging_fingerprint
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.transcript import AgentError, Completion, Status, Transcript
from fleet_pipeline.inference.engine import Engine, Finished, Job, ModelUnavailable
from fleet_pipeline.scoring.proposals import final_proposals, texts
from fleet_pipeline.storage.rows import Provenance, TranscriptFacts, write_judgements, write_transcript
from fleet_pipeline.storage.store import StorageError, Store
from fleet_pipeline.storage.tables import read_file, read_rows, write_rows
from fleet_pipeline.storage.task_store import get_task

# What says nothing about the question: asked another time, the judge may answer.
NOT_ANSWERED = frozenset({AgentError.DEADLINE, AgentError.ENGINE})


@dataclass
class _Work:
    """Keys to do on one model."""

    deliberate: list[str] = field(default_factory=list)
    judge: list[str] = field(default_factory=list)


class Transcription:
    """One run of the GPU op over `keys`."""

    def __init__(
        self,
        store: Store,
        roles: Mapping[str, Role],
        defaults: CouncilDefaults,
        start_engine: Callable[[str], Engine],
        run_id: str,
        report: Report,
        judging: Judging | None = None,
    ) -> None:
        self.judging = judging or Judging()
        self.store = store
        self.roles = roles
        self.defaults = defaults
        self.start_engine = start_engine
        self.run_id = run_id
        self.report = report
        self.progress = Progress()

    def run(self, keys: Sequence[str]) -> Progress:
        """Transcribe every key that has a valid task: each has a transcript on disk afterwards, failed
        ones included. A key without one is left alone, and keeps the transcript it may have.

        Raises `EngineError` when an engine cannot start or breaks; what had finished is kept.
        """
        self.progress.total = len(keys)
        self.report(self.progress)
        # One engine per model. Only keys are held here: specs are read again as room becomes free,
        # so that memory does not grow with the backlog.
        for model, work in self._missing(keys).items():
            try:
                self._run_on(model, work)
            except ModelUnavailable as error:
                if model == self.defaults.model:
                    raise
                # A model that a task or role names for itself costs no more than its own deliberations.
                self._fail(work.deliberate, str(error))
        self.progress.phase = "transcribed"
        self.report(self.progress)
        return self.progress

    def _missing(self, keys: Sequence[str]) -> dict[str, _Work]:
        """What must be run, by model. A key without a valid task is left to the verdict."""
        missing: dict[str, _Work] = {}
        for key in keys:
            try:
                deliberation = self._convene(key)
            except InvalidInput:
                self.progress.failed += 1
                continue
            if self._is_done(deliberation):
                self.progress.reused += 1
                if self.judging.enabled and not self._is_judged(deliberation):
                    missing.setdefault(deliberation.model, _Work()).judge.append(key)
            else:
                work = missing.setdefault(deliberation.model, _Work())
                work.deliberate.append(key)
                work.judge.append(key)
        return missing

    def _is_done(self, deliberation: Deliberation) -> bool:
        try:
            found = read_file(self.store, "utterances", deliberation.id)
        except StorageError:  # torn or foreign: what it should have held is missing
            return False
        facts = found[1] if found else {}
        return facts.get("status") == Status.COMPLETED and facts.get("fingerprint") == deliberation.fingerprint

    def _run_on(self, model: str, work: _Work) -> None:
        progress = self.progress
        progress.phase = f"starting the engine with {model}"
        self.report(progress)
        with self.start_engine(model) as engine:
            progress.engine_starts += 1
            progress.engine_start_seconds += engine.start_seconds
            progress.phase = "deliberating"
            progress.generating_since = time.monotonic()
            self.report(progress)
            under_way: dict[str, Deliberation] = {}
            try:
                for finished in engine.run(self._jobs(work.deliberate, under_way), self._heard):
                    self._keep(under_way.pop(finished.key), finished, engine)
                    self.report(progress)
                if self.judging.enabled:
                    self._judge(engine, work.judge)
            finally:
                progress.generating_seconds = progress.seconds
                progress.generating_since = None

    def _judge(self, engine: Engine, keys: Sequence[str]) -> None:
        """After all have deliberated, so that a judging that is cut short costs no deliberation."""
        self.progress.phase = "judging"
        self.report(self.progress)
        under_way: dict[str, tuple[Deliberation, str]] = {}

        def jobs() -> Iterator[Job[tuple[Judgement, ...]]]:
            for key in keys:
                with suppress(InvalidInput):
                    deliberation = self._convene(key)
                    if self._is_done(deliberation):
                        proposals = self._proposals(deliberation)
                        judged = judging_fingerprint(deliberation.fingerprint, proposals, self.judging)
                        under_way[key] = (deliberation, judged)
                        yield Job(key, judge(deliberation, proposals, self.judging), deliberation.timeout_seconds)

        for finished in engine.run(jobs(), self._heard):
            deliberation, judged = under_way.pop(finished.key)
            judgements = finished.result or ()
            if (not judgements and finished.error) or any(one.utterance.error in NOT_ANSWERED for one in judgements):
                judged = ""  # kept for people to see, and asked again by the next run
            provenance = Provenance(deliberation.model, engine.name, self.run_id, deliberation.fingerprint)
            write_judgements(self.store, deliberation, judgements, provenance, judged)

    def _is_judged(self, deliberation: Deliberation) -> bool:
        try:
            found = read_file(self.store, "judgements", deliberation.id)
        except StorageError:
            return False
        wanted = judging_fingerprint(deliberation.fingerprint, self._proposals(deliberation), self.judging)
        return found is not None and found[1].get("judged") == wanted

    def _proposals(self, deliberation: Deliberation) -> dict[str, str]:
        """Final texts by agent id."""
        rows = read_rows(self.store, "utterances", deliberation.id)
        seats = final_proposals(rows.to_pandas()) if rows is not None else final_proposals(pd.DataFrame())
        return texts(seats)

    def _jobs(self, keys: Sequence[str], under_way: dict[str, Deliberation]) -> Iterator[Job[Transcript]]:
        for key in keys:
            try:
                deliberation = self._convene(key)
            except InvalidInput:  # it was good a moment ago: the file changed meanwhile
                self.progress.failed += 1
                continue
            under_way[key] = deliberation
            yield Job(key, deliberate(deliberation), deliberation.timeout_seconds)

    def _convene(self, key: str) -> Deliberation:
        task, role = get_task(self.store, key, self.roles)
        return convene(task, role, self.defaults)

    def _keep(self, deliberation: Deliberation, finished: Finished[Transcript], engine: Engine) -> None:
        transcript = finished.result or Transcript(
            deliberation.id, Status.FAILED, (), f"the deliberation broke: {finished.error!r}"
        )
        provenance = Provenance(deliberation.model, engine.name, self.run_id, deliberation.fingerprint)
        write_transcript(self.store, deliberation, transcript, provenance, finished.started_at, finished.finished_at)
        progress = self.progress
        if transcript.status is Status.COMPLETED:
            progress.completed += 1
        else:
            progress.failed += 1

    def _heard(self, answer: Completion) -> None:
        progress = self.progress
        progress.prompt_tokens += answer.prompt_tokens
        progress.cached_tokens += answer.cached_tokens
        progress.completion_tokens += answer.completion_tokens
        self.report(progress)

    def _fail(self, keys: Sequence[str], reason: str) -> None:
        """Record deliberations that could not be held."""
        now = time.time()
        for key in keys:
            facts = TranscriptFacts(Status.FAILED, reason, self._convene(key).fingerprint, now, now)
            write_rows(self.store, "utterances", key, [], asdict(facts))
            self.progress.failed += 1
