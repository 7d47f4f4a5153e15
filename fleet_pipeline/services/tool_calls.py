"""Tools by hand, and the audit's table: `tool_calls`, made of the files that callers have written line by line."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fleet_pipeline.deliberation.action_rows import ToolCallRow
from fleet_pipeline.deliberation.rows import NoFooter
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.schemas import TOOL_CALLS
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import write_rows
from fleet_pipeline.tools.audit import Audit, Call, read_calls
from fleet_pipeline.tools.mcp_servers import connected
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.sandbox.sandbox import Sandbox
from fleet_pipeline.tools.sources import Source
from fleet_pipeline.tools.toolbox import Toolbox
from fleet_pipeline.tools.workspace import Workspaces, open_kept

_log = logging.getLogger(__name__)
# Beside the workspaces: the storage may be an object store, and a line must be on a disk before its call begins.
AUDIT = "audit"
MIB = 2**20


def audit_folder(options: ToolOptions) -> Path:
    return Path(options.workspaces).absolute().parent / AUDIT


@contextmanager
def by_hand(
    settings: Settings, place: Path, source: str | None, role: str | None, read_only: bool
) -> Iterator[Toolbox]:
    """A toolbox on a workspace that a person has named. Its calls are in `tool_calls` afterwards."""
    options = settings.tools
    with open_kept(place, _source(source), options.workspace_mib * MIB) as workspace:
        audit = Audit(audit_folder(options))
        box = Box(workspace, Sandbox.find(options.toolchains), options, read_only)
        try:
            with connected(box, role) as servers:
                yield Toolbox(box, audit, role, servers)
        finally:
            audit.close()
            store_calls(Store(settings.storage), audit_folder(options))


@contextmanager
def scratch(options: ToolOptions, role: str | None, read_only: bool) -> Iterator[Toolbox]:
    """A toolbox on nothing, to ask what there is."""
    with (
        tempfile.TemporaryDirectory(prefix="fleet-tools-") as name,
        Workspaces(Path(name) / "workspaces").make("scratch") as workspace,
        closing(Audit(Path(name) / AUDIT)) as audit,
    ):
        box = Box(workspace, Sandbox.find(options.toolchains), options, read_only)
        with connected(box, role) as servers:
            yield Toolbox(box, audit, role, servers)


def _source(text: str | None) -> Source | None:
    if text is None:
        return None
    return Source(url=text) if "://" in text else Source(folder=Path(text).expanduser())


def store_calls(store: Store, folder: Path) -> int:
    """Write each audit file whose process has ended as a file of `tool_calls`, and remove it. How many calls those are.

    Writing it again, after a kill in between, gives the same file.
    """
    count = 0
    for path in sorted(folder.glob("*.jsonl")):
        with Audit.finished(path) as finished:
            if not finished:
                continue
            try:
                calls = list(read_calls(path))
                if calls:
                    write_rows(store, TOOL_CALLS, f"{path.stem}.audit", [_row(call) for call in calls], NoFooter())
            except ValueError as error:  # one file must not keep back those of all other processes
                _log.warning("%s cannot be read, and stays there: %s", path, error)
                continue
            path.unlink()
            count += len(calls)
    return count


def _row(call: Call) -> ToolCallRow:
    begun = call.begun
    return ToolCallRow(
        call_id=begun.call_id,
        run_id=begun.caller.run_id,
        deliberation_id=begun.caller.deliberation_id,
        agent_id=begun.caller.agent_id,
        workspace=begun.workspace,
        family=begun.family,
        operation=begun.operation,
        arguments=begun.arguments,
        read_only=begun.read_only,
        sandbox=begun.sandbox,
        started_at=datetime.fromtimestamp(begun.started_at, UTC),
        outcome=call.outcome,
        error=call.error,
        output_bytes=call.output_bytes,
        seconds=call.seconds,
    )
