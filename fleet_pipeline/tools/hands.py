"""Does the actions of agents, beside the engine: many at a time, each agent in a workspace of its own.

A workspace is made at its agent's first action, as a copy of what its task starts from, which is fetched once. It is removed
when its deliberation has ended.

A run that was killed has no workspaces any more. The next one goes on from the answers and results that were logged, so that
a workspace may be asked for whose agent has called tools before. It is made again by the same calls: those that can have changed
it. What a call may have changed outside of it (http, databases, containers, servers of others) is never done twice: it is noted
before it begins, and a call that was begun and has no result is not made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self
from urllib.parse import urlsplit

from fleet_pipeline.common.errors import FleetError, InvalidInput, Refused
from fleet_pipeline.common.text import shown
from fleet_pipeline.deliberation.council import Toolset
from fleet_pipeline.deliberation.exchange import Action, Done, Place
from fleet_pipeline.deliberation.task import ToolUse
from fleet_pipeline.tools.audit import Audit, Caller
from fleet_pipeline.tools.change import Base, Bench, change_in
from fleet_pipeline.tools.mcp_servers import connected
from fleet_pipeline.tools.operation import Box, Changes
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.sandbox.sandbox import Sandbox, end_programs_of, may_run_programs
from fleet_pipeline.tools.sources import Source, settle
from fleet_pipeline.tools.toolbox import Toolbox, call_schemas, prompt_text
from fleet_pipeline.tools.workspace import Workspace, Workspaces

_log = logging.getLogger(__name__)
_MIB = 2**20
_OUTPUT_CHARS = 20_000
# Whether an action that may change something outside is noted, so that no later run does it again.
Note = Callable[[Action], bool]


def toolset_of(toolbox: Toolbox) -> Toolset:
    """What a model is told of the operations that can be called."""
    operations = toolbox.available()
    schemas = [_compact(schema) for schema in call_schemas(operations)]
    changing = frozenset(name for name, one in operations.items() if Changes.TREE in one.changes)
    return Toolset(prompt_text(operations), tuple(schemas), changing)


def _compact(schema: Mapping[str, object]) -> str:
    return json.dumps(schema, separators=(",", ":"))


@dataclass
class _Desk:
    """A workspace in use, with its tools. It is closed when its deliberation has ended and nobody works at it any more: an
    operation goes by the tree's descriptor, whose number the next open file may get.
    """

    workspace: Workspace
    base: Base
    tools: Toolbox
    opened: ExitStack
    turn: threading.Lock = field(default_factory=threading.Lock)  # one call after another
    at_work: int = 0
    ended: bool = False


class Hands:
    """Those of one run. Create them with the options, and close them; from one thread, but for what they do themselves."""

    def __init__(self, options: ToolOptions, audit: Audit, run_id: str, note: Note = lambda _: True) -> None:
        """`note` is told of calls that may change something outside of their workspace."""
        self.options = options
        self.audit = audit
        self.run_id = run_id
        self.note = note
        self.workspaces = Workspaces(Path(options.workspaces))
        self.sandbox = Sandbox.find(options.toolchains)
        self._own = uuid.uuid4().hex  # a process of before may still be at its workspaces
        self._uses: dict[str, ToolUse] = {}  # of deliberations that have begun and not ended
        self._desks: dict[tuple[str, str], _Desk] = {}
        self._bases: dict[tuple[str | None, ...], Future[Base]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(options.at_once, thread_name_prefix="fleet-hands")
        self._at_work: dict[str, int] = {}  # request id -> thread
        self._given_up: set[str] = set()
        self._done: SimpleQueue[tuple[str, Done]] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, deliberation_id: str, use: ToolUse) -> None:
        """A deliberation whose agents may ask for actions from now on."""
        with self._lock:
            self._uses[deliberation_id] = use

    def submit(self, request_id: str, action: Action) -> None:
        self._pool.submit(self._work, request_id, action)

    def take(self, patience_seconds: float) -> list[tuple[str, Done]]:
        found: list[tuple[str, Done]] = []
        try:
            found.append(self._done.get(timeout=patience_seconds) if patience_seconds else self._done.get_nowait())
            while True:
                found.append(self._done.get_nowait())
        except Empty:
            return [one for one in found if one[0] not in self._given_up]

    def abort(self, request_ids: Sequence[str]) -> None:
        with self._lock:
            self._given_up.update(request_ids)
            for one in request_ids:
                if one in self._at_work:  # under the lock: afterwards the thread may be at another agent's
                    end_programs_of(self._at_work[one])

    def is_seated(self, deliberation_id: str, agent_id: str) -> bool:
        """Whether the agent has a workspace now."""
        with self._lock:
            return (deliberation_id, agent_id) in self._desks

    def end(self, deliberation_id: str) -> None:
        """Remove the workspaces of a deliberation that has ended."""
        with self._lock:
            self._uses.pop(deliberation_id, None)
            desks = [self._desks.pop(key) for key in list(self._desks) if key[0] == deliberation_id]
            for desk in desks:
                desk.ended = True
            idle = [desk for desk in desks if not desk.at_work]
        for desk in idle:
            _close(desk)

    def close(self) -> None:
        """End what is under way, and remove all workspaces."""
        self.workspaces.stop()
        self.abort(list(self._at_work))
        self._pool.shutdown(wait=True, cancel_futures=True)
        for key in list(self._uses):
            self.end(key)
        for base in self._bases.values():
            if base.done() and not base.cancelled() and base.exception() is None:
                _remove(base.result().workspace.close, base.result().workspace)

    # What follows runs in the threads of the pool.

    def _work(self, request_id: str, action: Action) -> None:
        with self._lock:
            if request_id in self._given_up:
                return
            self._at_work[request_id] = threading.get_ident()
        began, started_at = time.monotonic(), time.time()
        try:
            done = self._act(request_id, action)
        except FleetError as error:
            done = Done(False, error=shown(str(error)), outcome="refused")
        except Exception as error:  # noqa: BLE001 - a bug here must not leave an agent waiting for ever
            _log.exception("%s broke", action.name)
            done = Done(False, error=shown(f"broke: {type(error).__name__}: {error}"[:1_000]), outcome="broke")
        with self._lock:
            may_run_programs(self._at_work.pop(request_id))
        self._done.put((request_id, replace(done, started_at=started_at, seconds=time.monotonic() - began)))

    def _act(self, request_id: str, action: Action) -> Done:
        desk, remade = self._desk_of(request_id, action)
        try:
            with desk.turn:
                if request_id in self._given_up:
                    raise Refused("it was given up before it began")
                return self._act_at(desk, action, remade, lambda: request_id in self._given_up)
        finally:
            with self._lock:
                desk.at_work -= 1
                is_last = desk.ended and not desk.at_work
            if is_last:
                _close(desk)

    def _act_at(self, desk: _Desk, action: Action, remade: int, given_up: Callable[[], bool]) -> Done:
        use = self._use_of(action.place)
        told = {"remade": remade} if remade else {}
        if not action.tool:
            bench = Bench(
                *(self.workspaces, desk.tools.box, self.audit, self._caller(action.place), f"{desk.workspace.name}.t"),
                given_up,
            )
            change = change_in(desk.tools.box, desk.base, bench, use.tests)
            return Done(True, facts=asdict(change))
        if Changes.ELSEWHERE in _changes(desk, action.tool) and not self.note(action):
            return Done(False, error="it could not be noted that this begins, so it was not done", outcome="refused")
        result = desk.tools.call(action.tool, action.arguments)
        # What goes back is kept in a log, a table and a prompt: no more than a model is shown, or a plan hands on.
        output = result.output[: max(use.output_chars, _OUTPUT_CHARS)]
        return Done(result.ok, output, result.error, result.outcome, {**result.facts, **told}, result.sandbox)

    def _use_of(self, place: Place) -> ToolUse:
        return self._uses.get(place.deliberation_id, ToolUse())

    def _caller(self, place: Place) -> Caller:
        return Caller(self.run_id, place.deliberation_id, place.agent_id)

    def _desk_of(self, request_id: str, action: Action) -> tuple[_Desk, int]:
        """The agent's workspace, at which somebody works now, and how many calls were made again for it."""
        place = action.place
        key = (place.deliberation_id, place.agent_id)
        with self._lock:
            desk = self._desks.get(key)
            if desk is not None:
                desk.at_work += 1
                return desk, 0
        base = self._base_of(place)
        stack = ExitStack()
        try:
            workspace = stack.enter_context(
                self.workspaces.copy(_name(self._own, *key), base.workspace, self.options.workspace_mib * _MIB)
            )
            box = Box(workspace, self.sandbox, self.options, self._use_of(place).read_only)
            servers = stack.enter_context(connected(box, place.role))
            desk = _Desk(workspace, base, Toolbox(box, self.audit, place.role, servers, self._caller(place)), stack)
            again = [call for call in action.before if _changes(desk, call.tool) == Changes.TREE]
            for call in again:
                if request_id in self._given_up:
                    raise Refused("it was given up while the workspace was made again")
                desk.tools.call(call.tool, call.arguments)
            with self._lock:
                if place.deliberation_id not in self._uses:
                    raise Refused("the deliberation has ended")
                desk.at_work = 1
                self._desks[key] = desk
        except BaseException:
            stack.close()
            raise
        return desk, len(again)

    def _base_of(self, place: Place) -> Base:
        """Made by the first that asks for it; the others wait."""
        source = (place.url, place.reference, place.folder)
        with self._lock:
            making = self._bases.get(source)
            first = making is None
            if making is None:
                making = self._bases[source] = Future()
        if first:
            try:
                making.set_result(self._fetched(place))
            except BaseException as error:  # noqa: BLE001 - it is raised in all that wait
                making.set_exception(error)
        return making.result()

    def _fetched(self, place: Place) -> Base:
        source = allowed_source(self.options, place)
        name = _name(self._own, "base", repr((place.url, place.reference, place.folder)))
        workspace = self.workspaces.make(name, source, self.options.workspace_mib * _MIB)
        try:
            return Base(workspace, settle(workspace.place))
        except BaseException:
            workspace.close()
            raise


