"""Cases: a task with proposals made elsewhere, to be scored without an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, TypedDict

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.json_input import JsonObject
from fleet_pipeline.common.text import is_blank
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.task import Constraints, Task, rubric_points
from fleet_pipeline.scoring.confidence import is_clear
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.options import ScoringOptions, Weights
from fleet_pipeline.scoring.score import Scored, score_proposals


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


Text = Annotated[str, Field(max_length=10_000_000)]
Point = Annotated[str, Field(max_length=100_000), AfterValidator(_not_blank)]


class CaseProposal(BaseModel):
    """What one agent proposed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent_id: str = Field(min_length=1, max_length=200)
    content: Text


class Case(BaseModel):
    """A task and its proposals. Fields that are not listed here are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str | None = Field(default=None, max_length=500)
    task: Annotated[str, AfterValidator(_not_blank)] = Field(max_length=1_000_000, description="The task's text.")
    requirements: tuple[Point, ...] = ()
    rubric: tuple[Point, ...] = Field(default=(), description="A text (one criterion a line), a list, or a mapping.")
    proposals: tuple[CaseProposal, ...] = Field(min_length=1, max_length=1_000)

    @field_validator("rubric", mode="before")
    @classmethod
    def _rubric_as_points(cls, value: Any) -> Any:
        return rubric_points(value)

    @field_validator("requirements", mode="before")
    @classmethod
    def _requirements_as_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else () if value is None else value

    @field_validator("proposals")
    @classmethod
    def _distinct_agents(cls, value: tuple[CaseProposal, ...]) -> tuple[CaseProposal, ...]:
        names = [proposal.agent_id for proposal in value]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"agent_id {min(repeated)!r} is given twice; give each proposal its own")
        return value


def read_case(entry: Any) -> Case:
    """Validates one case. Raises `InvalidInput` that names the fields and the remedies."""
    if not isinstance(entry, dict):
        raise InvalidInput("(whole case): expected an object with task and proposals")
    try:
        return Case.model_validate(entry)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from None
    except RecursionError:
        raise InvalidInput("(whole case): nested too deeply; flatten it") from None


def score_cases(
    cases: Sequence[Case | Mapping[str, Any]],
    weights: Weights | None = None,
    encoder: Encoder | None = None,
    processes: int = 1,
) -> Scored:
    """Score cases given as `Case` or as plain mappings. In the frames, `deliberation_id` is the case's position in
    `cases` as a text ("0", "1", ...). Raises `InvalidInput` for a mapping that is no case, and without any case.

    The cases are one batch: the tasks of the other cases are wrong tasks for a case's relevance. A blank content is no
    proposal: it has no score and no rank.
    """
    if not cases:
        raise InvalidInput("there is no case to score")
    valid_cases = [case if isinstance(case, Case) else read_case(case) for case in cases]
    tasks = {str(index): _task(str(index), case) for index, case in enumerate(valid_cases)}
    rows = [
        (str(index), proposal.agent_id, None if is_blank(proposal.content) else proposal.content)
        for index, case in enumerate(valid_cases)
        for proposal in case.proposals
    ]
    proposals = pd.DataFrame(rows, columns=["deliberation_id", "agent_id", "text"])
    return score_proposals(proposals, tasks, weights, encoder, processes)


class CaseFinding(TypedDict):
    check: str
    line: int
    message: str


class ScoredProposal(TypedDict):
    agent_id: str
    relevance: float | None
    fit: float | None
    coverage: float | None
    novelty: float | None
    checks: float | None
    form: float | None
    score: float | None
    rank: int | None  # null, as every score, where there is no proposal
    tied: bool
    winner: bool
    confidence: float | None  # of the winner
    clear_winner: bool | None  # of the winner: its confidence is high enough for a verdict
    evidence: list[JsonObject]  # as in the table of proposals
    findings: list[CaseFinding]


class CaseResult(TypedDict):
    """What `fleet score --json` prints of one case."""

    name: str
    diversity: dict[str, float | None]
    proposals: list[ScoredProposal]


def case_results(
    names: Sequence[str], scored: Scored, clear_from: float = ScoringOptions().clear_from
) -> list[CaseResult]:
    """One for each case, in the order of `names`. A winner is a clear one from the confidence `clear_from` on."""
    tall = scored.scores[scored.scores["agent_id"].isna()]
    by_case = {key: part.to_dict("records") for key, part in scored.proposals.groupby("deliberation_id")}
    figures = {key: part.to_dict("records") for key, part in tall.groupby("deliberation_id")}
    results: list[CaseResult] = []
    for index, name in enumerate(names):
        rows = sorted(by_case[str(index)], key=_place)
        diversity: dict[str, float | None] = {"vendi": None, "mean_distance": None}
        for figure in figures.get(str(index), ()):
            embedded = figure["version"].startswith("embedding:")
            diversity[f"embedding_{figure['metric']}" if embedded else figure["metric"]] = figure["value"]
        results.append({"name": name, "diversity": diversity, "proposals": [_result(row, clear_from) for row in rows]})
    return results


def _result(row: Mapping[Any, Any], clear_from: float) -> ScoredProposal:
    sure = _number(row["confidence"])
    return {
        "agent_id": row["agent_id"],
        "relevance": _number(row["relevance"]),
        "fit": _number(row["fit"]),
        "coverage": _number(row["coverage"]),
        "novelty": _number(row["novelty"]),
        "checks": _number(row["checks"]),
        "form": _number(row["form"]),
        "score": _number(row["score"]),
        "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
        "tied": row["tied"] is True,
        "winner": row["winner"] is True,
        "confidence": sure,
        "clear_winner": None if sure is None else is_clear(sure, clear_from, by_lot=row["by_lot"] is True),
        "evidence": [asdict(entry) for entry in _list(row["evidence"])],
        "findings": [
            {"check": check.check, "line": finding.line, "message": finding.message}
            for check in _list(row["findings"])
            for finding in check.findings
        ],
    }


def _place(row: Mapping[Any, Any]) -> tuple[bool, int, str]:
    absent = bool(pd.isna(row["rank"]))
    return absent, 0 if absent else int(row["rank"]), row["agent_id"]


def _list(value: Any) -> list[Any]:
    """Scores that there are none of are NaN in a frame."""
    return value if isinstance(value, list) else []


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _task(key: str, case: Case) -> Task:
    # Built without validation: a backlog's limits do not apply to a case, and its texts are used only here.
    constraints = Constraints.model_construct(requirements=case.requirements, rubric=case.rubric)
    return Task.model_construct(task_id=f"case-{key}", description=case.task, constraints=constraints)
