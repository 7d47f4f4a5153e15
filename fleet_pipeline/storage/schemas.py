"""The tables, declared once: columns, types, and the meaning of each column.

The tables are tall, with one row per thing. pandas, DuckDB and Polars read a folder of files as one table.
All files of a table have the same columns in the same order, null columns included: a folder never mixes types.
A change of a table's columns raises its number in `SCHEMA_VERSIONS`. Every file carries that number: files with
an older one are made again, and the other tables stay.
"""

from typing import Literal

import pyarrow as pa

_TYPES = {
    "text": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "evidence": pa.list_(
        pa.struct(
            {
                "point": pa.string(),
                "kind": pa.string(),
                "share": pa.float64(),
                "covered": pa.bool_(),
                "text": pa.string(),
            }
        )
    ),
    "findings": pa.list_(
        pa.struct({"check": pa.string(), "passed": pa.bool_(), "line": pa.int64(), "message": pa.string()})
    ),
}


def _schema(columns: dict[str, tuple[str, str]]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(name, _TYPES[kind], metadata={"description": description})
            for name, (kind, description) in columns.items()
        ]
    )


_KEYS = {
    "deliberation_id": ("text", "`<task_id>.<role in lower case>`: partition key and file name."),
    "task_id": ("text", "The task, as in the backlog."),
    "role": ("text", "The council's role."),
}
_SEAT = {
    "agent_id": ("text", "The seat: `agent-<role>-<number from 001>`."),
    "label": ("text", "The letter by which peers know the seat."),
    "perspective": ("text", "The seat's perspective; null when diversity is off."),
}
_REQUEST = {
    "finish_reason": ("text", "As vLLM says: stop, length, ..."),
    "prompt_tokens": ("int", "Tokens of the prompt."),
    "cached_tokens": ("int", "Prompt tokens that came from the prefix cache."),
    "completion_tokens": ("int", "Tokens generated, reasoning included."),
    "temperature": ("float", "Sampling temperature used."),
    "seed": ("int", "Sampling seed used."),
    "prompt_sha256": ("text", "Hash of the messages sent."),
    "started_at": ("time", "When the request entered the engine."),
    "finished_at": ("time", "When its answer was complete."),
}
_PROVENANCE = {
    "model": ("text", "Model that spoke, as configured."),
    "engine": ("text", 'Its kind, such as vllm. It begins with "synthetic: " where a test made the row.'),
    "run_id": ("text", "Dagster run that wrote the row."),
    "fingerprint": ("text", "Hash over all that decides what is said; see `fleet_pipeline.deliberation.council`."),
}

UTTERANCES = _schema(
    {
        **_KEYS,
        **_SEAT,
        "phase": ("text", "propose, critique or revise."),
        "round": ("int", "0 for the opening proposals, then from 1."),
        "attempt": ("int", "From 1; further ones follow an answer that did not count."),
        "about_agent_id": ("text", "Author of the text under discussion."),
        "self_critique": ("bool", "An agent without peers criticised itself."),
        "text": ("text", "The answer without its reasoning."),
        "reasoning": ("text", "What the model thought aloud before answering."),
        "error_type": ("text", "overlong, empty, cut_off, engine, deadline or fatal; null when the answer counts."),
        "error_message": ("text", "What went wrong and what to do about it."),
        **_REQUEST,
        **_PROVENANCE,
    }
)

PROPOSALS = _schema(
    {
        **_KEYS,
        **_SEAT,
        "text": ("text", "The proposal after its last revision; null when the seat never answered."),
        "initial_text": ("text", "The proposal before any critique."),
        "revisions": ("int", "How many revisions counted."),
        "error_type": ("text", "Why the seat has no proposal; null when it has one."),
        "error_message": ("text", "The same in words."),
        "fit": ("float", "How much better it fits its task than the wrong tasks of its batch, 0 to 1."),
        "own_share": ("float", "Share of its task's words that it takes up: what fit is made of."),
        "wrong_share": ("float", "The largest such share of a wrong task."),
        "coverage": ("float", "Mean share of each requirement and criterion taken up, 0 to 1; null without any."),
        "relevance": ("float", "Weighted mean of fit and coverage, 0 to 1."),
        "novelty": ("float", "Lexical distance to the nearest peer, 0 to 1; null without peers."),
        "initial_novelty": ("float", "The same before revision."),
        "checks": (
            "float",
            "Share of the checks on its code that passed, 0 to 1; null where there was nothing to check.",
        ),
        "judge": ("float", "Chance to win against an average peer by the judge's verdicts; null without any."),
        "judge_low": ("float", "Lower end of its 95 % bootstrap interval."),
        "judge_high": ("float", "Upper end."),
        "score": ("float", "Weighted mean of fit, coverage, novelty and checks, 0 to 1."),
        "candidate": ("bool", "Among the best by score from whom the winner is chosen."),
        "choice": ("float", "What the candidates were ordered by, as `won_by` of the winner says; 0 to 1."),
        "rank": ("int", "From 1 without gaps; equals share a rank. Null without a proposal."),
        "tied": ("bool", "Another proposal has the same rank."),
        "winner": ("bool", "The council's answer."),
        "won_by": ("text", "Of the winner, what decided: score, judge, or both; ', by lot' where that left a tie."),
        "evidence": ("evidence", "For each requirement and criterion the sentence that covers it best, if any."),
        "findings": ("findings", "What checks looked at its code: each that passed, and each finding of the others."),
        "completion_tokens": ("int", "Tokens this seat generated, all phases and attempts."),
        **_PROVENANCE,
    }
)

