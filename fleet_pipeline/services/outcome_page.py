"""The metadata of an outcome: the page of a deliberation in the UI.

Texts of models and of backlogs are shown as plain text and cut to a limit, because the page loads every event. The
full texts are in the Parquet files. The metadata holds their path.
"""

import base64
from collections.abc import Mapping, Sequence

import dagster as dg

from fleet_pipeline.common.text import bounded, fenced, printable
from fleet_pipeline.deliberation.action_rows import Actions, OperationRow
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.rows import OutcomeRow, ProposalRow, UtteranceRow
from fleet_pipeline.deliberation.task import Task, is_deliberation_id
from fleet_pipeline.instance.metadata_keys import STORAGE
from fleet_pipeline.instance.names import DELIBERATIONS
from fleet_pipeline.reports.discussion import MOST_TEXT, changes, discussion, reasoning, revised
from fleet_pipeline.reports.markdown import inert, plain
from fleet_pipeline.reports.marks import SHORTENED, shortfall, unclear
from fleet_pipeline.reports.pictures import council_picture
from fleet_pipeline.reports.remedies import remedy
from fleet_pipeline.reports.timeline import timeline
from fleet_pipeline.scoring.similarity import similarities
from fleet_pipeline.services.outcomes import Outcome
from fleet_pipeline.settings import LinkSettings
from fleet_pipeline.storage.schemas import PROPOSALS, UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import table_path

_NO_LINKS = LinkSettings()
MOST_CELL = 60  # characters: a wider table is cut off
MOST_NAMED = 500  # deliberations
_MOST_REASON = 1_000  # characters
_WHICH = dg.TableSchema([dg.TableColumn("deliberation", "string"), dg.TableColumn("why", "string")])
MOST_CALLS = 100  # in the table of a page; the Parquet file has all
# People plot them over partitions, so each is a number of its own, and its label says what it counts.
_FIGURES_OF_COUNCIL = {
    "vendi": "diversity: different proposals in effect (Vendi, 1 to all)",
    "mean_distance": "diversity: mean distance of proposals (0 to 1)",
    "mean_relevance": "mean relevance to the task (0 to 1)",
    "wall_s": "duration (s)",
}
_TOKENS = {
    "completion_tokens": "tokens generated",
    "prompt_tokens": "tokens of prompts",
    "cached_tokens": "tokens of prompts, from the prefix cache",
}
_PHASES = (Phase.PROPOSE, Phase.CRITIQUE, Phase.REVISE)


def metadata(
    store: Store, outcome: Outcome, texts: bool, links: LinkSettings = _NO_LINKS
) -> dict[str, dg.MetadataValue]:
    """An outcome's metadata entries, the most wanted first. Without `texts`, texts are in the Parquet files alone."""
    row, seats, utterances = outcome.row, outcome.seats, outcome.utterances
    values: dict[str, dg.MetadataValue] = {"status": dg.MetadataValue.text(str(row.status))}
    ranked = sorted(seats, key=lambda seat: seat.place)
    if row.error_message:
        values["error"] = _text(row.error_message)
    if to_do := remedy(row, [one.error_type for one in utterances]):
        values["what to do"] = _text(to_do)
    if short := shortfall(row):
        values["not all rounds"] = dg.MetadataValue.text(short)
    if outcome.failed_checks:
        values["look at this first"] = _text("\n".join(f"{name}: {why}" for name, why in outcome.failed_checks.items()))
    if texts and row.description:
        values["task"] = _text(row.description)
    if texts and outcome.task is not None:
        values |= _asked(outcome.task)
    if row.winner_text:
        sure = "" if row.confidence is None else f", confidence {row.confidence:.2f}"
        values["winner"] = _text(unclear(row) or f"{row.winner_agent_id} (score {row.winner_score:.3f}{sure})")
        if texts:
            shortened = next((seat.shortened for seat in seats if seat.winner), None)
            mark = f"\n\nNot whole: {SHORTENED[shortened]}." if shortened else ""
            values["winner's proposal"] = dg.MetadataValue.md(inert(row.winner_text, MOST_TEXT) + mark)
    if outcome.why:
        values["why it won" if row.clear_winner is not False else "why it is first"] = dg.MetadataValue.md(
            fenced(bounded("\n".join(outcome.why), MOST_TEXT))
        )
    if ranked:
        values["proposals"] = _seat_table(ranked)
        values["seats"] = _model_table(ranked, utterances)
    if picture := _picture(seats):
        values["picture"] = dg.MetadataValue.md(picture)
    if outcome.actions is not None:
        values |= _actions(outcome.actions, texts)
    if texts and ranked and (changed := revised(ranked, utterances)):
        values["what revision changed"] = dg.MetadataValue.md(changed)
    if texts and ranked:
        values["everything said"] = dg.MetadataValue.md(discussion(ranked, utterances))
        if reasoning_text := reasoning(utterances):
            values["reasoning"] = dg.MetadataValue.md(reasoning_text)
    for name, label in _FIGURES_OF_COUNCIL.items():
        if (figure := getattr(row, name)) is not None:
            values[label] = dg.MetadataValue.float(round(figure, 3))
    for name, label in _TOKENS.items():
        values[label] = dg.MetadataValue.int(getattr(row, name))
    if row.wall_s:
        values["tokens generated a second"] = dg.MetadataValue.float(round(row.completion_tokens / row.wall_s, 1))
    if len(utterances):
        values["phases"] = dg.MetadataValue.table(_phase_records(utterances), schema=_PHASE_SCHEMA)
    # Readers of the event log use it to find the rows.
    values[STORAGE] = dg.MetadataValue.text(store.url)
    values["parquet"] = _file(store, table_path(PROPOSALS, row.deliberation_id), links)
    if links.docs:
        values["what the figures mean"] = dg.MetadataValue.url(f"{links.docs}/scores.md")
    return values