def _changes(desk: _Desk, tool: str) -> Changes:
    """What a call can change. Of one that its role may not make, nothing."""
    family, _, name = tool.partition(".")
    known = desk.tools.families.get(family)
    return known.operations[name].changes if known is not None and name in known.operations else Changes.NOTHING


def _close(desk: _Desk) -> None:
    _remove(desk.opened.close, desk.workspace)


def _remove(close: Callable[[], None], workspace: Workspace) -> None:
    """One workspace that cannot be removed ended the run of all. It is left to a person, with its reason."""
    try:
        close()
    except Exception:  # noqa: BLE001 - see above
        _log.exception("the workspace %s cannot be removed", workspace.place)


def allowed_source(options: ToolOptions, place: Place) -> Source:
    """Raises `InvalidInput` for one that is not below what the settings name: tasks come from outside."""
    if place.url is not None:
        allowed = [source for source in options.sources if urlsplit(source).scheme]
        if not any(_is_below(place.url, source) for source in allowed):
            raise InvalidInput(
                f"workspace: {place.url[:200]!r} begins with none of tools.sources; name there where agents may work"
            )
        return Source(url=place.url, reference=place.reference)
    if place.folder is None:
        return Source()
    folder = Path(place.folder).resolve()
    allowed_folders = [Path(source).resolve() for source in options.sources if not urlsplit(source).scheme]
    if not any(folder.is_relative_to(one) for one in allowed_folders):
        raise InvalidInput(
            f"workspace: {place.folder[:200]!r} is in none of tools.sources; name there where agents may work"
        )
    return Source(folder=folder)


def _is_below(url: str, source: str) -> bool:
    """Whether a URL is the source, or goes on where it ends. Dots could lead out of it on a server."""
    whole = source if source.endswith("/") else f"{source}/"
    leads_out = any(mark in url for mark in ("..", "%", "\\", " ")) or not url.isprintable()
    return (url == source or url.startswith(whole)) and not leads_out


def _name(*parts: str) -> str:
    """Of a workspace: short, because paths within it have a limit, and told by its parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
