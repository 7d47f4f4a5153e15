"""A council's texts as Markdown, for dialogs of the Dagster UI. Model texts are fenced, so none becomes markup."""

import textwrap
from collections.abc import Sequence

from fleet_pipeline.common.text import bounded, fenced
from fleet_pipeline.deliberation.action_rows import ArtifactRow
from fleet_pipeline.deliberation.rows import ProposalRow, UtteranceRow
from fleet_pipeline.reports.diffs import revisions
from fleet_pipeline.reports.markdown import diff
from fleet_pipeline.reports.marks import SHORTENED, particulars, verdict

MOST_TEXT = 20_000  # characters of one text
WIDTH = 110  # characters per line
MOST_TOGETHER = 200_000  # characters of all texts: a council of 64 over 8 rounds writes a thousand texts


def discussion(seats: Sequence[ProposalRow], utterances: Sequence[UtteranceRow]) -> str:
    """Every proposal, its critiques and its revisions, seat by seat in the order given."""
    shown = [utterance for utterance in utterances if utterance.text or utterance.error_type]
    limit = _text_limit(len(shown))
    parts = []
    for seat in seats:
        about_seat = [utterance for utterance in shown if utterance.about_agent_id == seat.agent_id]
        standing = f"rank {seat.rank}" if seat.rank is not None else "no proposal"
        parts.append(f"## {seat.agent_id} ({seat.label}), {standing}")
        parts += [f"### {_heading(utterance)}\n\n{_body(utterance, limit)}" for utterance in about_seat]
    return "\n\n".join(parts)


def revised(seats: Sequence[ProposalRow], utterances: Sequence[UtteranceRow]) -> str:
    """What each revision changed: words that went are struck out, words that came are bold. "" without revisions."""
    parts = []
    for seat in seats:
        about = [row for row in utterances if row.about_agent_id == seat.agent_id]
        for index, revision in revisions(about).items():
            head = f"## {seat.agent_id} ({seat.label}), round {about[index].round}: {revision.words}"
            parts.append(f"{head}\n\n{diff(revision.pieces or ())}")
    told = "\n\n".join(parts)
    return told if len(told) <= MOST_TOGETHER else ""


def reasoning(utterances: Sequence[UtteranceRow]) -> str:
    """The models' reasoning before their answers, or "". Peers never see it, and it is never scored."""
    rows = [utterance for utterance in utterances if utterance.reasoning]
    limit = _text_limit(len(rows))
    return "\n\n".join(f"### {row.agent_id}, {_heading(row)}\n\n{_block(row.reasoning, limit)}" for row in rows)


def changes(artifacts: Sequence[ArtifactRow]) -> str:
    """The last change of each agent that made one, with what tests say of it."""
    last = [row for row in {row.agent_id: row for row in artifacts}.values() if row.tested is not None]
    limit = _text_limit(len(last))
    parts = []
    for row in last:
        names = "\n".join(f"{title}: {', '.join(found)}" for title, found in particulars(row).items())
        parts.append(
            f"## {row.agent_id}\n\n{_block(verdict(row), limit)}\n\n{_block(names, limit)}\n\n{_block(row.diff, limit)}"
        )
    return "\n\n".join(parts)


def _block(text: str, limit: int) -> str:
    """A fenced block with long lines folded, because Dagster's dialog cuts them off."""
    lines = bounded(text, limit).splitlines()
    folded = [
        part
        for line in lines
        for part in (
            textwrap.wrap(line, WIDTH, drop_whitespace=False, expand_tabs=False, replace_whitespace=False) or [""]
        )
    ]
    return fenced("\n".join(folded))


def _text_limit(text_count: int) -> int:
    return min(MOST_TEXT, MOST_TOGETHER // max(text_count, 1))


def _heading(utterance: UtteranceRow) -> str:
    names = {"propose": "Opening proposal", "revise": f"Revision {utterance.round}"}
    critic = "itself" if utterance.self_critique else f"{utterance.agent_id} ({utterance.label})"
    name = names.get(utterance.phase, f"Critique in round {utterance.round}, by {critic}")
    return f"{name} (attempt {utterance.attempt})" if utterance.attempt > 1 else name


def _body(utterance: UtteranceRow, limit: int) -> str:
    error = (
        f"Does not count: {utterance.error_type}\n\n{_block(utterance.error_message or '', limit)}"
        if utterance.error_type
        else ""
    )
    shortened = f"Not whole: {SHORTENED[utterance.shortened]}." if utterance.shortened else ""
    text = _block(utterance.text, limit) if utterance.text else ""
    return "\n\n".join(part for part in (error, shortened, text) if part)
