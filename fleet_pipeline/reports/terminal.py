"""What `fleet` prints on a terminal: progress, tables, one deliberation in full."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fleet_pipeline.common.text import bounded, grouped, printable
from fleet_pipeline.deliberation.exchange import UNFINISHED
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow, UtteranceRow
from fleet_pipeline.deliberation.transcript import SYNTHETIC
from fleet_pipeline.reports.course import course
from fleet_pipeline.reports.marks import SHORTENED, shortfall, unclear

MOST_ROWS = 60
MOST_REASONS = 10
MOST_LINE = 400
MOST_TASK = 4_000  # characters of a task's description: people look for what came of it
_STYLES = {"completed": "green", "failed": "red", "timeout": "yellow", "in_progress": "cyan"}


def run_table(rows: Sequence[OutcomeRow]) -> RenderableType:
    """One line per deliberation, and below why any failed. Above `MOST_ROWS` the table is cut, and those not completed come first."""
    shown = rows
    if len(rows) > MOST_ROWS:
        shown = sorted(rows, key=lambda row: row.status == "completed")[:MOST_ROWS]
    table = Table(pad_edge=False, box=None, header_style="bold")
    # People copy the id: it is folded only where it does not fit, and never at the cost of the other columns. The
    # winner column shows only the seat's number.
    table.add_column("deliberation", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("winner", no_wrap=True)
    for name in ("score", "diversity", "relevance"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in shown:
        table.add_row(
            row.deliberation_id,
            Text(row.status, style=_STYLES.get(row.status, "")),
            _first(row.winner_agent_id, row.clear_winner),
            number(row.winner_score),
            number(row.vendi, of=row.answered),
            number(row.mean_relevance),
        )
    parts: list[RenderableType] = [table]
    if len(shown) < len(rows):
        parts.append(Text(f"... and {len(rows) - len(shown)} more", style="dim"))
    truncated, looped = sum(row.truncated for row in rows), sum(row.looped for row in rows)
    if truncated or looped:
        parts.append(
            Text(
                f"{truncated} answers were cut at max_tokens and {looped} repeated themselves: "
                "they count without that end, and are marked",
                style="dim",
            )
        )
    if unclear_ones := sum(row.clear_winner is False for row in rows):
        parts.append(
            Text(
                f"no clear winner in {unclear_ones} of {len(rows)} (marked ?): `fleet explain ID` says what would decide",
                style="yellow",
            )
        )
    short = [row for row in rows if shortfall(row)]
    parts += [Text(f"{row.deliberation_id}: {shortfall(row)}", style="yellow") for row in short[:MOST_REASONS]]
    if len(short) > MOST_REASONS:
        parts.append(Text(f"... and {len(short) - MOST_REASONS} more whose time was up", style="dim"))
    parts += reasons([(row.deliberation_id, row.status, row.error_message) for row in rows if row.error_message])
    return Group(*parts)


def reasons(failed: Sequence[tuple[str, str, str | None]]) -> list[RenderableType]:
    """Of (id, status, message): a line for each message, with the deliberations that it is about."""
    told = {key: f"{status}: {bounded_line(message or '')}" for key, status, message in failed}
    texts, untold = grouped(told, MOST_REASONS)
    lines: list[RenderableType] = [Text(printable(text), style="red") for text in texts]
    if untold:
        lines.append(Text(f"... and {untold} more; `fleet show ID` says why", style="dim"))
    return lines


def bounded_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_LINE else f"{line[:MOST_LINE]}..."


class Standing(Protocol):
    """Where a deliberation stands: what a line of `status_table` shows."""

    deliberation_id: str
    status: Any
    total_agents: int | None
    successful_responses: int
    winner_id: str | None
    winner_score: float | None
    clear_winner: bool | None
    run_id: str | None
    error: str | None


def status_table(answers: Sequence[Standing]) -> RenderableType:
    """One line per answer, and the errors below the table."""
    table = Table(pad_edge=False, box=None, header_style="bold")
    table.add_column("deliberation", overflow="fold")
    for name in ("status", "agents", "winner", "score", "run"):
        table.add_column(name, no_wrap=True)
    for answer in answers:
        agents = f"{answer.successful_responses} of {answer.total_agents}" if answer.total_agents else "-"
        table.add_row(
            answer.deliberation_id,
            _state(answer.status),
            agents,
            _first(answer.winner_id, answer.clear_winner),
            number(answer.winner_score),
            (answer.run_id or "-")[:8],
        )
    failed = [(answer.deliberation_id, str(answer.status), answer.error) for answer in answers if answer.error]
    return Group(table, *reasons(failed))


def overview(
    states: Mapping[str, str], counts: Mapping[str, int], storage: str, why: Mapping[str, str]
) -> RenderableType:
    """The number of deliberations per status, and a list of those not completed. `why` has the reasons of those that failed."""
    if not states:
        return Text(f"no deliberations in {storage} yet")
    total = Text.assemble(
        f"{len(states)} deliberations: ",
        *(part for name, count in sorted(counts.items()) for part in (f"{count} ", _state(name), "  ")),
    )
    not_completed = [(key, state) for key, state in states.items() if state != "COMPLETED"]
    lines = [Text.assemble(f"  {key}  ", _state(state)) for key, state in not_completed[:MOST_ROWS]]
    if len(not_completed) > MOST_ROWS:
        lines.append(Text(f"  ... and {len(not_completed) - MOST_ROWS} more (--json lists all)", style="dim"))
    told = reasons([(key, state, why[key]) for key, state in not_completed if key in why])
    return Group(total, *lines, *told)


def _state(name: str) -> Text:
    return Text(name, style=_STYLES.get(name.lower(), ""))


def cases_table(results: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line per proposal scored by `fleet score`, best first within its case."""
    table = Table(pad_edge=False, box=None, header_style="bold")
    table.add_column("case", overflow="fold")
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("agent", overflow="fold")
    for name in ("score", "relevance", "fit", "coverage", "form", "novelty", "checks", "diversity"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        answered = sum(seat["rank"] is not None for seat in result["proposals"])
        for index, seat in enumerate(result["proposals"]):
            first = index == 0
            table.add_row(
                Text(printable(result["name"]) if first else ""),
                "-" if seat["rank"] is None else f"{seat['rank']}{' tied' if seat['tied'] else ''}",
                Text(
                    printable(seat["agent_id"]) + (" ?" if seat["clear_winner"] is False else ""),
                    style="green" if seat["winner"] else "",
                ),
                *(
                    number(seat[name])
                    for name in ("score", "relevance", "fit", "coverage", "form", "novelty", "checks")
                ),
                number(result["diversity"]["vendi"], of=answered) if first else "",
            )
    return table


def number(value: float | None, of: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} of {of}" if of else f"{value:.3f}"


def deliberation_page(
    outcome: OutcomeRow, seats: Sequence[ProposalRow], utterances: Sequence[UtteranceRow]
) -> RenderableType:
    """One deliberation in full: the task, the winner, the other proposals, and how it came to them."""
    key = outcome.deliberation_id
    head = Text.assemble(
        (key, "bold"), "  ", (outcome.status, _STYLES.get(outcome.status, "")), f"  model {outcome.model}"
    )
    if (outcome.engine or "").startswith(SYNTHETIC):
        head.append(f"  engine {outcome.engine}: not a model", style="bold red")
    parts: list[RenderableType] = [head]
    if outcome.error_message:
        parts.append(Text(printable(outcome.error_message), style="red"))
    if short := shortfall(outcome):
        parts.append(Text(short, style="yellow"))
    if no_verdict := unclear(outcome):
        parts.append(Text(printable(no_verdict), style="yellow"))
    parts.append(_section("Task", printable(bounded(outcome.description or "(not stored)", MOST_TASK))))
    parts.append(Padding(_figures(outcome), (1, 0, 0, 0)))
    ranked = sorted(seats, key=lambda seat: seat.place)
    name = "first" if outcome.clear_winner is False else "winner"
    parts += [_seat(seat, utterances, name) for seat in ranked]
    final = {seat.agent_id: seat.text for seat in seats if seat.text is not None}
    if any(row.round or final.get(row.agent_id) != row.text for row in utterances if row.error_type is None):
        parts += course(utterances, final)
    return Group(*parts)


def _first(agent_id: str | None, clear: bool | None) -> str:
    """The number of the winner's seat, with a question mark where it is no clear one."""
    return ((agent_id or "-").rpartition("-")[2] or "-") + (" ?" if clear is False else "")


def _figures(outcome: OutcomeRow) -> Text:
    cached, prompt = outcome.cached_tokens, outcome.prompt_tokens
    lines = [
        f"{outcome.answered} of {outcome.num_agents} agents answered, {outcome.agent_errors} answers did not count"
        + (f", {outcome.truncated} were cut at max_tokens" if outcome.truncated else "")
        + (f", {outcome.looped} repeated themselves" if outcome.looped else ""),
        f"diversity (Vendi) {number(outcome.initial_vendi)} before revision, {number(outcome.vendi)} after; "
        f"mean distance {number(outcome.initial_mean_distance)}, then {number(outcome.mean_distance)}",
        f"{outcome.completion_tokens:,} tokens generated, {prompt:,} read"
        + (f", {cached / prompt:.0%} of them from the prefix cache" if prompt else "")
        + (f"; {outcome.wall_s:.1f} s" if outcome.wall_s is not None else "")
        + (f"; it cost {outcome.cost:,.4f}" if outcome.cost is not None else ""),
    ]
    return Text("\n".join(lines), style="dim")


def _seat(seat: ProposalRow, utterances: Sequence[UtteranceRow], first: str) -> RenderableType:
    title = f"{seat.agent_id} ({seat.label})" + (f", {seat.perspective}" if seat.perspective else "")
    if seat.text is None:
        reason = printable(f"{seat.error_type}: {seat.error_message}")
        said = _unfinished(seat, utterances)
        return Panel(
            Group(Text(reason, style="red"), *said),
            title=f"no proposal: {title}",
            title_align="left",
            border_style="red",
        )
    tie = " (tied)" if seat.tied else ""
    scores = ", ".join(
        f"{name} {number(getattr(seat, name))}"
        for name in ("fit", "coverage", "form", "novelty", "checks", "judge", "preferred")
        if getattr(seat, name) is not None
    )
    body: list[RenderableType] = [
        Text(f"score {number(seat.score)} ({scores})", style="dim"),
        Text(printable(seat.text)),
    ]
    if seat.shortened:
        body.append(Text(f"[{SHORTENED[seat.shortened]}]", style="yellow"))
    body += _unfinished(seat, utterances)
    rank = f"rank {seat.rank}{tie}"
    name = f"[{first}] {rank}" if seat.winner else rank
    return Panel(
        Group(*body), title=Text(f"{name}: {title}"), title_align="left", border_style="green" if seat.winner else ""
    )


def _unfinished(seat: ProposalRow, utterances: Sequence[UtteranceRow]) -> list[RenderableType]:
    """What was being said of a seat's proposal when the deliberation was ended."""
    return [
        _section(f"{row.phase} {row.round}, by {row.label}, unfinished ({row.error_type})", printable(row.text))
        for row in utterances
        if row.about_agent_id == seat.agent_id and row.error_type in UNFINISHED and row.text
    ]


def _section(title: str, text: str) -> RenderableType:
    return Padding(Group(Text(title, style="bold"), Text(text)), (1, 0, 0, 0))


class ProgressLine:
    """Live progress on a terminal. Elsewhere a plain line every `every_seconds`."""

    def __init__(self, console: Console, every_seconds: float = 5.0) -> None:
        self.console = console
        self.every_seconds = every_seconds
        self.spinner = Spinner("dots", "starting")
        # Not console.status: it takes over sys.stderr and would print the logs that go to a file.
        self.live = Live(self.spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self.last = ("", 0.0)

    def __enter__(self) -> ProgressLine:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def __call__(self, text: str, phase: str) -> None:
        """Show `text`. A new `phase` shows at once."""
        if self.console.is_terminal:
            self.spinner.update(text=Text(text))
            return
        last_phase, last_time = self.last
        if phase != last_phase or time.monotonic() - last_time >= self.every_seconds:
            self.last = (phase, time.monotonic())
            self.console.print(text, markup=False, highlight=False)
