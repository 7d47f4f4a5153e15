"""The plots of a report, as SVG that stands in the page: it takes the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

# Stands for the page's own text colour, which matplotlib cannot name.
_TEXT = "#010203"
_BLUE, _ORANGE, _GREEN, _RED = "#4c8bf5", "#e08a1e", "#3aa76d", "#d64550"
_STATUS = {"completed": _GREEN, "failed": _RED, "timeout": _ORANGE}
MOST_POINTS = 3_000  # beyond, points are counted in hexagons: an SVG with a mark for each grows as the run does


def diversity_against_relevance(rows: pd.DataFrame) -> str:
    """One mark per council: Vendi score per proposal against mean relevance."""
    found = rows.dropna(subset=["vendi", "mean_relevance", "answered"])
    share = found["vendi"] / found["answered"]

    def draw(axes: Any) -> None:
        if len(found) > MOST_POINTS:
            axes.hexbin(found["mean_relevance"], share, gridsize=40, extent=(0, 1, 0, 1), cmap="Blues", mincnt=1)
        else:
            axes.scatter(found["mean_relevance"], share, s=14, alpha=0.6, color=_BLUE, edgecolors="none")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="mean relevance", ylabel="Vendi score / proposals")

    return _svg(draw, f"Diversity against relevance of {len(found)} councils")


def before_and_after(rows: pd.DataFrame) -> str:
    """One mark per council: its Vendi score after revision against that before. Below the line it has conformed."""
    found = rows.dropna(subset=["vendi", "initial_vendi"])

    def draw(axes: Any) -> None:
        top = max([1.0, *found["vendi"], *found["initial_vendi"]]) * 1.05
        axes.plot([1, top], [1, top], color=_TEXT, linewidth=0.8, linestyle="--", alpha=0.6)
        if len(found) > MOST_POINTS:
            axes.hexbin(found["initial_vendi"], found["vendi"], gridsize=40, cmap="Blues", mincnt=1)
        else:
            axes.scatter(found["initial_vendi"], found["vendi"], s=14, alpha=0.6, color=_ORANGE, edgecolors="none")
        axes.set(xlabel="Vendi score before revision", ylabel="after")

    return _svg(draw, f"Diversity before and after revision of {len(found)} councils")


def distribution(values: pd.Series[float], label: str, unit_range: bool = True) -> str:
    """A histogram."""
    present = values.dropna()

    def draw(axes: Any) -> None:
        axes.hist(present, bins=20, range=(0, 1) if unit_range else None, color=_BLUE)
        axes.set(xlabel=label, ylabel="deliberations")

    return _svg(draw, f"Distribution of {label} over {len(present)} deliberations", height=2.4)


def bars(labels: Sequence[str], values: Sequence[float], of: str, title: str) -> str:
    """Horizontal bars of shares in [0, 1]."""

    def draw(axes: Any) -> None:
        places = range(len(labels))
        axes.barh(places, values, color=_GREEN)
        axes.set_yticks(places, labels)
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
    return re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-label="{title}">', svg, count=1)
