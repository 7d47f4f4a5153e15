"""The report of a bulk run: one self-contained HTML file, for people without Dagster.

It loads nothing: it holds no address, and its content security policy forbids all but the one script that sorts and
filters, by its hash. All can be read without it. Model texts are escaped.
"""

import base64
import hashlib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd

from fleet_pipeline.common.errors import MissingExtra
from fleet_pipeline.common.frames import records
from fleet_pipeline.common.text import bounded, printable
from fleet_pipeline.deliberation.action_rows import Actions, ArtifactRow, OperationRow
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow, UtteranceRow
from fleet_pipeline.deliberation.transcript import SYNTHETIC
from fleet_pipeline.reports.diffs import Revision, revisions
from fleet_pipeline.reports.marks import SHORTENED, particulars, shortfall, unclear, verdict
from fleet_pipeline.reports.plots import bars, before_and_after, distribution, diversity_against_relevance
from fleet_pipeline.reports.remedies import remedy
from fleet_pipeline.reports.timeline import BAR_BYTES, MOST_BARS, timeline

_TEMPLATES = Path(__file__).parent / "templates"
MOST_LISTED = 10
MOST_TASK = 120  # characters of a task in a list
MOST_CALLS = 100  # of one agent
_CALL_BYTES, _RUN_BYTES = 700, 30  # about, on the page, of a call's row and of what is around lines of one kind
_MARKS = {"+": "added", "-": "removed"}
MOST_TEXT = 50_000  # characters of one text
# Bytes of all texts together, so that a page of 1,000 stays below 25 MB. A larger page has as much for each thousand.
MOST_TOGETHER = 18_000_000
LEAST_TEXT = 500
_STATUSES = ("completed", "failed", "timeout")


@dataclass(frozen=True)
class DeliberationDetail:
    """One deliberation: its row of `deliberations`, its seats, its utterances, and what its agents did with tools."""

    row: OutcomeRow
    seats: Sequence[ProposalRow]
    utterances: Sequence[UtteranceRow]
    actions: Actions = field(default_factory=Actions)
    why: Sequence[str] = ()  # the winner won, in words


def write_report(
    out: IO[str],
    about: str,
    rows: pd.DataFrame,
    seats: pd.DataFrame,
    load_detail: Callable[[str], DeliberationDetail],
    made_at: datetime | None = None,
    title: str | None = None,
) -> None:
    """Write the report of `rows`: one row per deliberation, with the columns of the `deliberations` table.

    `seats` has the columns `role`, `perspective`, `winner` and `answered` (whether the proposal has a text).
    `load_detail` loads the texts, one deliberation at a time, so that memory does not grow with them.
    """
    page = template("report.html.jinja")  # first: what is missing is told before anything is read
    ordered = rows.sort_values(["status", "deliberation_id"], ascending=[False, True])
    pieces = page.generate(
        about=about,
        title=title or about,
        made_at=made_at or datetime.now(UTC),
        headline=headline(rows),
        synthetic=sorted({name for name in rows["engine"].dropna() if name.startswith(SYNTHETIC)}),
        plots=_plots(rows, seats),
        wins=wins(seats),
        failures=[_failure(load_detail(key)) for key in ordered.loc[rows["status"] != "completed", "deliberation_id"]],
        slowest=records(rows.sort_values("wall_s", ascending=False).head(MOST_LISTED)),
        most_tokens=records(rows.sort_values("completion_tokens", ascending=False).head(MOST_LISTED)),
        alike=records(rows.dropna(subset=["mean_distance"]).sort_values("mean_distance").head(MOST_LISTED)),
        deliberations=_details(list(ordered["deliberation_id"]), load_detail),
    )
    out.writelines(pieces)


