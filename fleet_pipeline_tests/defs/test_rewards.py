"""A reward model rates the final proposals of a run, after its engine, and may decide."""

import pandas as pd
import pytest

from fleet_pipeline.common.errors import EngineError, ModelUnavailable
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.services import rewards as rewards_service
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.pipeline import Pipeline, verdict_of, why_broken
from fleet_pipeline_tests.support.scripted import ScriptedRewards

pytestmark = pytest.mark.instance

WORDS = {
    "A": "short words are all",
    "B": "considerably elongated vocabulary throughout",
    "C": "medium length wording here",
}


def by_seat(prompt: Heard):
    return said(WORDS[prompt.seat.label])


@pytest.fixture
def rated(pipeline: Pipeline) -> Pipeline:
    pipeline.configure(scoring={"reward": "a-reward-model", "method": "reward"})
    pipeline.answer = by_seat
    pipeline.reward_starts = []

    def start_reward(model: str) -> ScriptedRewards:
        if model in pipeline.unavailable:
            raise ModelUnavailable(f"{model} is not here")
        pipeline.reward_starts.append(model)
        return ScriptedRewards()

    pipeline.source.start_reward = start_reward
    return pipeline


def rewards(pipeline: Pipeline) -> pd.DataFrame:
    return pipeline.table("rewards").set_index("agent_id")


def test_the_proposal_with_the_highest_reward_wins_and_the_model_is_loaded_once(rated: Pipeline) -> None:
    assert rated.run(rated.put("t1", "t2", "t3")).success
    assert rated.reward_starts == ["a-reward-model"]
    outcomes = rated.table("deliberations")
    assert outcomes["winner_agent_id"].tolist() == ["agent-dev-002"] * 3
    assert outcomes["won_by"].tolist() == ["reward"] * 3
    stored = rated.table("rewards")
    assert stored.groupby("agent_id")["reward"].first().idxmax() == "agent-dev-002"
    assert stored["model"].unique().tolist() == ["a-reward-model"]
    scores = rated.table("scores").set_index(["deliberation_id", "metric", "agent_id"])["value"].sort_index()
    assert (
        scores["t1.dev", "reward"].to_dict() == rewards(rated).query("deliberation_id == 't1.dev'")["reward"].to_dict()
    )
    assert scores["t1.dev", "preferred"].sum() == pytest.approx(1.5)


def test_the_confidence_is_the_chance_that_the_first_is_preferred_to_the_next(rated: Pipeline) -> None:
    rated.run(rated.put("t1"))
    best, second, _ = sorted(rewards(rated)["reward"], reverse=True)
    assert rated.table("deliberations")["confidence"].item() == pytest.approx(1 / (1 + 2.718281828 ** (second - best)))


def test_nothing_is_rated_again_but_by_another_model_and_then_no_engine_starts(rated: Pipeline) -> None:
    keys = rated.put("t1", "t2")
    rated.run(keys)
    rated.run(keys)
    assert (rated.starts, rated.reward_starts) == (1, ["a-reward-model"])
    rated.configure(scoring={"reward": "another", "method": "reward"})
    rated.run(keys)
    assert (rated.starts, rated.reward_starts) == (1, ["a-reward-model", "another"])
    assert rated.table("rewards")["model"].unique().tolist() == ["another"]
    assert rated.table("deliberations")["won_by"].tolist() == ["reward"] * 2


def test_a_proposal_that_the_model_cannot_read_leaves_the_choice_to_the_score(rated: Pipeline) -> None:
    rated.answer = lambda prompt: said("too long" if prompt.seat.label == "C" else WORDS[prompt.seat.label])
    rated.run(rated.put("t1"))
    assert rewards(rated)["reward"].isna().sum() == 1
    assert rated.table("deliberations")["won_by"].tolist() == ["score"]


def test_a_reward_model_that_cannot_be_started_breaks_the_run_and_costs_no_deliberation(rated: Pipeline) -> None:
    rated.unavailable = {"a-reward-model"}
    keys = rated.put("t1")
    assert "a-reward-model is not here" in (why_broken(rated.run(keys)) or "")
    assert rated.table("deliberations")["won_by"].tolist() == ["score"]
    asked, rated.unavailable = len(rated.asked), set()
    assert rated.run(keys).success
    assert len(rated.asked) == asked
    assert rated.table("deliberations")["won_by"].tolist() == ["reward"]


def test_with_a_judge_as_well_each_asks_for_itself_and_is_asked_once(rated: Pipeline) -> None:
    keys = rated.put("t1", "t2")
    rated.run(keys)
    rated.configure(judge={"enabled": True}, scoring={"reward": "a-reward-model", "method": "judge"})
    rated.answer = lambda prompt: verdict_of(prompt) if prompt.phase is Phase.JUDGE else by_seat(prompt)
    rated.run(keys)
    assert rated.reward_starts == ["a-reward-model"]
    assert rated.table("proposals")["reward"].notna().all()
    assert rated.table("proposals")["judge"].notna().all()
    assert rated.table("deliberations")["won_by"].tolist() == ["judge"] * 2


def test_what_is_rated_again_is_what_has_changed_the_task_the_texts_or_the_model(rated: Pipeline) -> None:
    keys = rated.put("t1")
    rated.run(keys)
    rated.source.identity = lambda model: "its context is longer now" if model == "a-reward-model" else ""
    rated.run(keys)
    assert len(rated.reward_starts) == 2
    rated.configure(scoring={"reward": "a-reward-model", "method": "reward"}, council={"resume": "always"})
    rated.put("t1", description="Another task")
    rated.run(keys)
    assert (rated.starts, len(rated.reward_starts)) == (1, 3)


def test_a_model_that_breaks_in_the_middle_keeps_what_it_has_rated(rated: Pipeline, monkeypatch) -> None:
    monkeypatch.setattr(rewards_service, "TOGETHER", 1)
    rate, calls = ScriptedRewards.rate, []

    def breaks(self, chats):
        calls.append(len(chats))
        if len(calls) == 2:
            raise EngineError("the reward model broke")
        return rate(self, chats)

    monkeypatch.setattr(ScriptedRewards, "rate", breaks)
    keys = rated.put("t1", "t2", "t3")
    assert "the reward model broke" in (why_broken(rated.run(keys)) or "")
    assert sorted(rated.table("deliberations")["won_by"]) == ["reward", "score", "score"]
    assert rated.run(keys).success
    assert calls == [3] * 4
    assert rated.table("deliberations")["won_by"].tolist() == ["reward"] * 3


def test_rewards_of_a_model_that_is_not_named_any_more_count_for_nothing(rated: Pipeline) -> None:
    keys = rated.put("t1")
    rated.run(keys)
    rated.configure()
    rated.run(keys)
    assert rated.table("deliberations")["won_by"].tolist() == ["score"]
    assert "reward" not in set(rated.table("scores")["metric"])


def test_a_failed_deliberation_is_not_rated_and_its_neighbours_are(rated: Pipeline) -> None:
    rated.answer = lambda prompt: said("" if prompt.deliberation_id == "bad.dev" else WORDS[prompt.seat.label])
    rated.run([*rated.put("bad"), *rated.put("good")])
    assert rated.table("rewards")["deliberation_id"].unique().tolist() == ["good.dev"]
    assert rated.table("deliberations").set_index("task_id")["status"].to_dict() == {
        "bad": "failed", "good": "completed"
    }  # fmt: skip