def _file(store: Store, path: str, links: LinkSettings) -> dg.MetadataValue:
    """`path` within the storage. Ids of deliberations, of which paths are made, need no escape in a URL."""
    if links.storage:
        return dg.MetadataValue.url(f"{links.storage}/{path}")
    return dg.MetadataValue.path(store.full_path(path))


def in_short(store: Store, row: OutcomeRow, links: LinkSettings) -> dict[str, dg.MetadataValue]:
    """What has come of a deliberation, for the partition of its transcript: its own page tells the rest."""
    values: dict[str, dg.MetadataValue] = {"status": dg.MetadataValue.text(str(row.status))}
    if row.error_message:
        values["error"] = _text(row.error_message)
    if to_do := remedy(row, []):
        values["what to do"] = _text(to_do)
    values["its page"] = dg.MetadataValue.md(page_link(row.deliberation_id))
    if row.winner_agent_id:
        values["winner"] = _text(unclear(row) or row.winner_agent_id)
    values["tokens generated"] = dg.MetadataValue.int(row.completion_tokens)
    values["parquet"] = _file(store, table_path(UTTERANCES, row.deliberation_id), links)
    return values


def page_link(key: str) -> str:
    """A link in Markdown. `key` is a deliberation's id."""
    return f"[{key}](/assets/{DELIBERATIONS}?view=partitions&partition={key})"


def named_with_pages(found: Mapping[str, str]) -> dict[str, dg.MetadataValue]:
    """Deliberations by id, each with why it is named: a table, and links to their pages. Empty where there are none."""
    named = list(found.items())[:MOST_NAMED]
    if not named:
        return {}
    records = [dg.TableRecord({"deliberation": key, "why": printable(why[:_MOST_REASON])}) for key, why in named]
    # Anybody can type a key in the UI: one that is no deliberation's must not become Markdown.
    ids = [key for key, _ in named if is_deliberation_id(key)]
    return {
        "their pages": dg.MetadataValue.md("\n".join(f"- {page_link(key)}" for key in ids)),
        "which": dg.MetadataValue.table(records, schema=_WHICH),
    }


def _text(text: str) -> dg.MetadataValue:
    return dg.MetadataValue.text(printable(bounded(text, MOST_TEXT)))


def _asked(task: Task) -> dict[str, dg.MetadataValue]:
    """What decides the score beside the task's text."""
    asked = {"requirements": task.constraints.requirements, "rubric": task.constraints.rubric}
    return {
        name: dg.MetadataValue.md("\n".join(f"{number}. {plain(point)}" for number, point in enumerate(points, 1)))
        for name, points in asked.items()
        if points
    }


def _model_table(ranked: list[ProposalRow], utterances: Sequence[UtteranceRow]) -> dg.MetadataValue:
    """Who spoke for each seat, and how much."""
    columns = [
        dg.TableColumn("agent", "string"),
        dg.TableColumn("model", "string"),
        dg.TableColumn("temperature", "float", "of its first answer"),
        dg.TableColumn("seed", "int", "of its first answer"),
        dg.TableColumn("answers", "int", "attempts that did not count included"),
        dg.TableColumn("tokens generated", "int"),
    ]
    records = []
    for seat in ranked:
        own = [one for one in utterances if one.agent_id == seat.agent_id]
        first = own[0] if own else None
        facts: dict[str, str | int | float | None] = {
            "agent": seat.agent_id,
            "model": printable(seat.model or ""),
            "temperature": first.temperature if first else None,
            "seed": first.seed if first else None,
            "answers": len(own),
            "tokens generated": sum(one.completion_tokens for one in own),
        }
        records.append(dg.TableRecord(facts))
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _picture(seats: list[ProposalRow]) -> str:
    """Empty with fewer than two proposals."""
    present = [seat for seat in seats if seat.text is not None]
    if len(present) < 2:
        return ""
    winner = next((index for index, seat in enumerate(present) if seat.winner), None)
    svg = council_picture(
        [seat.label for seat in present],
        similarities([seat.text or "" for seat in present]),
        relevance=[seat.relevance for seat in present],
        novelty=[seat.novelty for seat in present],
        initial_novelty=[seat.initial_novelty for seat in present],
        winner=winner,
    )
    return _image("similarity, and novelty against relevance", svg)


