"""What a council said, as Markdown that people unfold in the Dagster UI. Texts of models stand in it as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fleet_pipeline.common.text import bounded, fenced

Row = Mapping[str, Any]

MOST_TEXT = 20_000  # characters of one text
WIDTH = 110  # characters of a line
MOST_TOGETHER = 200_000  # of all of them: a council of 64 over 8 rounds says a thousand


def discussion(seats: Sequence[Row], utterances: Sequence[Row]) -> str:
    """Every proposal, its critiques and its revisions, seat by seat in the order given."""
    said = [one for one in utterances if one["text"] or one["error_type"]]
    most = _share(len(said))
    parts = []
    for seat in seats:
        about = [one for one in said if one["about_agent_id"] == seat["agent_id"]]
        place = f"rank {seat['rank']}" if seat["rank"] is not None else "no proposal"
        parts.append(f"## Proposal {seat['label']}: {seat['agent_id']}, {'the winner' if seat['winner'] else place}")
        parts += [f"### {_heading(one)}\n\n{_body(one, most)}" for one in about]
    return "\n\n".join(parts)


def reasoning(utterances: Sequence[Row]) -> str:
    """What was thought aloud before answers; empty where nothing was. It is never shown to peers nor scored."""
    thought = [one for one in utterances if one["reasoning"]]
    most = _share(len(thought))
    return "\n\n".join(f"### {one['agent_id']}, {_heading(one)}\n\n{_shown(one['reasoning'], most)}" for one in thought)


def _shown(text: str, most: int) -> str:
    """A block of it: Dagster's dialog cuts long lines off, so they are folded."""
    lines = bounded(text, most).splitlines()
    folded = [
        part
        for line in lines
        for part in (
            textwrap.wrap(line, WIDTH, drop_whitespace=False, expand_tabs=False, replace_whitespace=False) or [""]
        )
    ]
    return fenced("\n".join(folded))


def _share(texts: int) -> int:
    return min(MOST_TEXT, MOST_TOGETHER // max(texts, 1))


def _heading(one: Row) -> str:
    names = {"propose": "Opening proposal", "revise": f"Revision {one['round']}"}
    who = "its own author" if one["self_critique"] else f"proposal {one['label']}'s author"
    name = names.get(one["phase"], f"Critique in round {one['round']}, by {who}")
    return f"{name} (attempt {one['attempt']})" if one["attempt"] > 1 else name


def _body(one: Row, most: int) -> str:
    wrong = (
        f"Does not count: {one['error_type']}\n\n{_shown(one['error_message'] or '', most)}"
        if one["error_type"]
        else ""
    )
    text = _shown(one["text"], most) if one["text"] else ""
    return "\n\n".join(part for part in (wrong, text) if part)