def template(name: str) -> Any:
    """One of the pages, with what all of them use. Raises `MissingExtra`."""
    try:
        import jinja2
        import matplotlib as mpl  # noqa: F401 - `plots` needs it: told before anything is read
    except ImportError as error:
        raise MissingExtra("the report", "report") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fleet_pipeline.reports", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_plain,
    )
    environment.globals |= {"shortfall": shortfall, "unclear": unclear, "SHORTENED": SHORTENED}
    environment.globals["PARTS"] = ("fit", "coverage", "form", "novelty", "checks", "judge", "preferred")
    environment.globals |= {"verdict": verdict, "particulars": particulars}
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment.globals |= {
        "css": (_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    environment.filters |= {"task": lambda text: textwrap.shorten(text or "", MOST_TASK, placeholder=" ...")}
    environment.filters |= {"figure": _figure, "bounded": _bounded, "diff": _diff}
    return environment.get_template(name)


def headline(rows: pd.DataFrame) -> dict[str, str]:
    """The figures that people ask for first: label -> formatted value."""
    counts = rows["status"].value_counts()
    tokens, prompt = int(rows["completion_tokens"].sum()), int(rows["prompt_tokens"].sum())
    cached = int(rows["cached_tokens"].sum())
    began, ended = rows["started_at"].min(), rows["finished_at"].max()
    seconds = (ended - began).total_seconds() if pd.notna(began) and pd.notna(ended) else 0.0
    before, after = rows["initial_vendi"].mean(), rows["vendi"].mean()
    return {
        "deliberations": f"{len(rows):,}",
        **{status: f"{int(counts.get(status, 0)):,}" for status in _STATUSES},
        "no clear winner": f"{int((rows['clear_winner'] == False).sum()):,}",  # noqa: E712  (null where there is none)
        "winner's score, median": _figure(rows["winner_score"].median()),
        "relevance, mean": _figure(rows["mean_relevance"].mean()),
        "diversity (Vendi), mean": f"{_figure(after)} (before revision {_figure(before)})",
        "answers that did not count": f"{int(rows['agent_errors'].sum()):,}",
        "cut at max_tokens": f"{int(rows['truncated'].sum()):,}",
        "repeated themselves": f"{int(rows['looped'].sum()):,}",
        "tokens generated": f"{tokens:,}",
        "tokens per second": f"{tokens / seconds:,.0f}" if seconds > 0 else "-",
        "prompt tokens from cache": f"{cached / prompt:.0%} of {prompt:,}" if prompt else "-",
        "first to last answer": f"{seconds:,.0f} s" if seconds else "-",
        "models": ", ".join(sorted(set(rows["model"].dropna()))) or "-",
    }


class Wins(NamedTuple):
    """How often the proposals of one perspective won."""

    role: str
    perspective: str
    won: int
    proposals: int

    @property
    def share(self) -> float:
        return self.won / self.proposals


def wins(seats: pd.DataFrame) -> list[Wins]:
    """Per role and perspective. Within a role the best comes first."""
    answered = seats[seats["answered"]].assign(perspective=lambda frame: frame["perspective"].fillna("(none)"))
    grouped = answered.groupby(["role", "perspective"])["winner"].agg(["sum", "count"]).reset_index()
    counted = [Wins(*row) for row in grouped.itertuples(index=False, name=None)]
    return sorted(counted, key=lambda one: (one.role, -one.share))


def _plots(rows: pd.DataFrame, seats: pd.DataFrame) -> dict[str, str]:
    rates = wins(seats)
    plots = {
        "Diversity against relevance": diversity_against_relevance(rows),
        "Diversity before and after revision": before_and_after(rows),
        "Score of the winner": distribution(rows["winner_score"], "winner's score"),
        "Seconds a deliberation took": distribution(rows["wall_s"], "seconds", unit_range=False),
    }
    if rates:
        labels = [_plain(f"{one.role}: {textwrap.shorten(one.perspective, 32)}") for one in rates]
        plots["Who wins"] = bars(labels, [one.share for one in rates], "share of its proposals that won", "Who wins")
    return plots


class _Work(NamedTuple):
    """What one agent did with tools: its calls, and its last change."""

    calls: list[OperationRow]
    change: ArtifactRow | None


class _Said(NamedTuple):
    """An answer, and what it changed where it is a revision."""

    row: UtteranceRow
    revision: Revision | None


class _Shown(NamedTuple):
    """One deliberation as the page shows it: each seat with all that was said about its proposal and what it did, best first."""

    row: OutcomeRow
    seats: list[tuple[ProposalRow, list[_Said], _Work]]
    timeline: str  # SVG
    why: str
    remedy: str
    most_text: int  # characters of one text of it
    most_calls: int  # of one agent


class _Failure(NamedTuple):
    deliberation_id: str
    status: str
    task: str
    why: str
    remedy: str


def _failure(detail: DeliberationDetail) -> _Failure:
    row = detail.row
    return _Failure(row.deliberation_id, row.status, row.description or "", row.error_message or "", _remedy(detail))


def _remedy(detail: DeliberationDetail) -> str:
    return remedy(detail.row, [one.error_type for one in detail.utterances])


def _details(keys: Sequence[str], load_detail: Callable[[str], DeliberationDetail]) -> Iterator[_Shown]:
    for key in keys:
        detail = load_detail(key)
        about: dict[str, list[UtteranceRow]] = {}
        for utterance in detail.utterances:
            about.setdefault(utterance.about_agent_id, []).append(utterance)
        ranked = sorted(detail.seats, key=lambda seat: seat.place)
        seats = [(seat, _said(about.get(seat.agent_id, [])), _work(detail.actions, seat.agent_id)) for seat in ranked]
        why = "\n".join(detail.why)
        share = MOST_TOGETHER // min(len(keys), 1_000)  # bytes of this one
        if detail.actions.operations or detail.actions.artifacts:
            share //= 2  # the other half is for the picture and the calls
        picture = timeline(detail.actions.operations, min(MOST_BARS, share // 2 // BAR_BYTES))
        most_text = _most_text(detail, [work.change for *_, work in seats if work.change], share)
        most_calls = max(1, min(MOST_CALLS, share // 2 // max(len(seats), 1) // _CALL_BYTES))
        yield _Shown(detail.row, seats, picture, why, _remedy(detail), most_text, most_calls)


def _most_text(detail: DeliberationDetail, changes: Sequence[ArtifactRow], most_together: int) -> int:
    """Characters of each text, where all of a deliberation may take `most_together` bytes."""
    texts = [detail.row.description, *(seat.text for seat in detail.seats), *(one.diff for one in changes)]
    texts += [", ".join(names) for one in changes for names in particulars(one).values()]
    for one in detail.utterances:
        # A revision shows what went as well.
        texts += [one.text, one.reasoning, *([one.text] if one.phase is Phase.REVISE else [])]
    sizes = sorted(len(text.encode()) for text in texts if text)
    left = most_together
    for index, size in enumerate(sizes):  # short ones are whole, and long ones share what is left
        if size * (len(sizes) - index) > left:
            return max(left // (len(sizes) - index), LEAST_TEXT)
        left -= size
    return MOST_TEXT


def _said(about: Sequence[UtteranceRow]) -> list[_Said]:
    changed = revisions(about)
    return [_Said(row, changed.get(index)) for index, row in enumerate(about)]


def _work(actions: Actions, agent_id: str) -> _Work:
    changes = [row for row in actions.artifacts if row.agent_id == agent_id and row.tested is not None]
    return _Work([row for row in actions.operations if row.agent_id == agent_id], changes[-1] if changes else None)


def _diff(text: str, most: int) -> list[tuple[str, str]]:
    """A diff as runs of lines that were added, removed or neither, of `most` characters in all as they stand on the page."""
    runs: list[tuple[str, str]] = []
    for kind, lines in groupby(bounded(text, most).splitlines(keepends=True), lambda line: _MARKS.get(line[0], "")):
        most -= _RUN_BYTES
        if most <= 0:
            return [*runs, ("", "[... the rest in the Parquet file]")]
        runs.append((kind, "".join(lines)))
        most -= len(runs[-1][1])
    return runs


def _bounded(text: str | None, most: int = MOST_TEXT) -> str:
    return bounded(text or "", most)


def _figure(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.2f}"


def _plain(value: Any) -> Any:
    """Applied to every value on the page. In texts, control characters and marks that reorder text are written out."""
    import markupsafe

    return printable(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value
