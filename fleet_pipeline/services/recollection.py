"""What earlier runs have heard of a deliberation and not made whole, and the log of what this run hears.

A run that is killed leaves its answer log; one that is stopped, or whose time is up, leaves a transcript that is not
complete. From both a dialogue with the same inputs goes on.
"""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from fleet_pipeline.common.errors import CorruptFile, StorageError
from fleet_pipeline.deliberation.council import Deliberation
from fleet_pipeline.deliberation.exchange import Action, AgentError, Completion, Done, Request
from fleet_pipeline.deliberation.memory import Memory
from fleet_pipeline.deliberation.protocol import request_name
from fleet_pipeline.deliberation.rows import TranscriptFooter, UtteranceRow
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.storage.answer_log import (
    AnswerLog,
    EarlierLog,
    LoggedAnswer,
    earlier_logs,
    has_grown,
    logged,
    remove_log,
    told_by,
)
from fleet_pipeline.storage.schemas import JUDGEMENTS, UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import TableFile, read_file, read_footer

_log = logging.getLogger(__name__)

# The protocol found these in a text; the engine answered.
_ANSWERED = frozenset({None, AgentError.EMPTY, AgentError.CUT_OFF, AgentError.LOOPED})


# After the name of an action, where it is only said that it begins.
_BEGUN = " begun"


@dataclass(frozen=True)
class _DialogueMemory:
    """The memory of one dialogue."""

    log: AnswerLog
    deliberation_id: str
    fingerprint: str
    known: dict[str, LoggedAnswer]  # by the name of the request

    def recall(self, asked: Request | Action) -> Completion | Done | None:
        answer = self.known.pop(asked.name, None)
        if answer is not None and answer.answers(asked):
            return answer.answer
        begun = self.known.pop(asked.name + _BEGUN, None) if isinstance(asked, Action) else None
        if begun is None or begun.prompt_sha256 != told_by(asked)[1]:
            return None
        why = "it was begun before the run was interrupted, and is not done twice: whether it took effect is not known"
        return Done(False, error=why, outcome="unfinished")

    def note(self, asked: Request | Action, answer: Completion | Done) -> None:
        self.log.append(logged(self.deliberation_id, self.fingerprint, asked, answer))