DELIBERATIONS = _schema(
    {
        **_KEYS,
        "status": ("text", "completed, failed or timeout."),
        "error_message": ("text", "Why it failed or timed out."),
        "attempt": ("int", "From 1; what earlier attempts said is in `attempts/<deliberation_id>.<number>.parquet`."),
        "description": ("text", "The task's description."),
        "story_id": ("text", "The story that the task belongs to, where its metadata says so."),
        "winner_agent_id": ("text", "Author of the winning proposal."),
        "winner_score": ("float", "Its score."),
        "winner_text": ("text", "The winning proposal."),
        "won_by": ("text", "What decided: score, judge, or both; ', by lot' where that left a tie."),
        "num_agents": ("int", "Seats on the council."),
        "answered": ("int", "Seats with a proposal."),
        "rounds": ("int", "Rounds of critique and revision asked for."),
        "agent_errors": ("int", "Utterances that did not count, failed attempts included."),
        "vendi": ("float", "Vendi score of the final proposals: how many different ones there are in effect."),
        "mean_distance": ("float", "Mean pairwise lexical distance, 0 to 1; null without peers."),
        "duplicates": ("int", "Final proposals that repeat another one exactly."),
        "initial_vendi": ("float", "Vendi score before revision."),
        "initial_mean_distance": ("float", "Mean distance before revision."),
        "mean_relevance": ("float", "Mean relevance of the final proposals."),
        "prompt_tokens": ("int", "Tokens of all prompts."),
        "cached_tokens": ("int", "Of those, tokens from the prefix cache."),
        "completion_tokens": ("int", "Tokens generated."),
        "started_at": ("time", "When its first request entered the engine."),
        "finished_at": ("time", "When its last answer was complete."),
        "wall_s": ("float", "Seconds between the two."),
        **_PROVENANCE,
    }
)

SCORES = _schema(
    {
        **_KEYS,
        "agent_id": ("text", "The seat; null for a figure of the whole council."),
        "peer_id": ("text", "The other seat, of a figure that concerns two."),
        "phase": ("text", "initial, final, or revision for what lies between."),
        "metric": ("text", "Its name; docs/scores.md says what each means."),
        "version": ("text", "Version of the metric, or of the representation it was made from."),
        "value": ("float", "The figure."),
        "n": ("int", "Of how many things: proposals, points, checks, comparisons."),
        "run_id": _PROVENANCE["run_id"],
        "fingerprint": _PROVENANCE["fingerprint"],
    }
)

JUDGEMENTS = _schema(
    {
        **_KEYS,
        "first_agent_id": ("text", "Author of the proposal that was shown first."),
        "second_agent_id": ("text", "Author of the other."),
        "repeat": ("int", "From 1; the same question is asked several times."),
        "better": ("text", "first, second or equal; null where the answer could not be read as a verdict."),
        "first_mark": ("int", "1 (fails) to 5 (meets all)."),
        "second_mark": ("int", "The same for the other."),
        "reason": ("text", "The judge's reason."),
        "raw_text": ("text", "The answer as it came."),
        "error_type": ("text", "overlong, empty, cut_off, engine, deadline or fatal; null when there was an answer."),
        "error_message": ("text", "What went wrong and what to do about it."),
        **_REQUEST,
        **_PROVENANCE,
    }
)

# A literal type, so that the type checker finds a misspelt table.
TableName = Literal["utterances", "proposals", "deliberations", "scores", "judgements"]
TABLES: dict[TableName, pa.Schema] = {
    "utterances": UTTERANCES,
    "proposals": PROPOSALS,
    "deliberations": DELIBERATIONS,
    "scores": SCORES,
    "judgements": JUDGEMENTS,
}
SCHEMA_VERSIONS: dict[TableName, int] = {
    "utterances": 3,
    "proposals": 2,
    "deliberations": 3,
    "scores": 2,
    "judgements": 2,
}