def _actions(actions: Actions, texts: bool) -> dict[str, dg.MetadataValue]:
    """What agents did with tools: a picture, the calls, and what has become of their workspaces."""
    values: dict[str, dg.MetadataValue] = {}
    if svg := timeline(actions.operations):
        values["timeline"] = dg.MetadataValue.md(_image("calls of tools", svg))
    if texts and (told := changes(actions.artifacts)):
        values["changes"] = dg.MetadataValue.md(told)
    if actions.operations:
        shown = actions.operations[:MOST_CALLS]
        records = [dg.TableRecord(_call(row, texts)) for row in shown]
        more = "" if len(shown) == len(actions.operations) else f", the first {MOST_CALLS} of {len(actions.operations)}"
        values[f"calls{more}"] = dg.MetadataValue.table(records, schema=_call_schema(texts))
    return values


def _call_schema(texts: bool) -> dg.TableSchema:
    columns = [
        dg.TableColumn("agent", "string"),
        dg.TableColumn("phase", "string"),
        dg.TableColumn("step", "int", "the answer of the model that it was in"),
        dg.TableColumn("tool", "string", "none: an answer that was no call"),
        dg.TableColumn("outcome", "string", "ok, failed, refused, broke or unfinished"),
        dg.TableColumn("seconds", "float"),
    ]
    with_texts = [dg.TableColumn("arguments", "string"), dg.TableColumn("why not", "string")]
    return dg.TableSchema([*columns, *(with_texts if texts else [])])


def _call(row: OperationRow, texts: bool) -> dict[str, str | int | float | None]:
    facts: dict[str, str | int | float | None] = {
        "agent": row.agent_id,
        "phase": f"{row.phase} {row.round}" if row.round else str(row.phase),
        "step": row.step,
        "tool": printable(row.tool or "none"),
        "outcome": row.outcome,
        "seconds": round(row.seconds, 3),
    }
    if texts:
        facts |= {
            "arguments": printable((row.arguments or "")[:MOST_CELL]),
            "why not": printable(row.error[:MOST_CELL]),
        }
    return facts


def _image(alternative: str, svg: str) -> str:
    """In Markdown, with its data in its URL: the UI fetches nothing."""
    return f"![{alternative}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


# Columns of the table of seats, in order. The other scores are in the Parquet file: a wider table pushes every text of
# the page out of sight.
_FIGURES = ("score", "relevance", "form", "novelty", "checks", "judge", "preferred")
_PHASE_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("phase", "string"),
        dg.TableColumn("answers", "int", "attempts that did not count included"),
        dg.TableColumn("did not count", "int"),
        dg.TableColumn("not whole", "int", "they count without their end: truncated or looped"),
        dg.TableColumn("prompt tokens", "int"),
        dg.TableColumn("from the prefix cache", "float", "share of the prompt tokens"),
        dg.TableColumn("completion tokens", "int"),
    ]
)


def _seat_table(ranked: list[ProposalRow]) -> dg.MetadataValue:
    figures = [name for name in _FIGURES if any(getattr(seat, name) is not None for seat in ranked)]
    failed = any(seat.error_type for seat in ranked)
    shortened = any(seat.shortened for seat in ranked)
    columns = [
        dg.TableColumn("rank", "int", "1 is best; equals share a rank"),
        dg.TableColumn("proposal", "string", "the letter by which peers know it"),
        dg.TableColumn("agent", "string"),
        dg.TableColumn("perspective", "string"),
        *[dg.TableColumn(name, "float", "0 to 1; docs/scores.md says what it means") for name in figures],
        *([dg.TableColumn("not whole", "string", "truncated or looped")] if shortened else []),
        *([dg.TableColumn("error", "string")] if failed else []),
    ]
    records = [
        dg.TableRecord(
            {
                "rank": None if seat.rank is None else int(seat.rank),
                "proposal": seat.label,
                "agent": seat.agent_id,
                "perspective": seat.perspective or "",
                **{name: None if getattr(seat, name) is None else round(getattr(seat, name), 3) for name in figures},
                **({"not whole": seat.shortened or ""} if shortened else {}),
                **({"error": _error(seat)} if failed else {}),
            }
        )
        for seat in ranked
    ]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _error(seat: ProposalRow) -> str:
    return printable(f"{seat.error_type}: {seat.error_message}"[:300]) if seat.error_type else ""


def _phase_records(utterances: Sequence[UtteranceRow]) -> list[dg.TableRecord]:
    records = []
    for phase in _PHASES:
        answers = [utterance for utterance in utterances if utterance.phase is phase]
        if answers:
            prompt, cached = sum(one.prompt_tokens for one in answers), sum(one.cached_tokens for one in answers)
            records.append(
                dg.TableRecord(
                    {
                        "phase": str(phase),
                        "answers": len(answers),
                        "did not count": sum(one.error_type is not None for one in answers),
                        "not whole": sum(one.shortened is not None for one in answers),
                        "prompt tokens": prompt,
                        "from the prefix cache": round(cached / prompt, 3) if prompt else None,
                        "completion tokens": sum(one.completion_tokens for one in answers),
                    }
                )
            )
    return records
