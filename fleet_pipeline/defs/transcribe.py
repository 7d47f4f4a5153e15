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
from fleet_pipeline.deliberation.task import is_key
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.inference.engine import Engine, Finished, Job
from fleet_pipeline.storage.rows import Provenance, TranscriptFacts, write_transcript
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_facts, write_rows
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
        """Transcribe every key. Each has a transcript on disk afterwards, failed ones included.

        Raises `EngineError` when an engine cannot start or breaks; what had finished is kept.
        """
        self.progress.total = len(keys)
        self.report(self.progress)
        # One engine per model. Only keys are held here: specs are read again as room becomes free,
        # so that memory does not grow with the backlog.
        for model, waiting in self._missing(keys).items():
            self._run_on(model, waiting)
        self.progress.phase = "transcribed"
        self.report(self.progress)
        return self.progress

    def _missing(self, keys: Sequence[str]) -> dict[str, list[str]]:
        missing: dict[str, list[str]] = {}
        for key in keys:
            try:
                deliberation = self._convene(key)
            except InvalidInput as error:
                self._refuse(key, str(error))
                continue
            facts = read_facts(self.store, "utterances", key) or {}
            if facts.get("status") == Status.COMPLETED and facts.get("fingerprint") == deliberation.fingerprint:
                self.progress.reused += 1
            else:
                missing.setdefault(deliberation.model, []).append(key)
        return missing

    def _run_on(self, model: str, keys: Sequence[str]) -> None:
        progress = self.progress
        progress.phase = f"starting the engine with {model}"
        self.report(progress)
        with self.start_engine(model) as engine:
            progress.engine_starts += 1
            progress.engine_start_seconds += engine.start_seconds
            progress.phase = "deliberating"
            progress.generating_since = time.monotonic()
            under_way: dict[str, Deliberation] = {}
            try:
                for finished in engine.run(self._jobs(keys, under_way)):
                    self._keep(under_way.pop(finished.key), finished, engine)
                    self.report(progress)
            finally:
                progress.generating_seconds = progress.seconds
                progress.generating_since = None

    def _jobs(self, keys: Sequence[str], under_way: dict[str, Deliberation]) -> Iterator[Job]:
        for key in keys:
            try:
                deliberation = self._convene(key)
            except InvalidInput as error:  # it was good a moment ago: the file changed meanwhile
                self._refuse(key, str(error))
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
        for utterance in transcript.utterances:
            progress.prompt_tokens += utterance.completion.prompt_tokens
            progress.cached_tokens += utterance.completion.cached_tokens
            progress.completion_tokens += utterance.completion.completion_tokens

    def _refuse(self, key: str, message: str) -> None:
        """Record a deliberation that cannot be held. A key that is no id gets no file."""
        self.progress.failed += 1
        now = time.time()
        facts = TranscriptFacts(Status.FAILED, message, fingerprint="", started_at=now, finished_at=now)
        if is_key(key):
            write_rows(self.store, "utterances", key, [], asdict(facts))
