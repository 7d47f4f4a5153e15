import pandas as pd
import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.relevance import HALF, Relevance, relevance
from fleet_pipeline_tests.support.councils import a_task

pytestmark = pytest.mark.unit

LIMITER = a_task(
    description="Implement a rate limiter for an API using a token bucket",
    constraints={
        "requirements": ["Handle bursts of requests", "Document the limits"],
        "rubric": ["Can operators watch it in Grafana"],
    },
)
CACHE = a_task("t2", description="Design a caching strategy for a web application whose pages change hourly")
ABOUT_LIMITER = (
    "A bucket per client in Redis holds its tokens; a Lua script refills it by elapsed milliseconds.\n"
    "Bursts of requests drain up to capacity 40 and then get 429 with Retry-After from nginx.\n"
    "The limits stand in the OpenAPI page, with curl samples."
)
ABOUT_CACHE = (
    "Varnish keeps rendered pages of the application for 55 minutes, keyed by cookie-free URL.\n"
    "Hourly edits purge by surrogate key, so that a strategy of eviction stays least-recently-used."
)
ECHO = "\n".join([LIMITER.description, *LIMITER.constraints.requirements, *LIMITER.constraints.rubric])


def score(text: str, task: Task = LIMITER, others: tuple[Task, ...] = (CACHE,)) -> dict:
    proposals = pd.DataFrame([{"deliberation_id": "d", "agent_id": "a", "text": text}])
    return relevance(proposals, {"d": task}, Relevance([task, *others])).iloc[0].to_dict()


def test_a_proposal_fits_its_own_task_better_than_another_one() -> None:
    assert score(ABOUT_LIMITER)["fit"] > 3 * score(ABOUT_CACHE)["fit"]
    assert score(ABOUT_CACHE, CACHE, (LIMITER,))["fit"] > 3 * score(ABOUT_LIMITER, CACHE, (LIMITER,))["fit"]


def test_a_task_that_is_merely_repeated_is_not_relevant() -> None:
    assert score(ECHO)["fit"] == score(ECHO)["coverage"] == 0
    filled = ECHO + "\nWe should always strive for excellence in everything we do, as quality matters most."
    assert score(filled)["fit"] < 0.2 * score(ABOUT_LIMITER)["fit"]


def test_naming_a_requirement_s_words_adds_nothing_but_saying_something_of_them_does() -> None:
    assert score("Handle bursts of requests.")["coverage"] == 0
    assert score(ABOUT_LIMITER)["coverage"] > 0.3


def test_the_evidence_is_the_sentence_that_covers_the_point_best() -> None:
    bursts, documented, watched = score(ABOUT_LIMITER)["evidence"]
    assert (bursts.kind, documented.kind, watched.kind) == ("requirement", "requirement", "criterion")
    assert bursts.text.startswith("Bursts of requests drain")
    assert bursts.covered
    assert "OpenAPI" in documented.text
    assert not watched.covered


def test_without_requirements_and_rubric_there_is_nothing_to_cover() -> None:
    found = score(ABOUT_CACHE, CACHE)
    assert pd.isna(found["coverage"])
    assert found["evidence"] == []


def test_a_batch_of_one_has_wrong_tasks_all_the_same() -> None:
    assert score(ABOUT_LIMITER, others=())["fit"] > 3 * score(ABOUT_CACHE, others=())["fit"]


def test_other_roles_of_the_same_task_are_no_wrong_task() -> None:
    same = LIMITER.model_copy(update={"task_id": "again", "roles": ("QA",)})
    assert score(ABOUT_LIMITER, others=(same,))["fit"] == score(ABOUT_LIMITER, others=())["fit"]


def test_frequent_words_of_tasks_are_words_all_the_same() -> None:
    """Lists of stop words of packages hold test, system, container, key, order, Go: points about these had no word."""
    for point, text in {
        "Use Go": "The gateway is written in Go 1.24 with chi as its router.",
        "Fail closed": "Without quorum the doors fail closed and a buzzer sounds.",
        "Works in containers": "Podman containers carry the daemon and its udev rules.",
    }.items():
        task = a_task(description="Rebuild the gateway", constraints={"requirements": [point]})
        assert score(text, task)["evidence"][0].covered, point


