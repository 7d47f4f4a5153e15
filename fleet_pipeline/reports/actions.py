"""What agents with tools did, for a terminal: their calls in order, and what they have changed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from fleet_pipeline.common.text import bounded, printable
from fleet_pipeline.deliberation.action_rows import ArtifactRow, OperationRow
from fleet_pipeline.reports.marks import particulars, verdict

MOST_CALLS = 40  # of one agent; the table has all
MOST_DIFF = 8_000  # characters
_STYLES = {"verified": "green", "broken": "red", "unverified": "yellow"}
_MOST_LINE = 110


def actions_page(operations: Sequence[OperationRow], artifacts: Sequence[ArtifactRow]) -> RenderableType:
    """Each agent's calls, and its last change with its tests. Nothing where nobody used tools."""
    agents = list(dict.fromkeys([*(one.agent_id for one in operations), *(one.agent_id for one in artifacts)]))
    parts: list[RenderableType] = []
    for agent in agents:
        own = [one for one in operations if one.agent_id == agent]
        changes = [one for one in artifacts if one.agent_id == agent]
        parts.append(Padding(Text(f"What {agent} did", style="bold"), (1, 0, 0, 0)))
        parts += [_call(one) for one in own[:MOST_CALLS]]
        if left := len(own) - MOST_CALLS:
            parts += [Text(f"  ... and {left} more, in the table operations", style="dim")] if left > 0 else []
        parts += _change(changes[-1]) if changes else []
    return Group(*parts)


def _call(row: OperationRow) -> Text:
    mark, style = ("+", "green") if row.ok else ("x", "red")
    line = f"{row.phase} {row.step}  {row.tool or 'no call'}  {row.arguments or ''}"
    shown = printable(" ".join(line.split()))
    text = Text.assemble((f"  {mark} ", style), shown[:_MOST_LINE] + ("..." if len(shown) > _MOST_LINE else ""))
    text.append(f"  {row.seconds:.1f} s", style="dim")
    if row.error:
        text.append(f"  {printable(' '.join(row.error.split()))[:_MOST_LINE]}", style="red")
    if row.remade:
        text.append(f"  (workspace made again by {row.remade} calls)", style="yellow")
    return text


def _change(row: ArtifactRow) -> list[RenderableType]:
    if row.tested is None:
        return [Text("  It changed nothing.")]
    parts: list[RenderableType] = [
        Text.assemble("  Its change is ", (printable(" ".join(verdict(row).split())), _STYLES[row.tested]))
    ]
    parts += [
        Text(f"  {title}: {printable(', '.join(names[:10]))}{', ...' if len(names) > 10 else ''}")
        for title, names in particulars(row).items()
    ]
    diff = printable(bounded(row.diff, MOST_DIFF))
    parts.append(Padding(Syntax(diff, "diff", background_color="default", word_wrap=True), (0, 0, 0, 2)))
    return parts
