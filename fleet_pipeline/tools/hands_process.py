"""Hands in a process of their own.

Python runs one thread of a process at a time: with eight hands in the engine's process it waited for them 6 % of its time (two
cores, 60 agents). What an agent's files or calls can break or fill up is this process, and not that of the engine. It gives way to
the engine, and the kernel ends it first where memory runs out. It ends with its run, also one that was killed: its pipe tells.

If it dies, the calls that it was at are told as unfinished, and the next call starts another one, which makes workspaces again
as after a kill of the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fleet_pipeline.common.errors import FleetError
from fleet_pipeline.common.threads import give_way
from fleet_pipeline.deliberation.exchange import Action, Done
from fleet_pipeline.deliberation.task import ToolUse
from fleet_pipeline.tools.audit import Audit
from fleet_pipeline.tools.hands import Hands, Note
from fleet_pipeline.tools.options import ToolOptions

_log = logging.getLogger(__name__)
_NICE = 5  # programs in the sandbox have 19
_FIRST_TO_GO = "500"  # of 1,000, for the kernel when memory runs out
_CLOSES_SECONDS = 60.0
_MOST_OPEN = 65_536


class HandsProcess:
    """Does what `Hands` does. Use it from one thread, and close it."""

    def __init__(self, options: ToolOptions, audit: Path, run_id: str, note: Note = lambda _: True) -> None:
        """`audit` is the folder of the audit. `note` is called in a thread of its own. Raises `FleetError`."""
        self._options, self._audit, self._run_id, self._note = options, audit, run_id, note
        self._uses: dict[str, ToolUse] = {}
        self._asked: set[str] = set()  # and not answered
        self._refused: list[tuple[str, Done]] = []  # because no process could be started
        self._other: _OtherSide | None = self._started()

    def _started(self) -> _OtherSide:
        other = _OtherSide(self._note, self._options, self._audit, self._run_id)
        for key, use in self._uses.items():
            other.send("begin", key, use)
        return other

    def begin(self, deliberation_id: str, use: ToolUse) -> None:
        self._uses[deliberation_id] = use
        if self._other is not None:
            self._other.send("begin", deliberation_id, use)

    def submit(self, request_id: str, action: Action) -> None:
        if self._other is None:
            try:
                self._other = self._started()
            except FleetError as error:  # its agent is told; the next call tries again
                self._refused.append((request_id, Done(False, error=str(error), outcome="refused")))
                return
        self._asked.add(request_id)
        self._other.submit(request_id, action)

    def take(self, patience_seconds: float) -> list[tuple[str, Done]]:
        refused, self._refused = self._refused, []
        other = self._other
        if refused or other is None:
            return refused
        ended = other.ended.is_set()  # looked at first: then all that it has done is there to be taken
        found = [one for one in other.take(patience_seconds) if one[0] in self._asked]
        self._asked.difference_update(one for one, _ in found)
        if ended:
            self._other = None
            how = other.how_it_ended()
            _log.warning("the process of the agents' tools %s; the next call starts it again", how)
            error = f"it is not known what came of this: the process that does it {how}"
            found += [(one, Done(False, error=error, outcome="unfinished")) for one in sorted(self._asked)]
            self._asked.clear()
        return found

    def abort(self, request_ids: Sequence[str]) -> None:
        self._asked.difference_update(request_ids)
        self._refused = [one for one in self._refused if one[0] not in request_ids]
        if self._other is not None:
            self._other.send("abort", list(request_ids))

    def end(self, deliberation_id: str) -> None:
        self._uses.pop(deliberation_id, None)
        if self._other is not None:
            self._other.send("end", deliberation_id)

    def close(self) -> None:
        """End what is under way, and remove all workspaces."""
        if self._other is not None:
            self._other.close()
            self._other = None


class _OtherSide:
    """One such process, as seen from here."""

    def __init__(self, note: Note, *job: Any) -> None:
        self._note = note
        self._seated: set[tuple[str, str]] = set()  # agents that have a workspace there
        self._done: SimpleQueue[tuple[str, Done] | None] = SimpleQueue()
        self._outbox: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self.ended = threading.Event()
        self._pipe, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self.process = subprocess.Popen(
                # Without -P, what lies where the run was started could be taken for a module of this one.
                [sys.executable, "-P", "-m", __name__, str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                start_new_session=True,  # Ctrl-C is for the run, which closes this
            )
        try:
            self._pipe.send(job)
            problem = self._pipe.recv()
        except (EOFError, OSError):
            problem = f"their process {self.how_it_ended()} before it was ready"
        if problem is not None:
            self._pipe.close()
            self.process.wait()
            raise FleetError(f"agents' tools cannot be used here: {problem}")
        self._reader = threading.Thread(target=self._read, name="fleet-hands-reader", daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, name="fleet-hands-writer", daemon=True).start()

    def send(self, *message: Any) -> None:
        """Not from here: to write to a pipe on a busy machine took 0.6 ms, and the engine waited for it."""
        self._outbox.put(message)

    def _write(self) -> None:
        """A process that is gone is noticed where its answers are read."""
        give_way()
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)

    def submit(self, request_id: str, action: Action) -> None:
        place = (action.place.deliberation_id, action.place.agent_id)
        # What was called before is of use only where the workspace is made, and grows with every call.
        self.send("submit", request_id, replace(action, before=()) if place in self._seated else action)

    def take(self, patience_seconds: float) -> list[tuple[str, Done]]:
        found: list[tuple[str, Done] | None] = []
        with contextlib.suppress(Empty):
            found.append(self._done.get(timeout=patience_seconds) if patience_seconds else self._done.get_nowait())
            while True:
                found.append(self._done.get_nowait())
        return [one for one in found if one is not None]

    def how_it_ended(self) -> str:
        """Waits for it, and ends it where it does not end."""
        try:
            code = self.process.wait(_CLOSES_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def close(self) -> None:
        self.send("close")
        self._reader.join(_CLOSES_SECONDS)
        self.how_it_ended()

    def _read(self) -> None:
        give_way()
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, *told = self._pipe.recv()
                if kind == "done":
                    request_id, done, seated = told
                    self._seated |= seated
                    self._done.put((request_id, done))
                else:
                    number, action = told
                    self.send("noted", number, self._noted(action))
        self._outbox.put(None)
        self._pipe.close()
        self.ended.set()
        self._done.put(None)  # whoever waits need not wait for more

    def _noted(self, action: Action) -> bool:
        try:
            return self._note(action)
        except Exception:  # noqa: BLE001 - a note that breaks is none, and the call is not made
            _log.exception("%s could not be noted", action.name)
            return False


# What follows runs in the other process.


class _Notes:
    """Asks the run's process whether a call is noted there."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._asked: dict[int, SimpleQueue[bool]] = {}
        self._count = 0
        self._gone = False

    def ask(self, action: Action) -> bool:
        answer: SimpleQueue[bool] = SimpleQueue()
        with self._lock:
            if self._gone:
                return False
            self._count += 1
            number = self._count
            self._asked[number] = answer
        self._send("note", number, replace(action, before=()))
        return answer.get()

    def answer(self, number: int, noted: bool) -> None:
        with self._lock:
            self._asked.pop(number).put(noted)

    def gone(self) -> None:
        """Nobody answers any more."""
        with self._lock:
            self._gone = True
            for answer in self._asked.values():
                answer.put(False)


