"""Pictures of one council, small enough to go into the event log for every deliberation.

SVG, written by hand: 0.1 ms and 3 kB for a council of three. Drawing the same with matplotlib took 15 ms of the 182 that a
deliberation cost beside the engine.
"""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

_MOST_ANNOTATED = 8  # seats; a larger council's cells show no similarity as text
_MOST_MAPPED = 16  # seats; of a larger council only the plot is drawn, because every cell is 60 bytes
_WIDTH, _HEIGHT = 576, 256
_TOP, _SIDE = 30, 190  # of both panels, in pixels
_MAP, _PLOT = 30, 270  # left edges
_PLOT_WIDTH = 290
# White to dark blue, as in most heat maps: the colours at 0, 0.5 and 1.
_COLOURS = np.array([(247, 251, 255), (107, 174, 214), (8, 48, 107)], dtype=float)


def council_picture(
    labels: Sequence[str],
    similarity: npt.NDArray[np.float64],
    relevance: Sequence[float | None],
    novelty: Sequence[float | None],
    initial_novelty: Sequence[float | None],
    winner: int | None,
) -> str:
    """An SVG: the (n, n) similarities of n final proposals, and each proposal's novelty against its relevance.

    A line starts at the proposal's novelty before revision. `winner` is an index. All values are in [0, 1].
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        'font-size="11" text-anchor="middle"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    if len(labels) <= _MOST_MAPPED:
        parts += _heat_map(labels, similarity)
    parts += _plot(labels, relevance, novelty, initial_novelty, winner)
    return "".join([*parts, "</svg>"])


def _heat_map(labels: Sequence[str], similarity: npt.NDArray[np.float64]) -> Iterator[str]:
    side = _SIDE / len(labels)
    middle = [(place + 0.5) * side for place in range(len(labels))]
    yield f'<text x="{_MAP + _SIDE / 2:.0f}" y="20">similarity of the proposals</text>'
    for row, label in enumerate(labels):
        name = escape(label)
        yield f'<text x="{_MAP - 12}" y="{_TOP + middle[row] + 4:.0f}">{name}</text>'
        yield f'<text x="{_MAP + middle[row]:.0f}" y="{_TOP + _SIDE + 16}">{name}</text>'
        for column in range(len(labels)):
            value = float(similarity[row, column])
            yield (
                f'<rect x="{_MAP + column * side:.1f}" y="{_TOP + row * side:.1f}" width="{side:.1f}" '
                f'height="{side:.1f}" fill="{_colour(value)}"/>'
            )
            if len(labels) <= _MOST_ANNOTATED:
                ink = "#fff" if value > 0.6 else "#000"
                x, y = _MAP + middle[column], _TOP + middle[row] + 4
                yield f'<text x="{x:.0f}" y="{y:.0f}" fill="{ink}">{value:.2f}</text>'


def _plot(
    labels: Sequence[str],
    relevance: Sequence[float | None],
    novelty: Sequence[float | None],
    initial_novelty: Sequence[float | None],
    winner: int | None,
) -> Iterator[str]:
    bottom, right = _TOP + _SIDE, _PLOT + _PLOT_WIDTH
    yield f'<text x="{_PLOT + _PLOT_WIDTH / 2:.0f}" y="20">novelty against relevance</text>'
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _place(tick, tick)
        yield f'<path d="M{x:.0f} {_TOP}V{bottom}M{_PLOT} {y:.0f}H{right}" stroke="#ddd"/>'
        yield f'<text x="{x:.0f}" y="{bottom + 14}" font-size="9">{tick:g}</text>'
        yield f'<text x="{_PLOT - 12}" y="{y + 3:.0f}" font-size="9">{tick:g}</text>'
    yield f'<text x="{_PLOT + _PLOT_WIDTH / 2:.0f}" y="{bottom + 30}">relevance</text>'
    yield (
        f'<text transform="translate({_PLOT - 28} {_TOP + _SIDE / 2:.0f}) rotate(-90)" font-size="10">'
        "novelty (distance to the nearest peer)</text>"
    )
    for place, (of_task, of_peers, before) in enumerate(zip(relevance, novelty, initial_novelty, strict=True)):
        if of_task is None or of_peers is None:
            continue
        x, y = _place(of_task, of_peers)
        if before is not None:
            yield f'<path d="M{x:.1f} {_place(of_task, before)[1]:.1f}V{y:.1f}" stroke="#999"/>'
        weight = ' font-weight="bold"' if place == winner else ""
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1f77b4"/>'
        yield f'<text x="{x + 10:.1f}" y="{y - 5:.1f}"{weight}>{escape(labels[place])}</text>'


def _place(relevance: float, novelty: float) -> tuple[float, float]:
    """Pixels. The outermost values keep a distance from the panel's edges, so that their points are whole."""
    margin = 12
    return (
        _PLOT + margin + relevance * (_PLOT_WIDTH - 2 * margin),
        _TOP + _SIDE - margin - novelty * (_SIDE - 2 * margin),
    )


def _colour(value: float) -> str:
    place = min(max(value, 0.0), 1.0) * (len(_COLOURS) - 1)
    low = min(int(place), len(_COLOURS) - 2)
    mixed = _COLOURS[low] + (place - low) * (_COLOURS[low + 1] - _COLOURS[low])
    return "#" + "".join(f"{round(part):02x}" for part in mixed)
