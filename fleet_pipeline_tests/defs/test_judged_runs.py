"""Runs whose proposals are judged, by the council's own model or by another."""

import pytest

from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.pipeline import Pipeline, why_broken
from fleet_pipeline_tests.support.scripted import echo

pytestmark = pytest.mark.instance


def test_a_judge_in_the_same_engine_start_decides_where_it_is_asked_to(judged: Pipeline) -> None:
    assert judged.run(judged.put("t1", "t2")).success
    assert judged.starts == 1
    rows = judged.table("judgements")
    assert len(rows) == 2 * 3 * 2 * 2  # deliberations, pairs, orders, repeats
    assert set(rows["better"]) == {"first", "second", "equal"}
    outcomes = judged.table("deliberations")
    assert outcomes["winner_agent_id"].tolist() == ["agent-dev-002"] * 2
    assert outcomes["won_by"].tolist() == ["judge"] * 2
    seats = judged.table("proposals")
    assert seats.groupby("agent_id")["judge"].mean().idxmax() == "agent-dev-002"
    scores = judged.table("scores").set_index("metric")["value"]
    assert scores["judge_position_consistency"].tolist() == [1.0, 1.0]
    assert scores["judge_unparseable"].tolist() == [0.0, 0.0]


def test_a_judge_is_asked_again_only_about_what_has_changed(judged: Pipeline) -> None:
    keys = judged.put("t1", "t2")
    judged.run(keys)
    asked = len(judged.asked)
    judged.run(keys)
    assert len(judged.asked) == asked
    (judged.storage / "judgements/t1.dev.parquet").unlink()
    judged.run(keys)
    again = judged.asked[asked:]
    assert {prompt.phase for prompt in again} == {Phase.JUDGE}
    assert len(again) == 12
    assert judged.table("deliberations")["won_by"].tolist() == ["judge"] * 2


def test_a_judge_that_was_not_heard_is_asked_again_by_the_next_run(judged: Pipeline) -> None:
    keys = judged.put("t1")
    heard = judged.answer
    judged.answer = lambda prompt: (
        Completion(error=AgentError.ENGINE, error_message="broke") if prompt.phase is Phase.JUDGE else heard(prompt)
    )
    judged.run(keys)
    assert judged.table("judgements")["error_type"].tolist() == ["engine"] * 6
    judged.answer = heard
    judged.run(keys)
    assert judged.table("deliberations")["won_by"].tolist() == ["judge"]


def test_a_judge_that_nobody_can_read_leaves_the_choice_to_the_score_and_is_counted(judged: Pipeline) -> None:
    judged.answer = lambda prompt: said("I like both") if prompt.phase is Phase.JUDGE else echo(prompt)
    assert judged.run(judged.put("t1")).success
    assert judged.table("deliberations")["won_by"].str.startswith("score").all()
    assert judged.table("judgements")["raw_text"].tolist() == ["I like both"] * 12
    assert judged.table("scores").set_index("metric")["value"]["judge_unparseable"] == 1.0


def test_another_model_judges_all_councils_after_the_last_has_ended(judged: Pipeline) -> None:
    """A council of the judge's own model deliberates in the same start as the judging, and that of others before."""
    judged.configure(judge={"enabled": True, "model": "wiser"}, scoring={"method": "judge"})
    assert judged.run([*judged.put("a", model="wiser"), *judged.put("b"), *judged.put("c", model="other")]).success
    assert judged.starts == 3
    models = [prompt.request.model for prompt in judged.asked]
    assert models[-36:] == ["wiser"] * 36
    assert {prompt.phase for prompt in judged.asked[-36:]} == {Phase.JUDGE}
    assert judged.table("judgements")["model"].unique().tolist() == ["wiser"]
    assert judged.table("deliberations").set_index("task_id")["model"].to_dict() == {
        "a": "wiser", "b": "scripted", "c": "other"
    }  # fmt: skip
    assert judged.table("deliberations")["won_by"].tolist() == ["judge"] * 3


def test_what_the_judge_is_is_found_once_in_a_run(judged: Pipeline) -> None:
    """It may ask the hub, and the engine would wait for that at each council."""
    looked_up = []
    judged.source.identity = lambda model: looked_up.append(model) or "its commit"
    judged.configure(judge={"enabled": True, "model": "wiser"}, scoring={"method": "judge"})
    keys = judged.put("a", "b", "c")
    judged.run(keys)
    assert looked_up.count("wiser") == 1
    judged.source.identity = lambda _: "another commit"
    asked = len(judged.asked)
    judged.configure(
        judge={"enabled": True, "model": "wiser"}, scoring={"method": "judge"}, council={"resume": "always"}
    )
    judged.run(keys)
    assert {prompt.phase for prompt in judged.asked[asked:]} == {Phase.JUDGE}


def test_a_judge_that_cannot_be_started_breaks_the_run_and_is_made_up_for_by_the_next(judged: Pipeline) -> None:
    judged.configure(judge={"enabled": True, "model": "wiser"}, scoring={"method": "judge"})
    judged.unavailable = {"wiser"}
    keys = judged.put("a")
    result = judged.run(keys)
    assert "wiser is not here" in (why_broken(result) or "")
    assert judged.table("deliberations")["won_by"].tolist() == ["score"]
    asked, judged.unavailable = len(judged.asked), set()
    assert judged.run(keys).success
    assert {prompt.phase for prompt in judged.asked[asked:]} == {Phase.JUDGE}
    assert judged.table("deliberations")["won_by"].tolist() == ["judge"]


def test_marks_by_criterion_are_stored(judged: Pipeline) -> None:
    judged.run(judged.put("a", constraints={"rubric": ["Is it fair", "Is it cheap"]}))
    rows = judged.table("judgements")
    assert {tuple(marked) for marked in rows["criteria"]} == {("Is it fair", "Is it cheap")}
    assert {len(marks) for marks in rows["first_marks"]} == {2}
    scores = judged.table("scores")
    marks = scores[scores["metric"] == "judge_mark_2"].set_index("agent_id")["value"]
    assert marks["agent-dev-002"] == 5.0
    assert marks.drop("agent-dev-002").max() < 3


def test_verdicts_of_a_judge_that_is_off_now_count_for_nothing(judged: Pipeline) -> None:
    keys = judged.put("t1")
    judged.run(keys)
    judged.configure()
    judged.run(keys)
    assert judged.table("proposals")["judge"].isna().all()
    assert judged.table("deliberations")["won_by"].str.startswith("score").all()
