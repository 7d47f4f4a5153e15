"""The plots of a report, as inline SVG that takes the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

# Placeholder for `currentColor`, the page's text colour, which matplotlib cannot name.
_TEXT = "#010203"
_BLUE, _ORANGE, _GREEN = "#4c8bf5", "#e08a1e", "#3aa76d"
NAMED = 3  # marks with their names beside them: more would lie over one another
MOST_NAME = 24  # characters
MOST_POINTS = 3_000  # with more, hexagons count them: an SVG with a mark each grows with the run


def diversity_against_relevance(rows: pd.DataFrame) -> str:
    """One mark per council: Vendi score per proposal against mean relevance."""
    scored = rows.dropna(subset=["vendi", "mean_relevance", "answered"])
    share = scored["vendi"] / scored["answered"]

    def draw(axes: Any) -> None:
        if len(scored) > MOST_POINTS:
            axes.hexbin(scored["mean_relevance"], share, gridsize=40, extent=(0, 1, 0, 1), cmap="Blues", mincnt=1)
        else:
            _points(axes, scored["deliberation_id"], scored["mean_relevance"], share, _BLUE)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="mean relevance", ylabel="Vendi score / proposals")

    return _svg(draw, f"Diversity against relevance of {len(scored)} councils")


def before_and_after(rows: pd.DataFrame) -> str:
    """One mark per council: Vendi score after revision against the score before. Below the line it has conformed."""
    scored = rows.dropna(subset=["vendi", "initial_vendi"])

    def draw(axes: Any) -> None:
        top = max([1.0, *scored["vendi"], *scored["initial_vendi"]]) * 1.05
        axes.plot([1, top], [1, top], color=_TEXT, linewidth=0.8, linestyle="--", alpha=0.6)
        if len(scored) > MOST_POINTS:
            axes.hexbin(scored["initial_vendi"], scored["vendi"], gridsize=40, cmap="Blues", mincnt=1)
        else:
            _points(axes, scored["deliberation_id"], scored["initial_vendi"], scored["vendi"], _ORANGE)
        axes.set(xlabel="Vendi score before revision", ylabel="after")

    return _svg(draw, f"Diversity before and after revision of {len(scored)} councils")


def _points(axes: Any, keys: pd.Series[str], x: pd.Series[float], y: pd.Series[float], color: str) -> None:
    """A mark for each deliberation, which leads to it. Those that lie farthest out are named."""
    axes.scatter(x, y, s=18, alpha=0.6, color=color, edgecolors="none", urls=[f"#{key}" for key in keys])
    x, y = x.astype(float), y.astype(float)
    far = ((x - x.median()).abs() / (x.std() or 1) + (y - y.median()).abs() / (y.std() or 1)).nlargest(NAMED)
    for index in far.index:
        name = keys[index] if len(keys[index]) <= MOST_NAME else f"{keys[index][:MOST_NAME]}..."
        left = x[index] > x.mean()
        axes.annotate(
            name, (x[index], y[index]), (-5 if left else 5, 0), textcoords="offset points", va="center",
            ha="right" if left else "left", fontsize=8, alpha=0.8,
        )  # fmt: skip


def distribution(values: pd.Series[float], label: str, unit_range: bool = True) -> str:
    """A histogram; with `unit_range` over [0, 1]."""
    present = values.dropna()

    def draw(axes: Any) -> None:
        axes.hist(present, bins=20, range=(0, 1) if unit_range else None, color=_BLUE)
        axes.set(xlabel=label, ylabel="deliberations")

    return _svg(draw, f"Distribution of {label} over {len(present)} deliberations", height=2.4)


def bars(labels: Sequence[str], values: Sequence[float], of: str, title: str) -> str:
    """Horizontal bars of shares in [0, 1]."""

    def draw(axes: Any) -> None:
        positions = range(len(labels))
        axes.barh(positions, values, color=_GREEN)
        axes.set_yticks(positions, labels)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel=of)
        axes.grid(visible=False, axis="y")

    return _svg(draw, title, height=max(1.6, 0.32 * len(labels) + 0.9))


def _svg(draw: Callable[[Any], None], title: str, height: float = 3.4) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": title, "text.color": _TEXT, "axes.labelcolor": _TEXT,
        "axes.edgecolor": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.color": _TEXT, "font.size": 10,
        "axes.axisbelow": True,
        "text.parse_math": False,  # a perspective may hold a dollar sign
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A key has no character that means anything here: `fleet_pipeline.deliberation.task.checked_id`.
    svg, links = re.subn(
        r'<a xlink:href="#([^"]*)"[^>]*>', r'<a href="#\1" aria-label="\1" tabindex="-1"><title>\1</title>', svg
    )
    role = "group" if links else "img"  # a picture has no links
    head = rf'<svg \1 role="{role}" aria-label="{title}">'
    return re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", head, svg, count=1)