def test_a_point_without_a_word_counts_for_nothing() -> None:
    task = a_task(description="Rebuild the gateway", constraints={"requirements": ["...", "Refuse bad tokens"]})
    assert [found.point for found in score("Bad tokens are refused by Envoy's JWT filter.", task)["evidence"]] == [
        "Refuse bad tokens"
    ]


@pytest.mark.parametrize(
    ("description", "answer", "other"),
    [
        ("缓存首页并每小时清空一次", "用 Varnish 保存首页缓存。每小时由定时任务清空。并记录命中率指标。", "今天天气很好。我们去公园散步吧。"),
        ("भुगतान की सीमा तय करें", "भुगतान की सीमा रेडिस में प्रति ग्राहक गिनी जाती है और लुआ लिपि उसे घटाती है।", "आज मौसम अच्छा है और हम घूमने जाएंगे।"),
    ],
)  # fmt: skip
def test_scripts_without_spaces_and_with_combining_marks_are_read(description: str, answer: str, other: str) -> None:
    task = a_task(description=description)
    assert score(answer, task)["fit"] > score(other, task)["fit"]


def test_what_fit_is_made_of_is_kept() -> None:
    found = score(ABOUT_LIMITER)
    x = found["own_share"] ** 2 / (found["own_share"] + found["wrong_share"])
    assert found["fit"] == pytest.approx(x / (x + HALF))


def test_requirements_in_another_language_are_covered_in_it() -> None:
    task = a_task(
        description="Begrenze die Anfragen an die Schnittstelle", constraints={"requirements": ["Lastspitzen abfangen"]}
    )
    text = "Lastspitzen werden mit einem Eimer von 40 Marken je Mandant in Redis abfangen, danach Antwort 429."
    assert score(text, task)["evidence"][0].covered


texts_of_any_kind = st.lists(st.text(max_size=80), min_size=1, max_size=6)


@given(texts_of_any_kind, st.text(min_size=1, max_size=80), st.lists(st.text(max_size=40), max_size=3))
def test_scores_stay_in_their_ranges_on_any_text(texts: list[str], description: str, requirements: list[str]) -> None:
    constraints = LIMITER.constraints.model_copy(update={"requirements": tuple(requirements)})
    task = Task.model_construct(task_id="t", description=description, constraints=constraints)
    rows = [{"deliberation_id": "d", "agent_id": f"a{n}", "text": t} for n, t in enumerate([*texts, description])]
    scores = relevance(pd.DataFrame(rows), {"d": task}, Relevance([task, CACHE]))
    assert scores["fit"].between(0, 1).all()
    assert scores["coverage"].between(0, 1).all()
    assert all(0 <= found.share <= 1 for each in scores["evidence"] for found in each)


@pytest.mark.parametrize("text", ["", "word", "مرحبا بالعالم " * 50, "limit " * 170_000, "a" * 1_000_000])
def test_texts_of_extreme_length_and_direction_are_scored(text: str) -> None:
    assert score(text)["fit"] == pytest.approx(0.0, abs=0.05)


def test_each_proposal_keeps_its_own_score_among_those_of_other_tasks() -> None:
    rows = [("l", "a", ABOUT_LIMITER), ("c", "a", ABOUT_CACHE), ("l", "b", ABOUT_CACHE), ("c", "b", ABOUT_LIMITER)]
    proposals = pd.DataFrame(rows, columns=["deliberation_id", "agent_id", "text"])
    tasks = {"l": LIMITER, "c": CACHE}
    scores = relevance(proposals, tasks, Relevance(tasks.values())).set_index(["deliberation_id", "agent_id"])["fit"]
    assert scores["l", "a"] == pytest.approx(score(ABOUT_LIMITER)["fit"])
    assert scores["l", "a"] > scores["l", "b"]
    assert scores["c", "a"] > scores["c", "b"]
