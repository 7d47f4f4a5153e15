"""The cases that scores are measured on, `cases/<part>/<role>.jsonl`, written for this project; and cases of others.

Each has a task with requirements and rubric, three different answers, two paraphrases of the first
answer, and a vague text without a solution. Answers to other tasks of the same role, echoes and
padded answers are made from these.
"""

import json

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.scoring.cases import case_results, score_cases
from fleet_pipeline.scoring.score import CHUNK
from fleet_pipeline_tests.scoring import measure

pytestmark = pytest.mark.unit

CASES = [pytest.param(case, id=case["name"]) for part in ("building", "final") for case in measure.read_cases(part)]


def test_there_are_cases_of_all_five_roles_with_names_of_their_own() -> None:
    for part, least in (("building", 14), ("final", 4)):
        roles = [case["role"] for case in measure.read_cases(part)]
        assert {role: roles.count(role) for role in ("DEV", "QA", "ARCHITECT", "DEVOPS", "DATA")} == dict.fromkeys(
            ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"], least
        )
    names = [case.id for case in CASES]
    assert len(names) == len(set(names)) == 90


@pytest.mark.parametrize("case", CASES)
def test_a_case_has_three_answers_that_differ_and_paraphrases_as_long_as_the_first(case: dict) -> None:
    assert 3 <= len(case["requirements"]) <= 5
    assert 1 <= len(case["rubric"]) <= 4
    texts = [*case["answers"], *case["paraphrases"], case["vague"]]
    assert len(set(texts)) == len(texts) == 6
    words = len(case["answers"][0].split())
    assert all(0.7 * words <= len(text.split()) <= 1.35 * words for text in case["paraphrases"])


@pytest.fixture(scope="module")
def final_cases() -> list[dict]:
    return measure.read_cases("final")


def test_paraphrases_are_told_from_different_answers(final_cases: list[dict]) -> None:
    for figure in measure.diversity_figures(final_cases):
        assert figure.reached, figure


def test_answers_rank_above_answers_to_other_tasks_echoes_and_vague_words(final_cases: list[dict]) -> None:
    for figure in measure.relevance_figures(final_cases, measure.FILLER["final"]):
        assert figure.reached, figure


A_CASE = {
    "name": "limiter",
    "task": "Implement a rate limiter for the public API",
    "requirements": ["Bursts are allowed", "Refused requests get status 429"],
    "proposals": [
        {
            "agent_id": "a",
            "content": "A bucket in Redis takes bursts up to 40 tokens; nginx answers refused requests with status 429.",
        },
        {"agent_id": "b", "content": "Implement a rate limiter for the public API"},
    ],
}


def test_plain_mappings_are_scored_into_frames_and_results_by_name() -> None:
    scored = score_cases([A_CASE])
    assert scored.proposals.set_index("agent_id")["rank"].to_dict() == {"a": 1, "b": 2}
    assert set(scored.scores["metric"]) >= {"vendi", "mean_distance", "novelty", "fit", "coverage", "score"}
    (result,) = case_results(["limiter"], scored)
    assert result["name"] == "limiter"
    assert result["diversity"]["vendi"] > 1
    best = result["proposals"][0]
    assert set(best) >= {"agent_id", "relevance", "novelty", "score", "rank", "evidence", "findings"}
    assert [found["covered"] for found in best["evidence"]] == [True, True]


def test_the_order_of_cases_and_of_their_proposals_changes_no_score() -> None:
    other = A_CASE | {"name": "cache", "task": "Design a cache for rendered pages of the shop"}
    turned = [other, A_CASE | {"proposals": A_CASE["proposals"][::-1]}]
    one = case_results(["limiter", "cache"], score_cases([A_CASE, other]))[0]
    two = case_results(["cache", "limiter"], score_cases(turned))[1]
    assert one == two


def test_no_case_at_all_is_said() -> None:
    with pytest.raises(InvalidInput, match="no case"):
        score_cases([])


def test_several_processes_give_the_same_scores_as_one() -> None:
    cases = [A_CASE | {"task": f"{A_CASE['task']} number {number}"} for number in range(2 * CHUNK)]
    one, two = score_cases(cases), score_cases(cases, processes=2)
    pd.testing.assert_frame_equal(one.proposals, two.proposals)
    pd.testing.assert_frame_equal(one.scores, two.scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": ""}, "task: must not be empty"),
        ({"task": None}, "task: "),
        ({"proposals": []}, "proposals: "),
        ({"proposals": [{"agent_id": "a"}]}, "proposals.0.content: add this field"),
        ({"proposals": [{"agent_id": "a", "content": "x"}] * 2}, "'a' is given twice"),
        ({"requirements": [1]}, "requirements.0: "),
    ],
)
def test_a_bad_case_is_refused_by_field_and_remedy(change: dict, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        score_cases([A_CASE | change])
    assert message in str(caught.value)


SOME_TEXT = st.text(min_size=1).filter(str.strip)


@settings(max_examples=50)
@given(SOME_TEXT, st.lists(SOME_TEXT, max_size=3), st.lists(st.text(), min_size=1, max_size=4))
def test_any_texts_make_scores_in_their_ranges(task: str, requirements: list[str], contents: list[str]) -> None:
    proposals = [{"agent_id": str(n), "content": text} for n, text in enumerate(contents)]
    (result,) = case_results(["x"], score_cases([{"task": task, "requirements": requirements, "proposals": proposals}]))
    assert json.loads(json.dumps(result)) == result
    for seat in result["proposals"]:
        figures = [seat[name] for name in ("relevance", "fit", "coverage", "novelty", "checks", "score")]
        assert all(0 <= value <= 1 for value in figures if value is not None)


@pytest.mark.parametrize("blank", ["", " \n\t", "\u200b", "\ufeff \u2060"])
def test_an_empty_answer_is_no_proposal_and_never_wins(blank: str) -> None:
    """It won by lot over working code where neither speaks of the task; "" and blanks were two different ones."""
    code = "def rev(s):\n    return s[::-1]"
    case = {
        "task": "Write a function that reverses a text",
        "proposals": [{"agent_id": f"a{n}", "content": blank} for n in (1, 2)] + [{"agent_id": "b", "content": code}],
    }
    scored = score_cases([case, {"task": "t", "proposals": [{"agent_id": "c", "content": blank}]}])
    first, second = case_results(["x", "y"], scored)
    assert [(one["agent_id"], one["rank"], one["winner"]) for one in first["proposals"]] == [
        ("b", 1, True), ("a1", None, False), ("a2", None, False)
    ]  # fmt: skip
    assert first["diversity"]["vendi"] == 1
    assert [one["score"] for one in second["proposals"]] == [None]
    assert len(scored.proposals) == 4
    json.dumps([first, second])
