"""The answer log: every answer as it is heard, before its deliberation is whole: `<storage>/answers/`.

A transcript is written when its deliberation ends. Without a log, a run of four long deliberations that was killed lost
all four. With it, the next run asks only for the answers that were not there yet.

On a disk a run has one file, `<run id>.jsonl`, which only grows. Object stores cannot append: there it is written in
parts, `<run id>.<number>.jsonl`. A line is one answer as JSON. What is handed to the log is on a disk at once, together
with all that came while the disk synced; on an object store within about a second. A line that a kill has torn is passed
over. The log of a run is removed when all in it stands in `utterances` or `judgements`.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from threading import Condition, Thread

from pydantic import TypeAdapter, ValidationError

from fleet_pipeline.common.errors import StorageError
from fleet_pipeline.deliberation.exchange import Completion, Message, Request
from fleet_pipeline.storage.store import Store

FOLDER = "answers"
_SUFFIX = ".jsonl"
# Between two parts on an object store, which charges for each.
PAUSE_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedAnswer:
    """An answer, and all by which an equal request is told. `fingerprint` is that of its deliberation, or judging."""

    deliberation_id: str
    fingerprint: str
    request: str  # its name
    prompt_sha256: str
    seed: int
    completion: Completion

    def answers(self, request: Request) -> bool:
        return (self.request, self.seed, self.prompt_sha256) == (
            request.name,
            request.seed,
            prompt_sha256(request.messages),
        )


_ANSWER = TypeAdapter(LoggedAnswer)


def prompt_sha256(messages: Sequence[Message]) -> str:
    return hashlib.sha256(json.dumps([asdict(message) for message in messages]).encode()).hexdigest()


class AnswerLog:
    """The log that a run writes. A thread of its own writes it, so that no answer waits for a disk or a network."""

    def __init__(self, store: Store, run_id: str, paths: Sequence[str] = ()) -> None:
        """`paths` are those that this run has already: an op that is tried again goes on."""
        self.store = store
        self.run_id = run_id
        self.paths = list(paths)
        self._lines: list[bytes] = []
        self._pause = 0.0 if store.is_local else PAUSE_SECONDS
        self._closing = False
        self._failed = ""
        self._changed = Condition()
        self._thread = Thread(target=self._keep_writing, name="fleet-answer-log", daemon=True)
        self._thread.start()

    def append(self, answer: LoggedAnswer) -> None:
        line = _ANSWER.dump_json(answer)
        with self._changed:
            self._lines.append(line)
            self._changed.notify()

    def close(self) -> None:
        """Write what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _keep_writing(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                closing, lines = self._closing, self._lines
                self._lines = []
            written = not lines or self._write(lines)
            if not written:
                with self._changed:
                    self._lines = [*lines, *self._lines]  # for the next time
            if closing:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._pause if written else PAUSE_SECONDS)

    def _write(self, lines: Sequence[bytes]) -> bool:
        """Whether it was written. Where it was not, the run goes on: only a kill would then cost more."""
        # A line break first: a kill may have torn the line before.
        content = b"".join(b"\n" + line for line in lines) + b"\n"
        name = self.run_id if self.store.is_local else f"{self.run_id}.{len(self.paths) + 1:06d}"
        path = f"{FOLDER}/{name}{_SUFFIX}"
        try:
            if self.store.is_local:
                self.store.append(path, content)
            else:
                self.store.write(path, content)
        except StorageError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                _log.warning("answers are not logged; if this run is killed, they are asked for again: %s", error)
            return False
        if path not in self.paths:
            self.paths.append(path)
        return True


@dataclass
class EarlierLog:
    """What a run has logged that is gone; or this one, before it was killed and started again.

    `dialogues` are (deliberation id, fingerprint) of all in it, `answers` those that were wanted.
    """

    run_id: str
    paths: list[str] = field(default_factory=list)
    dialogues: set[tuple[str, str]] = field(default_factory=set)
    answers: list[LoggedAnswer] = field(default_factory=list)


def earlier_logs(store: Store, wanted: Collection[str]) -> list[EarlierLog]:
    """Every log on a storage, with its answers in the deliberations `wanted`."""
    logs: dict[str, EarlierLog] = {}
    for name in store.names(FOLDER, _SUFFIX):
        run_id = name.partition(".")[0]
        log = logs.setdefault(run_id, EarlierLog(run_id))
        log.paths.append(f"{FOLDER}/{name}{_SUFFIX}")
        for answer in _answers(store.read(log.paths[-1], fresh=True) or b""):
            log.dialogues.add((answer.deliberation_id, answer.fingerprint))
            if answer.deliberation_id in wanted:
                log.answers.append(answer)
    return list(logs.values())


def remove_log(store: Store, paths: Iterable[str]) -> None:
    for path in paths:
        store.delete(path)


def _answers(content: bytes) -> Iterator[LoggedAnswer]:
    for line in content.splitlines():
        try:
            yield _ANSWER.validate_json(line)
        except ValidationError:  # empty, or torn
            continue