def serve(pipe: Connection) -> None:
    """Do what the run's process asks for, until it closes the pipe, or is gone."""
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending, contextlib.suppress(OSError):
            pipe.send(message)

    notes = _Notes(send)
    options, folder, run_id = pipe.recv()
    try:
        audit = Audit(folder)
        hands = Hands(options, audit, run_id, notes.ask)
    except (FleetError, OSError) as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    closed = threading.Event()
    places: dict[str, tuple[str, str]] = {}  # by request

    def tell() -> None:
        while not closed.is_set():
            for request_id, done in hands.take(0.5):
                place = places.pop(request_id)
                send("done", request_id, done, {place} if hands.is_seated(*place) else set())

    teller = threading.Thread(target=tell, name="fleet-hands-teller")
    teller.start()
    # Removing workspaces takes a while, and calls of others must not wait for it.
    with contextlib.closing(audit), ThreadPoolExecutor(1, thread_name_prefix="fleet-hands-ends") as ends:
        try:
            while (message := pipe.recv())[0] != "close":
                kind, *told = message
                if kind == "begin":
                    hands.begin(*told)
                elif kind == "submit":
                    request_id, action = told
                    places[request_id] = action.place.deliberation_id, action.place.agent_id
                    hands.submit(request_id, action)
                elif kind == "abort":
                    hands.abort(*told)
                elif kind == "end":
                    ends.submit(hands.end, *told)
                else:
                    notes.answer(*told)
        except (EOFError, OSError):
            pass  # the run was killed
        notes.gone()
        try:
            ends.shutdown()
            hands.close()
        finally:
            closed.set()
            teller.join()
    pipe.close()


if __name__ == "__main__":
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # as a session as well, where the kernel shares the processor among them
        Path("/proc/self/autogroup").write_text(str(_NICE))
    # A look at folders in folders holds one descriptor for each, and several are under way.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MOST_OPEN) if most >= 0 else _MOST_OPEN, most))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    serve(Connection(int(sys.argv[1])))
