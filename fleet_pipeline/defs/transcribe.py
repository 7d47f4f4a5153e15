"""What the GPU op does: run the deliberations that are not done yet, and keep each as it finishes.

Plain Python, so that it can be tested without Dagster. Files are the truth for progress: a
deliberation whose transcript is complete and was made from the same inputs is not run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from fleet_pipeline.defs.progress import Progress, Report
from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation, convene
from fleet_pipeline.deliberation.errors import InvalidInput
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.transcript import Completion, Status, Transcript
from fleet_pipeline.inference.engine import Engine, Finished, Job, ModelUnavailable
from fleet_pipeline.storage.rows import Provenance, TranscriptFacts, write_transcript
from fleet_pipeline.storage.store import StorageError, Store
from fleet_pipeline.storage.tables import read_file, write_rows
from fleet_pipeline.storage.task_store import get_task


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
    ) -> None:
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
        for model, waiting in self._missing(keys).items():
            try:
                self._run_on(model, waiting)
            except ModelUnavailable as error:
                if model == self.defaults.model:
                    raise
                # A model that a task or role names for itself costs no more than its own deliberations.
                self._fail(waiting, str(error))
        self.progress.phase = "transcribed"
        self.report(self.progress)
        return self.progress

    def _missing(self, keys: Sequence[str]) -> dict[str, list[str]]:
        """The keys that must be run, by model. A key without a valid task is left to the verdict."""
        missing: dict[str, list[str]] = {}
        for key in keys:
            try:
                deliberation = self._convene(key)
            except InvalidInput:
                self.progress.failed += 1
                continue
            if self._is_done(deliberation):
                self.progress.reused += 1
            else:
                missing.setdefault(deliberation.model, []).append(key)
        return missing

    def _is_done(self, deliberation: Deliberation) -> bool:
        try:
            found = read_file(self.store, "utterances", deliberation.id)
        except StorageError:  # torn or foreign: what it should have held is missing
            return False
        facts = found[1] if found else {}
        return facts.get("status") == Status.COMPLETED and facts.get("fingerprint") == deliberation.fingerprint

    def _run_on(self, model: str, keys: Sequence[str]) -> None:
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
                for finished in engine.run(self._jobs(keys, under_way), self._heard):
                    self._keep(under_way.pop(finished.key), finished, engine)
                    self.report(progress)
            finally:
                progress.generating_seconds = progress.seconds
                progress.generating_since = None

    def _jobs(self, keys: Sequence[str], under_way: dict[str, Deliberation]) -> Iterator[Job]:
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

    def _keep(self, deliberation: Deliberation, finished: Finished, engine: Engine) -> None:
        transcript = finished.transcript or Transcript(
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
