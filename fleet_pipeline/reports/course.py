"""The course of a deliberation on a terminal: what was said, in the order in which it was."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from fleet_pipeline.common.text import printable
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.rows import UtteranceRow
from fleet_pipeline.reports.diffs import Revision, revisions
from fleet_pipeline.reports.marks import SHORTENED

_ORDER = list(Phase)
_TITLES = {Phase.PROPOSE: "Opening proposals", Phase.CRITIQUE: "critiques", Phase.REVISE: "revisions"}
# As `git diff --word-diff` marks them, because a pipe has no colours.
_MARKS = {"gone": ("[-", "-]", "red"), "new": ("{+", "+}", "green")}


def course(utterances: Sequence[UtteranceRow], final: dict[str, str]) -> list[RenderableType]:
    """Every answer that counts, a part for each phase of each round. `final` are the texts shown above, by agent: they are not
    repeated."""
    changed = _changed(utterances)
    counted = [row for row in utterances if row.error_type is None]
    parts: list[RenderableType] = []
    in_order = sorted(counted, key=lambda row: (row.round, _ORDER.index(row.phase)))
    for (round_, phase), rows in groupby(in_order, key=lambda row: (row.round, row.phase)):
        title = f"Round {round_}: {_TITLES[phase]}" if round_ else _TITLES[phase]
        parts.append(Padding(Rule(title, align="left", style="dim"), (1, 0, 0, 0)))
        parts += [Group(*_answer(row, changed.get(id(row)), final)) for row in rows]
    return parts


def _changed(utterances: Sequence[UtteranceRow]) -> dict[int, Revision]:
    """What each revision changed, by the id() of its row."""
    found: dict[int, Revision] = {}
    for agent in {row.about_agent_id for row in utterances}:
        about = [row for row in utterances if row.about_agent_id == agent]
        found |= {id(about[index]): revision for index, revision in revisions(about).items()}
    return found


def _answer(row: UtteranceRow, revision: Revision | None, final: dict[str, str]) -> Iterator[RenderableType]:
    who = f"{row.agent_id} ({row.label})"
    if row.phase is Phase.CRITIQUE:
        whose = "its own proposal" if row.self_critique else f"the proposal of {row.about_agent_id}"
        who += f" on {whose}"
    mark = f" [{SHORTENED[row.shortened]}]" if row.shortened else ""
    yield Padding(Text(f"{who}{mark}", style="bold"), (1, 0, 0, 0))
    if revision is not None:
        yield Text(revision.words, style="dim")
    if revision is not None and revision.pieces is not None:
        yield _diff(revision)
    elif final.get(row.agent_id) == row.text:
        yield Text("the proposal above", style="dim")
    else:
        yield Text(printable(row.text))


def _diff(revision: Revision) -> Text:
    shown = Text()
    for kind, text in revision.pieces or ():
        words = text.rstrip()
        before, after, style = _MARKS.get(kind, ("", "", ""))
        shown.append(f"{before}{printable(words)}{after}", style=style)
        shown.append(text[len(words) :])
    return shown