class Recollection:
    """The memories of all dialogues of a run.

    `trusted` are the ids of the runs whose answers may be used; None for all.
    """

    def __init__(
        self, store: Store, run_id: str, keys: Collection[str], trusted: Collection[str] | None = None
    ) -> None:
        self.store = store
        self._trusted = trusted
        self._known: dict[tuple[str, str], dict[str, LoggedAnswer]] = {}
        self._earlier: list[EarlierLog] = []  # of other runs, and of this one before it was started again
        self._begun: set[str] = set()  # deliberations of which this run has held a dialogue
        self._open: set[tuple[str, str]] = set()  # (deliberation, fingerprint) of dialogues that are not stored yet
        paths: list[str] = []
        for log in earlier_logs(store, set(keys)):
            for answer in log.answers if self._trusts(log.run_id) else ():
                if answer.is_whole:
                    dialogue = (answer.deliberation_id, answer.fingerprint)
                    self._known.setdefault(dialogue, {})[answer.request] = answer
            if log.run_id == run_id:
                paths = log.paths
            self._earlier.append(replace(log, answers=[]))
        self._log = AnswerLog(store, run_id, paths)

    def begin(self, deliberation_id: str, fingerprint: str, stored: Deliberation | None = None) -> Memory:
        """The memory of a dialogue that begins, with what stands in the transcript of `stored`, if that is given."""
        dialogue = (deliberation_id, fingerprint)
        known = self._known.pop(dialogue, {})
        if stored is not None and (file := self._transcript(stored)) is not None:
            # What was heard before that transcript was written stands in it, with what did not count.
            later = {name: one for name, one in known.items() if one.completion.finished_at > file.footer.finished_at}
            known = {answer.request: answer for answer in _counted(file.rows, fingerprint)} | later
        self._begun.add(deliberation_id)
        self._open.add(dialogue)
        return _DialogueMemory(self._log, deliberation_id, fingerprint, known)

    def note_begun(self, action: Action) -> bool:
        """Before an action that may change something outside of its workspace. Whether it stands in the log."""
        own = action.place.deliberation_id
        fingerprint = next((print_ for key, print_ in tuple(self._open) if key == own), "")
        marker = replace(action, name=action.name + _BEGUN)
        done = Done(False, error="begun", outcome="unfinished", started_at=time.time())
        self._log.append(logged(own, fingerprint, marker, done))
        return self._log.flush()

    def fold(self, deliberation_id: str, fingerprint: str) -> None:
        """A dialogue stands in its table now."""
        self._open.discard((deliberation_id, fingerprint))

    def close(self) -> None:
        """End the log of this run, and remove every log of which nothing is needed any more."""
        self._log.close()
        try:
            own_is_needed = bool(self._open)
            for log in self._earlier:
                if log.run_id == self._log.run_id:
                    own_is_needed |= not self._is_folded_all(log)
                elif log.dialogues and self._is_folded_all(log) and not has_grown(self.store, log):
                    remove_log(self.store, log.paths)
            if not own_is_needed:
                remove_log(self.store, self._log.paths)
        except StorageError as error:  # what was heard is stored all the same, and the next run removes it
            _log.warning("answer logs are left behind: %s", error)

    def _is_folded_all(self, log: EarlierLog) -> bool:
        return all(self._is_folded(*dialogue, heard_at) for dialogue, heard_at in log.dialogues.items())

    def _is_folded(self, deliberation_id: str, fingerprint: str, heard_at: float) -> bool:
        """Whether what an earlier log holds of a dialogue stands in a table, or is of no use any more."""
        if deliberation_id in self._begun:  # with the same inputs it was recalled
            return deliberation_id not in {key for key, _ in self._open}
        try:
            transcript = read_footer(self.store, UTTERANCES, deliberation_id)
            judgements = read_footer(self.store, JUDGEMENTS, deliberation_id)
        except CorruptFile:
            return False
        if judgements is not None and judgements.judged == fingerprint:
            return True
        if transcript is None or transcript.fingerprint != fingerprint:
            return False
        # An earlier one may be what that run was to do anew. One that failed leaves answers to go on from.
        return transcript.status is Status.COMPLETED and transcript.finished_at >= heard_at

    def _trusts(self, run_id: str) -> bool:
        return self._trusted is None or run_id in self._trusted

    def _transcript(self, deliberation: Deliberation) -> TableFile[UtteranceRow, TranscriptFooter] | None:
        """Its stored transcript, if that is of the same inputs and may be used."""
        try:
            file = read_file(self.store, UTTERANCES, deliberation.id, fresh=True)
        except CorruptFile:
            return None
        if file is None or file.footer.fingerprint != deliberation.fingerprint or not self._trusts(file.footer.run_id):
            return None
        return file


def _counted(rows: Sequence[UtteranceRow], fingerprint: str) -> Iterator[LoggedAnswer]:
    """The answers of each turn that came to one. Of another turn nothing is recalled: the seat is asked again."""
    counted = {_turn(row) for row in rows if row.error_type is None}
    for row in rows:
        if _turn(row) in counted and row.error_type in _ANSWERED:
            yield _logged(row, fingerprint)


def _turn(row: UtteranceRow) -> tuple[str, str, int, str]:
    return row.agent_id, row.phase, row.round, row.about_agent_id


def _logged(row: UtteranceRow, fingerprint: str) -> LoggedAnswer:
    name = request_name(row.deliberation_id, row.agent_id, row.phase, row.round, row.about_agent_id, row.attempt)
    completion = Completion(
        text=row.text if row.raw_text is None else row.raw_text,
        reasoning=row.reasoning,
        finish_reason=row.finish_reason,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
        temperature=row.temperature,
        mean_logprob=row.mean_logprob,
        self_certainty=row.self_certainty,
        started_at=row.started_at.timestamp(),
        finished_at=row.finished_at.timestamp(),
    )
    return LoggedAnswer(row.deliberation_id, fingerprint, name, row.prompt_sha256, row.seed, completion)
