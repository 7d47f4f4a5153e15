"""Whole runs of mixed councils and of models with a price, on the scripted engine."""

import json
import re

import pytest
from click.testing import CliRunner

from fleet_pipeline.cli import main
from fleet_pipeline.inference.options import Price
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import ScriptedProvider

pytestmark = pytest.mark.instance

SEATS = [{"model": "a"}, {"model": "b"}, {"model": "c"}]


def test_each_row_names_the_model_that_spoke_and_the_outcome_names_all(pipeline: Pipeline) -> None:
    assert pipeline.run(pipeline.put("t", seats=SEATS, phases={"critique": {"model": "c"}})).success
    said = pipeline.table("utterances")
    assert dict(said[said["phase"] == "propose"].groupby("label")["model"].first()) == {"A": "a", "B": "b", "C": "c"}
    assert set(said[said["phase"] == "critique"]["model"]) == {"c"}
    assert list(pipeline.table("proposals").sort_values("label")["model"]) == ["a", "b", "c"]
    assert list(pipeline.table("deliberations")["model"]) == ["a, b, c"]
    assert pipeline.starts == 1


def test_councils_of_the_same_models_share_an_engine_and_a_finished_one_stands(pipeline: Pipeline) -> None:
    keys = [*pipeline.put("t1", "t2", seats=SEATS), *pipeline.put("t3")]
    assert pipeline.run(keys).success
    assert pipeline.starts == 2
    assert pipeline.run(keys).success
    assert pipeline.starts == 2


def test_a_model_that_is_missing_costs_the_councils_that_need_it_and_no_other(pipeline: Pipeline) -> None:
    pipeline.unavailable = {"b"}
    pipeline.run([*pipeline.put("t1", seats=SEATS), *pipeline.put("t2")])
    status = pipeline.table("deliberations").set_index("deliberation_id")["status"]
    assert dict(status) == {"t1.dev": "failed", "t2.dev": "completed"}
    assert "b is not here" in pipeline.table("deliberations").set_index("deliberation_id")["error_message"]["t1.dev"]


def test_costs_are_counted_by_the_price_of_each_model_and_null_without_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 100 tokens of a prompt, 80 of them from the cache, and 20 generated: three of these to a seat.
    monkeypatch.setattr(ScriptedProvider, "prices", {"a": Price(prompt=10, cached=1, completion=100)})
    pipeline.run([*pipeline.put("t1", seats=SEATS), *pipeline.put("t2")])
    said = pipeline.table("utterances")
    assert set(said[said["model"] == "a"]["cost"].round(9)) == {round((20 * 10 + 80 * 1 + 20 * 100) / 1e6, 9)}
    assert said[said["model"] != "a"]["cost"].isna().all()
    outcomes = pipeline.table("deliberations").set_index("deliberation_id")["cost"]
    assert outcomes["t1.dev"] == pytest.approx(3 * 2_280e-6)
    assert outcomes.isna()["t2.dev"]
    shown = CliRunner().invoke(main, ["show", "t1.dev", "--storage", str(pipeline.storage)]).stdout
    assert "it cost 0.0068" in " ".join(shown.split())


def test_a_plan_names_models_places_and_order_and_starts_nothing(
    pipeline: Pipeline, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text(
        '[engine]\nmodel = "fleet-tiny"\n[models.copy]\nstands_for = "fleet-tiny"\n'
        '[models.far]\nstands_for = "org/far"\nserver = { urls = ["https://far/v1"] }\n'
    )
    lines = [
        {
            "task_id": "mixed",
            "description": "d",
            "seats": [{"model": "fleet-tiny"}, {"model": "far"}, {"model": "copy"}],
        },
        {"task_id": "plain", "description": "d"},
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    storage = tmp_path / "planned"
    plan = ["run", "b.jsonl", "--plan", "--storage", str(storage)]
    shown = CliRunner().invoke(main, plan)
    assert shown.exit_code == 0, shown.output
    assert "2 deliberations, 0 of them done before" in shown.stdout
    assert "far at https://far/v1" in shown.stdout
    assert "fleet-tiny in the run's process, 0.01 GiB of weights" in shown.stdout
    assert re.search(r"side by side in its memory: copy \(\d+%\), fleet-tiny \(\d+%\)", shown.stdout)
    document = json.loads(CliRunner().invoke(main, [*plan, "--json"]).stdout)
    assert all(0 < model["share"] < 0.5 for model in document["steps"][0]["models"] if not model["servers"])
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9000")
    assert "as many at a time as its memory holds: copy" in CliRunner().invoke(main, plan).stdout
    assert [step["deliberate"] for step in document["steps"]] == [["mixed.dev"], ["plain.dev"]]
    assert not storage.exists()
    assert not (tmp_path / ".fleet").exists()
