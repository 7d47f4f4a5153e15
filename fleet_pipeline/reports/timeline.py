"""A picture of what the agents of a council did with tools, and when: a lane for each agent, a bar for each call.

SVG, written by hand as in `fleet_pipeline.reports.pictures`. It holds no text of a model: names of tools are ours or the settings',
and are escaped all the same.
"""

from collections.abc import Iterator, Sequence
from html import escape

from fleet_pipeline.common.text import printable
from fleet_pipeline.deliberation.action_rows import OperationRow

MOST_AGENTS = 16
MOST_BARS = 400  # of one picture
BAR_BYTES = 150  # about
_WIDTH, _NAMES, _LANE, _TOP, _RIGHT = 720, 130, 24, 26, 14  # pixels
_TICKS = 5
_NARROWEST = 2.0  # a call of a millisecond must be seen
_CHARACTER = 5.6  # about, at 9 px
_OK, _NOT_OK = "#1d6b41", "#ad1f2c"


def timeline(operations: Sequence[OperationRow], most_bars: int = MOST_BARS) -> str:
    """An SVG of the calls that were made, or "" without any."""
    made = [row for row in operations if row.started_at is not None]
    if not made:
        return ""
    agents = list(dict.fromkeys(row.agent_id for row in made))[:MOST_AGENTS]
    began = min(row.started_at.timestamp() for row in made if row.started_at)
    ended = max(row.started_at.timestamp() + row.seconds for row in made if row.started_at)
    length = max(ended - began, 0.001)
    bottom = _TOP + _LANE * len(agents)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 34}" width="{_WIDTH}" '
        f'height="{bottom + 34}" font-family="sans-serif" font-size="11" role="img" '
        f'aria-label="{len(made)} calls of {len(agents)} agents in {length:.1f} seconds">'
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{_NAMES}" y="16">calls of tools: <tspan fill="{_OK}">succeeded</tspan>, '
        f'<tspan fill="{_NOT_OK}">did not</tspan>; in between its model speaks, or it waits</text>'
    ]
    parts += _axis(length, bottom)
    for lane, agent in enumerate(agents):
        y = _TOP + lane * _LANE
        parts.append(f'<text x="6" y="{y + 16}">{escape(printable(agent)[:20])}</text>')
        parts.append(f'<path d="M{_NAMES} {y + _LANE}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
    scale = (_WIDTH - _NAMES - _RIGHT) / length
    for row in [row for row in made if row.agent_id in agents][:most_bars]:
        parts.append(_bar(row, began, scale, _TOP + agents.index(row.agent_id) * _LANE))
    return "".join([*parts, "</svg>"])


def _axis(length: float, bottom: float) -> Iterator[str]:
    for tick in range(_TICKS + 1):
        x = _NAMES + tick / _TICKS * (_WIDTH - _NAMES - _RIGHT)
        anchor = "end" if tick == _TICKS else "middle"
        yield f'<path d="M{x:.0f} {_TOP}V{bottom}" stroke="#eee"/>'
        yield f'<text x="{x:.0f}" y="{bottom + 14}" font-size="9" text-anchor="{anchor}">{tick / _TICKS * length:.3g}</text>'
    yield f'<text x="{(_WIDTH + _NAMES) / 2:.0f}" y="{bottom + 28}" font-size="9" text-anchor="middle">seconds since the first call</text>'


def _bar(row: OperationRow, began: float, scale: float, top: float) -> str:
    assert row.started_at is not None
    x, width = _NAMES + (row.started_at.timestamp() - began) * scale, max(row.seconds * scale, _NARROWEST)
    tool = printable(row.tool or "")
    title = f"{row.phase} {row.step}: {tool}, {row.outcome}, {row.seconds:.2f} s"
    bar = (
        f'<rect x="{x:.1f}" y="{top + 5:.0f}" width="{width:.1f}" height="{_LANE - 9}" rx="1.5" '
        f'fill="{_OK if row.ok else _NOT_OK}"><title>{escape(title)}</title></rect>'
    )
    if len(tool) * _CHARACTER + 6 < width:
        bar += f'<text x="{x + 3:.1f}" y="{top + 16:.0f}" font-size="9" fill="#fff">{escape(tool)}</text>'
    return bar
