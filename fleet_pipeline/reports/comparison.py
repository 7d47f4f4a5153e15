"""Two runs over the same tasks, side by side, as one HTML file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, NamedTuple

import pandas as pd

from fleet_pipeline.deliberation.rows import OutcomeRow
from fleet_pipeline.reports.diffs import Piece, word_diff
from fleet_pipeline.reports.html import template

# Below this share of words that stayed, two texts are two texts, and no change of one.
_ALIKE = 0.4


@dataclass(frozen=True)
class Side:
    """One run: its name, its rows of the table `deliberations`, and how one of them is read whole."""

    name: str
    rows: pd.DataFrame
    read: Callable[[str], OutcomeRow]


class _Pair(NamedTuple):
    """One deliberation in both runs."""

    key: str
    first: OutcomeRow
    second: OutcomeRow
    difference: float | None  # of the winners' scores, the second less the first
    pieces: list[Piece] | None  # what the second winner's text changed, where they are alike


def write_comparison(
    out: IO[str], first: Side, second: Side, title: str | None = None, made_at: datetime | None = None
) -> int:
    """Write the page; returns the number of deliberations that both have. Those of one side alone are named."""
    keys = [key for key in first.rows["deliberation_id"] if key in set(second.rows["deliberation_id"])]
    of_first, of_second = (set(side.rows["deliberation_id"]) for side in (first, second))
    pieces = template("comparison.html.jinja").generate(
        title=title or f"{first.name} and {second.name}",
        sides=(first.name, second.name),
        made_at=made_at or datetime.now(UTC),
        headline=_headline(first.rows, second.rows, keys),
        alone=[(first.name, sorted(of_first - of_second)), (second.name, sorted(of_second - of_first))],
        pairs=_pairs(keys, first, second),
    )
    out.writelines(pieces)
    return len(keys)


def _pairs(keys: Sequence[str], first: Side, second: Side) -> Iterator[_Pair]:
    for key in keys:
        one, other = first.read(key), second.read(key)
        scored = one.winner_score is not None and other.winner_score is not None
        pieces = word_diff(one.winner_text or "", other.winner_text or "")
        yield _Pair(
            key,
            one,
            other,
            other.winner_score - one.winner_score if scored else None,  # type: ignore[operator]
            pieces if pieces and _share_that_stayed(pieces) >= _ALIKE else None,
        )


def _share_that_stayed(pieces: Sequence[Piece]) -> float:
    words = {kind: sum(len(one.text.split()) for one in pieces if one.kind == kind) for kind in ("same", "gone", "new")}
    return words["same"] / max(words["same"] + max(words["gone"], words["new"]), 1)


def _headline(first: pd.DataFrame, second: pd.DataFrame, keys: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """(figure, of the first, of the second, difference) over the deliberations that both have."""
    one, other = (rows.set_index("deliberation_id").loc[list(keys)] for rows in (first, second))
    change = (other["winner_score"].astype(float) - one["winner_score"].astype(float)).dropna()
    lines = [("deliberations in both", str(len(keys)), str(len(keys)), "")]
    for name, figures, digits in (
        ("completed", [(side["status"] == "completed").sum() for side in (one, other)], 0),
        ("winner's score, mean", [side["winner_score"].astype(float).mean() for side in (one, other)], 3),
        ("relevance, mean", [side["mean_relevance"].astype(float).mean() for side in (one, other)], 3),
        ("diversity (Vendi), mean", [side["vendi"].astype(float).mean() for side in (one, other)], 2),
        ("tokens generated", [side["completion_tokens"].sum() for side in (one, other)], 0),
    ):
        a, b = (float(figure) for figure in figures)
        shown = ["-" if pd.isna(value) else f"{value:,.{digits}f}" for value in (a, b)]
        lines.append((name, *shown, "" if pd.isna(b - a) else f"{b - a:+,.{digits}f}"))  # type: ignore[arg-type]
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    lines.append(("the better winner by score", str(worse), str(better), f"{len(change) - better - worse} equal"))
    return lines
