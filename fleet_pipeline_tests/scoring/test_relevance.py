from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_pipeline.scoring.relevance import coverage, relevance
from fleet_pipeline_tests.helpers import a_task

LIMITER = a_task(
    description="Implement a rate limiter for an API using a token bucket",
    constraints={"requirements": ["Handle bursts of requests", "Include docstrings"]},
)
CACHE = a_task("t2", description="Design a caching strategy for a web application")
ABOUT_LIMITER = "The token bucket limits the rate of API requests; bursts drain it. Docstrings explain every method."
ABOUT_CACHE = "Cache pages of the web application at the edge, and choose an eviction strategy by hit rate."


def score(key: str, text: str) -> dict:
    proposals = pd.DataFrame([{"deliberation_id": key, "agent_id": "a", "text": text}])
    return relevance(proposals, {"l": LIMITER, "c": CACHE}).iloc[0].to_dict()


def test_a_proposal_fits_its_own_task_better_than_another_one() -> None:
    assert score("l", ABOUT_LIMITER)["similarity"] > 2 * score("l", ABOUT_CACHE)["similarity"]
    assert score("c", ABOUT_CACHE)["similarity"] > 2 * score("c", ABOUT_LIMITER)["similarity"]


@pytest.mark.parametrize(
    ("text", "requirements", "expected"),
    [
        ("we handle bursts of requests", ["Handle bursts of requests"], 1.0),
        ("bursts", ["Handle bursts of requests"], 1 / 3),
        ("nothing of it", ["Handle bursts"], 0.0),
        ("bursts", ["Handle bursts", "Include docstrings"], 0.25),
        ("anything", [], None),
        ("", ["Handle bursts"], 0.0),
        ("be it", ["the"], 0.0),  # a requirement of stop words alone is still a requirement
    ],
)
def test_coverage_is_the_mean_share_of_each_requirement_s_content_words(text, requirements, expected) -> None:
    assert coverage(text, requirements) == (pytest.approx(expected) if expected is not None else None)


@settings(deadline=None)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=6))
def test_scores_stay_in_their_ranges_on_any_text(texts: list[str]) -> None:
    proposals = pd.DataFrame([{"deliberation_id": "l", "agent_id": f"a{n}", "text": t} for n, t in enumerate(texts)])
    scores = relevance(proposals, {"l": LIMITER})
    assert scores["similarity"].between(0, 1).all()
    assert scores["coverage"].between(0, 1).all()


def test_each_proposal_keeps_its_own_score_among_those_of_other_tasks() -> None:
    rows = [("l", "a", ABOUT_LIMITER), ("c", "a", ABOUT_CACHE), ("l", "b", ABOUT_CACHE), ("c", "b", ABOUT_LIMITER)]
    proposals = pd.DataFrame(rows, columns=["deliberation_id", "agent_id", "text"])
    scores = relevance(proposals, {"l": LIMITER, "c": CACHE}).set_index(["deliberation_id", "agent_id"])["similarity"]
    assert scores["l", "a"] > scores["l", "b"]
    assert scores["c", "a"] > scores["c", "b"]
