"""The answer log: every answer as it is heard, before its deliberation is whole: `<storage>/answers/`.

A transcript is written when its deliberation ends. Without a log, a run of four long deliberations that was killed lost
all four. With it, the next run asks only for the answers that were not there yet.

On a disk a run has one file, `<run id>.jsonl`, which only grows. Object stores cannot append: there it has parts,
`<run id>.<number>.jsonl`, the last of which is written anew until it is large enough. A line is one answer as JSON.
What is handed to the log is on a disk at once, together with all that came while the disk synced; on an object store
within about a second. A line that a kill has torn is passed over. The log of a run is removed when all in it stands in `utterances` or `judgements`.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread

from pydantic import TypeAdapter, ValidationError

from fleet_pipeline.common.threads import give_way
from fleet_pipeline.deliberation.exchange import Action, Completion, Done, Message, Request
from fleet_pipeline.storage.store import Store

FOLDER = "answers"
_SUFFIX = ".jsonl"
# Between two writes on an object store, which charges for each.
PAUSE_SECONDS = 0.5
# A run of ten hours has some hundred parts of this size. Whoever goes on from it reads them one by one.
PART_BYTES = 256 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedAnswer:
    """An answer, and all by which an equal request is told. `fingerprint` is that of its deliberation, or judging.

    Of an action `done` is what came of it, `prompt_sha256` its digest, and of `completion` only the times count.
    """

    deliberation_id: str
    fingerprint: str
    request: str  # its name
    prompt_sha256: str
    seed: int
    completion: Completion
    done: Done | None = None

    def answers(self, asked: Request | Action) -> bool:
        return (self.request, self.prompt_sha256, self.seed) == told_by(asked)

    @property
    def answer(self) -> Completion | Done:
        return self.completion if self.done is None else self.done

    @property
    def is_whole(self) -> bool:
        return self.completion.error is None and (self.done is None or self.done.error_type is None)


def told_by(asked: Request | Action) -> tuple[str, str, int]:
    """By what an equal request or action is told: name, hash of what is asked, seed."""
    if isinstance(asked, Action):
        return asked.name, asked.digest, 0
    return asked.name, prompt_sha256(asked.messages), asked.seed


def logged(deliberation_id: str, fingerprint: str, asked: Request | Action, answer: Completion | Done) -> LoggedAnswer:
    told = told_by(asked)
    if isinstance(answer, Completion):
        return LoggedAnswer(deliberation_id, fingerprint, *told, answer)
    times = Completion(started_at=answer.started_at, finished_at=answer.started_at + answer.seconds)
    return LoggedAnswer(deliberation_id, fingerprint, *told, times, answer)


_ANSWER = TypeAdapter(LoggedAnswer)


def prompt_sha256(messages: Sequence[Message]) -> str:
    return hashlib.sha256(json.dumps([vars(message) for message in messages]).encode()).hexdigest()


class AnswerLog:
    """The log that a run writes. A thread of its own writes it, so that no answer waits for a disk or a network."""

    def __init__(self, store: Store, run_id: str, paths: Sequence[str] = ()) -> None:
        """`paths` are those that this run has already: an op that is tried again goes on."""
        self.store = store
        self.run_id = run_id
        self.paths = list(paths)
        self._part = b""  # the last part of an object store, as far as it is written
        self._lines: list[bytes] = []
        self._pause = 0.0 if store.is_local else PAUSE_SECONDS
        self._closing = False
        self._writing = False
        self._failed = ""  # why the last write failed; empty when it did not
        self._changed = Condition()
        self._thread = Thread(target=self._keep_writing, name="fleet-answer-log", daemon=True)
        self._thread.start()

    def append(self, answer: LoggedAnswer) -> None:
        line = _ANSWER.dump_json(answer)
        with self._changed:
            self._lines.append(line)
            if len(self._lines) == 1:  # else the thread is told already
                self._changed.notify_all()

    def flush(self) -> bool:
        """Wait until all that was handed over is written. Whether it is."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._lines or self._writing) or bool(self._failed))
            return not (self._lines or self._writing)

    def close(self) -> None:
        """Write what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _keep_writing(self) -> None:
        give_way()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                closing, lines = self._closing, self._lines
                self._lines, self._writing = [], bool(lines)
            written = not lines or self._write(lines)
            with self._changed:
                if not written:
                    self._lines = [*lines, *self._lines]  # for the next time
                self._writing = False
                self._changed.notify_all()
            if closing:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._pause if written else PAUSE_SECONDS)

    def _write(self, lines: Sequence[bytes]) -> bool:
        """Whether it was written. Where it was not, the run goes on: only a kill would then cost more."""
        # A line break first: a kill may have torn the line before.
        content = b"".join(b"\n" + line for line in lines) + b"\n"
        part = self._part + content
        # A part that is begun has its place in `paths` already.
        number = len(self.paths) if self._part else len(self.paths) + 1
        name = self.run_id if self.store.is_local else f"{self.run_id}.{number:06d}"
        path = f"{FOLDER}/{name}{_SUFFIX}"
        try:
            if self.store.is_local:
                self.store.append(path, content)
            else:
                self.store.write(path, part)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            if str(error) != self._failed:
                self._failed = str(error)
                _log.warning("answers are not logged; if this run is killed, they are asked for again: %s", error)
            return False
        self._failed = ""
        if path not in self.paths:
            self.paths.append(path)
        if not self.store.is_local:
            self._part = part if len(part) < PART_BYTES else b""
        return True


@dataclass
class EarlierLog:
    """What a run has logged that is gone; or one that is under way beside this one; or this one, before it was killed and
    started again.

    `dialogues` are (deliberation id, fingerprint) of all in it, with the time of their last answer in seconds since the
    epoch; `answers` those that were wanted.
    """

    run_id: str
    paths: list[str] = field(default_factory=list)
    bytes: int = 0
    dialogues: dict[tuple[str, str], float] = field(default_factory=dict)
    answers: list[LoggedAnswer] = field(default_factory=list)


def earlier_logs(store: Store, wanted: Collection[str]) -> list[EarlierLog]:
    """Every log on a storage, with its answers in the deliberations `wanted`."""
    logs: dict[str, EarlierLog] = {}
    for name in store.names(FOLDER, _SUFFIX):
        run_id = name.partition(".")[0]
        log = logs.setdefault(run_id, EarlierLog(run_id))
        log.paths.append(f"{FOLDER}/{name}{_SUFFIX}")
        content = store.read(log.paths[-1], fresh=True) or b""
        log.bytes += len(content)
        for answer in _answers(content):
            dialogue = (answer.deliberation_id, answer.fingerprint)
            log.dialogues[dialogue] = max(answer.completion.finished_at, log.dialogues.get(dialogue, 0.0))
            if answer.deliberation_id in wanted:
                log.answers.append(answer)
    return list(logs.values())


def has_grown(store: Store, log: EarlierLog) -> bool:
    """Whether a run has written to its log since it was read: it is under way."""
    return sum(len(store.read(path, fresh=True) or b"") for path in log.paths) != log.bytes


def remove_log(store: Store, paths: Iterable[str]) -> None:
    for path in paths:
        store.delete(path)


def _answers(content: bytes) -> Iterator[LoggedAnswer]:
    for line in content.splitlines():
        try:
            yield _ANSWER.validate_json(line)
        except ValidationError:  # empty, or torn
            continue
