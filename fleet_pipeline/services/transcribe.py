"""The work of the GPU op: run the deliberations that are not done yet, have them judged if that is enabled, and store
each result as it finishes.

Plain Python, so that it can be tested without Dagster. Files are the truth for progress: a deliberation with a
complete transcript from the same inputs is not run again, and neither is its judging. One that is not complete goes on
from the answers that were heard (`fleet_pipeline.services.recollection`), so the unit is an answer: if the process dies,
what was being generated is lost.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Lock

from fleet_pipeline.common.errors import CorruptFile, EngineError, InvalidInput
from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation, Resume, seat_council
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.deliberation.judging import (
    FURTHER_LOOKS,
    NOT_ANSWERED,
    Judgement,
    Judging,
    judge,
    judging_fingerprint,
    stands,
)
from fleet_pipeline.deliberation.memory import remembered
from fleet_pipeline.deliberation.protocol import deliberate, most_seconds_of_tools, most_tokens, usual_answers
from fleet_pipeline.deliberation.rows import JudgementsFooter, TranscriptFooter
from fleet_pipeline.deliberation.transcript import Status, Transcript
from fleet_pipeline.inference.engine import Engine, EngineProvider, Finished, Job, OnCompletion
from fleet_pipeline.inference.gpu import gpu_memory
from fleet_pipeline.services.agents import Agents
from fleet_pipeline.services.keeping import Ended, Keeper, Kept
from fleet_pipeline.services.progress import OnProgress, Progress
from fleet_pipeline.services.recollection import Recollection
from fleet_pipeline.services.rewards import Rewards, final_texts
from fleet_pipeline.storage.schemas import JUDGEMENTS, UTTERANCES
from fleet_pipeline.storage.tables import read_file, read_footer
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline.storage.transcripts import Provenance, write_judgements
from fleet_pipeline.tools.options import ToolOptions


def _ignore(_: str) -> None:
    """Do nothing, for callers that look at the results when all are there."""


# The models that councils speak with, of which each needs an engine.
Models = tuple[str, ...]


@dataclass
class _Work:
    """Keys to deliberate and to judge on the same models."""

    deliberate: list[str] = field(default_factory=list)
    judge: list[str] = field(default_factory=list)


class Transcription:
    """One run of the GPU op over `keys`.

    `lineage` are the ids of the runs that this run continues. Under `resume` "never" their finished results are
    reused: otherwise a retried run would never end. `tools` are those of agents that use them. `made` is called with the key of each deliberation whose results
    this run has stored, judgements and rewards included, and `found` with those that were there. `reward_model` rates the
    final proposals, where there is one.
    """

    def __init__(
        self,
        tasks: TaskStore,
        defaults: CouncilDefaults,
        source: EngineProvider,
        run_id: str,
        on_progress: OnProgress,
        judging: Judging | None = None,
        resume: Resume = "if-possible",
        lineage: Collection[str] = (),
        made: Callable[[str], None] = _ignore,
        found: Callable[[str], None] = _ignore,
        reward_model: str | None = None,
        tools: ToolOptions | None = None,
    ) -> None:
        self.made = made
        self.found = found
        self.judging = judging or Judging()
        self.resume = resume
        self.lineage = {run_id, *lineage}
        self.tasks = tasks
        self.store = tasks.store
        self.defaults = defaults
        self.source = source
        self.run_id = run_id
        self.on_progress = on_progress
        self.progress = Progress()
        self.identities: dict[str, str] = {}  # by model
        self.incomplete: set[str] = set()  # keys with a transcript to go on from
        self.ended: set[str] = set()  # keys whose transcript this run has written
        self.stopped: list[str] = []  # of those, the ones that ended because the run did
        self.agents = Agents(
            tools or ToolOptions(), self.store, run_id, lambda call: self.recollection.note_begun(call)
        )
        self.keeper = Keeper(self.store, run_id, self._on_kept)
        self._counting = Lock()  # of `progress` and who is told of it
        self.rewards = Rewards(tasks, reward_model, source, run_id) if reward_model else None
        self.waiting: dict[str, None] = {}  # keys whose transcript is complete, and that wait for a verdict or a reward

    def run(self, keys: Sequence[str]) -> Progress:
        """Transcribe every key that has a valid task. Each has a transcript on disk afterwards, failed ones included. A
        key without a valid task is skipped and keeps any earlier transcript.

        Raises `EngineError` if the run's own model cannot be started or restarted; finished results are kept.
        """
        self.progress.total = len(keys)
        self.on_progress(self.progress)
        # One engine per model. Only keys are held here: specs are read again when the engine has room, so that
        # memory does not grow with the backlog.
        missing = self._missing(keys)
        wanted = {key for work in missing.values() for key in work.judge}
        trusted = self.lineage if self.resume == "never" else None
        self.recollection = Recollection(self.store, self.run_id, wanted, trusted)
        try:
            for models, work in missing.items():
                self._run_on_or_fail(models, work)
            self._rate()
        except BaseException:
            # What this run has completed is shown all the same, and the next run makes up for verdicts and rewards.
            self._pass_on(*[key for key in self.waiting if key in self.ended])
            raise
        finally:
            self.agents.close()
            self.recollection.close()
        self._pass_on(*self.waiting)
        self.progress.phase = "transcribed"
        self.on_progress(self.progress)
        return self.progress

    def plan(self, keys: Sequence[str]) -> dict[Models, tuple[list[str], list[str]]]:
        """By models, in the order of their engines: the keys that would be deliberated, and those that would be judged."""
        return {models: (work.deliberate, work.judge) for models, work in self._missing(keys).items()}

    def _run_on_or_fail(self, models: Models, work: _Work) -> None:
        if not work.deliberate:  # what it is to judge may have failed meanwhile
            work.judge = [key for key in work.judge if key in self.waiting]
        if not (work.deliberate or work.judge):
            return
        try:
            self._run_on(models, work)
        except EngineError as error:
            if models != (self.defaults.model,):
                # A model that a task or role names for itself costs only its own deliberations.
                self._fail(work.deliberate, str(error))
            if models == (self.defaults.model,) or (self.judging.enabled and models == (self.judging.model,)):
                raise

    def _missing(self, keys: Sequence[str]) -> dict[Models, _Work]:
        """Keys still to run, by their models. A key without a valid task is left to its outcome, which says why."""
        missing: dict[Models, _Work] = {}
        for key in keys:
            try:
                seated = seat_council(*self.tasks.get(key), self.defaults)
            except InvalidInput:
                self.progress.failed += 1
                self.found(key)
                continue
            deliberation = self._identified(seated)  # not above: wrong options of the engine are no fault of a task
            if stored := self._reusable(deliberation):
                self.progress.reused += 1
                if self.judging.enabled and not self._is_judged(deliberation, stored):
                    self.waiting[key] = None
                    missing.setdefault(self._judges_of(deliberation), _Work()).judge.append(key)
                elif self.rewards and not self.rewards.stand(key):
                    self.waiting[key] = None
                else:
                    self.found(key)
            else:
                self.progress.planned += usual_answers(deliberation)
                missing.setdefault(_together(deliberation), _Work()).deliberate.append(key)
                missing.setdefault(self._judges_of(deliberation), _Work()).judge.append(key)
        if self.judging.enabled and self.judging.model and (judges := (self.judging.model,)) in missing:
            missing[judges] = missing.pop(judges)  # after all that it judges
        return missing

    def _judges_of(self, deliberation: Deliberation) -> Models:
        """The models of the engine that judges: the judge, or the council's where it has none or nobody judges."""
        return (self.judging.model,) if self.judging.enabled and self.judging.model else _together(deliberation)

    def _reusable(self, deliberation: Deliberation) -> TranscriptFooter | None:
        """The state of the stored transcript, or None if a new transcript must be made.

        Its footer decides. Only then are its rows read: a damaged transcript is made anew, and no footer shows that.
        """
        try:
            footer = read_footer(self.store, UTTERANCES, deliberation.id)
            if footer is None:
                return None
            same_inputs = footer.fingerprint == deliberation.fingerprint
            if footer.status is not Status.COMPLETED or (same_inputs and not _is_far_enough(footer, deliberation)):
                self.incomplete.add(deliberation.id)
                return None
            if self.resume == "never":
                reusable = footer.run_id in self.lineage
            else:
                reusable = self.resume == "always" or same_inputs
            if not reusable:
                return None
            stored = read_file(self.store, UTTERANCES, deliberation.id, fresh=True)
            return stored.footer if stored else None
        except CorruptFile:  # a torn or foreign file counts as missing
            return None

    def _run_on(self, models: Models, work: _Work) -> None:
        progress = self.progress
        progress.models_found = True
        progress.phase = f"starting the engine with {' and '.join(models)}"
        self.on_progress(progress)
        with self.source.start(*models) as engine:
            starts, seconds, crashes = progress.engine_starts, progress.engine_start_seconds, progress.engine_crashes
            progress.phase = "deliberating"
            progress.generating_since = time.monotonic()
            self.on_progress(progress)
            under_way: dict[str, Deliberation] = {}

            def on_completion(answer: Completion) -> None:
                progress.engine_starts = starts + 1 + len(engine.crashes)
                progress.engine_start_seconds = seconds + engine.start_seconds
                progress.engine_crashes = [*crashes, *engine.crashes]
                self._count_tokens(answer)

            try:
                stream = engine.run(self._jobs(work.deliberate, under_way), on_completion, self.agents)

                def told(finished: Finished[Transcript]) -> Ended:
                    deliberation = under_way.pop(finished.key)
                    self.agents.end(deliberation.id)
                    of_models = {model: self._provenance(deliberation, engine, model) for model in deliberation.models}
                    return deliberation, finished, of_models

                self.keeper.keep_all(stream, told)
                if self.judging.enabled and work.judge:
                    self._judge(engine, work.judge, on_completion)
            finally:
                progress.gpu_memory = gpu_memory()
                progress.generating_seconds = progress.seconds
                progress.generating_since = None

    def _judge(self, engine: Engine, keys: Sequence[str], on_completion: OnCompletion) -> None:
        """Judge after all deliberations, so that an interrupted judging costs no deliberation."""
        self.progress.phase = "judging"
        self.on_progress(self.progress)
        under_way: dict[str, tuple[Deliberation, str]] = {}

        def jobs() -> Iterator[Job[tuple[Judgement, ...]]]:
            for key in keys:
                with suppress(InvalidInput):
                    deliberation = self._convene(key)
                    if stored := self._reusable(deliberation) or self._kept(key):
                        proposals = final_texts(self.store, deliberation.id)
                        fingerprint = judging_fingerprint(stored.fingerprint, proposals, self.judging)
                        under_way[key] = (deliberation, fingerprint)
                        memory = self.recollection.begin(key, fingerprint)
                        course = remembered(judge(deliberation, proposals, self.judging), memory)
                        tokens = self.judging.max_tokens * (1 + FURTHER_LOOKS)
                        yield Job(key, course, deliberation.timeout_seconds, tokens)

        for finished in engine.run(jobs(), on_completion):
            deliberation, fingerprint = under_way.pop(finished.key)
            judgements = finished.result or ()
            if any(one.utterance.error is AgentError.CANCELLED for one in judgements):
                continue  # what is stored stands, and what was heard stays in the answer log
            if (not judgements and finished.error) or any(one.utterance.error in NOT_ANSWERED for one in judgements):
                fingerprint = ""  # stored for people to read; the next run asks again
            provenance = self._provenance(deliberation, engine, self.judging.model or deliberation.model)
            footer = JudgementsFooter(judged=fingerprint, identity=self._identity_of_judge())
            write_judgements(self.store, deliberation, judgements, provenance, footer)
            if fingerprint:
                self.recollection.fold(deliberation.id, fingerprint)
            self._ready(deliberation.id)

    def _ready(self, key: str) -> None:
        """The council has said all, and is judged where it should be."""
        if self.rewards is None:
            self._pass_on(key)

    def _pass_on(self, *keys: str) -> None:
        for key in keys:
            self.waiting.pop(key, None)
            self.made(key)

    def _rate(self) -> None:
        """After the last engine: it has the memory that the reward model needs."""
        if self.rewards is None or not self.waiting:
            return
        self.progress.models_found = True
        self.progress.phase = f"rating with {self.rewards.model}"
        self.on_progress(self.progress)

        def on_rated(key: str) -> None:
            self.on_progress(self.progress)
            self._pass_on(key)

        self.rewards.rate(list(self.waiting), on_rated)

    def _kept(self, key: str) -> TranscriptFooter | None:
        """The state of a transcript that this run has completed with fewer rounds than were asked for (`on_timeout`)."""
        footer = read_footer(self.store, UTTERANCES, key) if key in self.ended else None
        return footer if footer is not None and footer.status is Status.COMPLETED else None

    def _is_judged(self, deliberation: Deliberation, transcript: TranscriptFooter) -> bool:
        try:
            stored = read_file(self.store, JUDGEMENTS, deliberation.id)
        except CorruptFile:
            return False
        if stored is None or stored.footer.identity != self._identity_of_judge():
            return False
        proposals = final_texts(self.store, deliberation.id)
        return stands(stored.footer.judged, transcript.fingerprint, proposals, self.judging)

    def _identity_of_judge(self) -> str:
        """Empty where a council's own model judges: its identity is in the transcript's fingerprint."""
        return self._identity(self.judging.model) if self.judging.model else ""

    def _identity(self, model: str) -> str:
        """Found once in a run: it may ask the hub. Raises `InvalidInput` for wrong options."""
        if model not in self.identities:
            self.identities[model] = self.source.identity(model)
        return self.identities[model]

    def _jobs(self, keys: Sequence[str], under_way: dict[str, Deliberation]) -> Iterator[Job[Transcript]]:
        for key in keys:
            try:
                deliberation = self._convene(key)
            except InvalidInput:  # it was valid a moment ago: on a local disk the file may change meanwhile
                with self._counting:
                    self.progress.failed += 1
                continue
            under_way[key] = deliberation
            stored = deliberation if key in self.incomplete else None
            memory = self.recollection.begin(key, deliberation.fingerprint, stored)
            course = remembered(deliberate(deliberation), memory)
            self.agents.begin(deliberation)
            tools = most_seconds_of_tools(deliberation)
            yield Job(key, course, deliberation.timeout_seconds, most_tokens(deliberation), tools)

    def _convene(self, key: str) -> Deliberation:
        return self._identified(seat_council(*self.tasks.get(key), self.defaults))

    def _identified(self, deliberation: Deliberation) -> Deliberation:
        """`deliberation` with all that decides what its model says. Raises `InvalidInput` for wrong options."""
        identities = [self._identity(model) for model in deliberation.models]
        identity = identities[0] if len(identities) == 1 else json.dumps(identities)
        # Of models that limit answers to different lengths the shortest is named to all seats.
        limits = [limit for model in deliberation.models if (limit := self.source.max_tokens(model))]
        limit = deliberation.sampling.max_tokens or min(limits, default=None)
        sampling = deliberation.sampling.model_copy(update={"max_tokens": limit})
        use = deliberation.task.tools
        toolset = self.agents.toolset(deliberation.role.name, use) if use else None
        return replace(deliberation, inference=identity, sampling=sampling, toolset=toolset)

    def _on_kept(self, kept: Kept) -> None:
        """Called in the thread that stores, while the engine counts tokens."""
        key, transcript = kept.deliberation.id, kept.transcript
        completed = transcript.status is Status.COMPLETED
        if kept.written:
            self.recollection.fold(key, kept.deliberation.fingerprint)
        self.ended.add(key)
        if kept.stopped:
            self.stopped.append(key)
        with self._counting:
            self.progress.count(transcript, usual_answers(kept.deliberation))
        if completed and (self.judging.enabled or self.rewards):
            self.waiting[key] = None
        elif not kept.stopped:
            self.made(key)
        with self._counting:
            self.on_progress(self.progress)

    def _provenance(self, deliberation: Deliberation, engine: Engine, model: str) -> Provenance:
        kind, unchecked = engine.origin(model)
        price = self.source.price_of(model)
        fingerprint = deliberation.fingerprint
        return Provenance(model, kind, self.run_id, fingerprint, unchecked, price.of if price else None)

    def _count_tokens(self, answer: Completion) -> None:
        with self._counting:
            progress = self.progress
            progress.answers += 1
            progress.prompt_tokens += answer.prompt_tokens
            progress.cached_tokens += answer.cached_tokens
            progress.completion_tokens += answer.completion_tokens
            self.on_progress(progress)

    def _fail(self, keys: Sequence[str], reason: str) -> None:
        """Record deliberations that could not be run as failed. Those that were held have their record."""
        for key in set(keys) - self.ended:
            with suppress(InvalidInput):
                deliberation = self._convene(key)
                if not self._reusable(deliberation):
                    self.keeper.keep_failed(deliberation, reason)
                    self.progress.failed += 1
                    self.made(key)


def _together(deliberation: Deliberation) -> Models:
    """The models of its engine. Councils of the same ones share it, whichever speaks first."""
    return tuple(sorted(deliberation.models))


def _is_far_enough(footer: TranscriptFooter, deliberation: Deliberation) -> bool:
    """Whether a completed transcript of the same inputs did all its rounds, or would get no further now."""
    if footer.rounds_done is None or footer.rounds_done >= deliberation.rounds:
        return True
    if deliberation.on_timeout == "fail":
        return False
    longest, had = deliberation.timeout_seconds, footer.timeout_seconds
    return longest is not None and had is not None and longest <= had
