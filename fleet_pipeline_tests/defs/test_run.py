"""Whole runs on a real Dagster instance, with a scripted engine where inference is not the point."""

import io
import re
from dataclasses import replace
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import pytest
from rich.console import Console

from fleet_pipeline.common.errors import InvalidInput, SyntheticEngineRefused
from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.instance.partitions import NAME, register
from fleet_pipeline.instance.tags import ABOUT, RESULT
from fleet_pipeline.reports.markdown import inert
from fleet_pipeline.reports.terminal import deliberation_page
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.schemas import DELIBERATIONS, PROPOSALS, UTTERANCES
from fleet_pipeline.storage.tables import read_rows
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.damage import DAMAGES
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.pipeline import Pipeline, put_described, silent_for, why_broken
from fleet_pipeline_tests.support.scripted import ScriptedProvider, echo

pytestmark = pytest.mark.instance


def test_one_run_over_many_partitions_with_one_engine_start(pipeline: Pipeline) -> None:
    keys = pipeline.put(*[f"t{n}" for n in range(12)], roles=["DEV", "QA"])
    result = pipeline.run(keys)
    assert result.success
    assert pipeline.starts == 1
    for asset in ("transcripts", "proposals", "deliberations"):
        assert pipeline.partitions(asset) == (set(keys), set())
    assert len(pipeline.table("deliberations")) == 24
    assert set(pipeline.table("deliberations")["engine"]) == {"synthetic: scripted"}
    assert set(pipeline.table("utterances")["not_checked"]) == {"length, control_tokens"}


def test_each_outcome_is_exactly_one_event(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b", "c")
    pipeline.run(keys)
    records = pipeline.instance.fetch_materializations(dg.AssetKey("deliberations"), limit=100).records
    assert sorted(record.partition_key for record in records) == keys


def test_each_deliberation_has_its_agents_ranked_without_gaps(pipeline: Pipeline) -> None:
    keys = [*pipeline.put("one", num_agents=1), *pipeline.put("five", num_agents=5), *pipeline.put("three")]
    pipeline.run(keys)
    rows = duckdb.sql(
        f"select deliberation_id, count(*), count(distinct agent_id), min(rank), max(rank), count(distinct rank), "
        f"count(*) filter (winner) from read_parquet('{pipeline.storage}/proposals/*.parquet') group by 1 order by 2"
    ).fetchall()
    assert [row[:3] for row in rows] == [("one.dev", 1, 1), ("three.dev", 3, 3), ("five.dev", 5, 5)]
    for _, _, _, lowest, highest, different, winners in rows:
        assert (lowest, highest, winners) == (1, different, 1)


def test_failed_deliberations_are_red_and_their_neighbours_green_in_the_same_run(pipeline: Pipeline) -> None:
    keys = put_described(pipeline, "good1", "bad1", "good2", "bad2")
    pipeline.answer = silent_for("bad1", "bad2")
    result = pipeline.run(keys)
    assert not result.success
    assert pipeline.partitions("deliberations") == ({"good1.dev", "good2.dev"}, {"bad1.dev", "bad2.dev"})
    failure = result.failure_data_for_node("deliberations").user_failure_data
    assert "2 of 4 deliberations failed" in failure.description
    shown = result.failure_data_for_node("deliberations").error
    assert (shown.message, shown.stack, shown.cause) == (f"{failure.description}\n", [], None)
    assert "bad1.dev, bad2.dev: failed: 0 of 3 agents answered" in failure.description  # one reason, once
    assert [one.data["deliberation"] for one in failure.metadata["which"].records] == ["bad1.dev", "bad2.dev"]
    assert "(/assets/deliberations?view=partitions&partition=bad1.dev)" in failure.metadata["their pages"].value
    tags = pipeline.instance.get_run_by_id(result.run_id).tags
    assert (tags[ABOUT], tags[RESULT]) == ("4 deliberations, scripted", "2 of 4 completed")
    statuses = pipeline.table("deliberations").set_index("deliberation_id")
    assert statuses["status"].to_dict() == {
        "good1.dev": "completed", "bad1.dev": "failed", "good2.dev": "completed", "bad2.dev": "failed",
    }  # fmt: skip
    assert "0 of 3 agents answered" in statuses.loc["bad1.dev", "error_message"]
    assert statuses["winner_agent_id"].isna().to_dict()["bad1.dev"]


def test_what_a_failed_deliberation_said_is_red_with_its_reason_until_it_is_mended(pipeline: Pipeline) -> None:
    keys = put_described(pipeline, "good", "bad")
    pipeline.answer = silent_for("bad")
    pipeline.run(keys)
    assets = ("transcripts", "proposals", "deliberations")
    assert [pipeline.red(asset) for asset in assets] == [{"bad.dev"}] * 3
    told = {
        record.partition_key: record.asset_materialization.metadata
        for record in pipeline.instance.fetch_materializations(dg.AssetKey("transcripts"), limit=2).records
    }
    assert [told[key]["status"].value for key in keys] == ["completed", "failed"]
    assert "0 of 3 agents answered" in told["bad.dev"]["error"].value
    assert "(/assets/deliberations?view=partitions&partition=bad.dev)" in told["bad.dev"]["its page"].value
    assert Path(told["good.dev"]["parquet"].value).exists()
    pipeline.answer = echo
    pipeline.run(["bad.dev"])
    assert [pipeline.red(asset) for asset in assets] == [set()] * 3


def test_running_the_red_ones_again_turns_them_green_and_spends_nothing_on_the_others(pipeline: Pipeline) -> None:
    keys = put_described(pipeline, "good", "bad")
    pipeline.answer = silent_for("bad")
    pipeline.run(keys)
    pipeline.answer, pipeline.asked = echo, []
    result = pipeline.run(keys)
    assert result.success
    assert pipeline.partitions("deliberations") == ({"good.dev", "bad.dev"}, set())
    assert all("about bad." in prompt.user for prompt in pipeline.asked)
    assert len(pipeline.asked) == 9


def test_what_is_done_starts_no_engine_and_what_changed_is_done_anew(pipeline: Pipeline) -> None:
    keys = pipeline.put("t1", "t2")
    pipeline.run(keys)
    pipeline.run(keys)
    assert pipeline.starts == 1
    pipeline.put("t2", description="Another task under the same id")
    pipeline.asked = []
    pipeline.run(keys)
    assert pipeline.starts == 2
    assert all("Another task" in prompt.user for prompt in pipeline.asked)


def test_a_deliberation_is_on_disk_the_moment_it_finishes(pipeline: Pipeline) -> None:
    keys = pipeline.put(*[f"t{n:02d}" for n in range(40)])
    most_finished = 0

    def answer(prompt: Heard) -> Completion:
        nonlocal most_finished
        most_finished = max(most_finished, len(pipeline.store.names("utterances", ".parquet")))
        return echo(prompt)

    pipeline.answer = answer
    pipeline.run(keys)
    assert most_finished > 20


def test_an_engine_that_breaks_keeps_what_finished_and_the_next_run_goes_on_from_there(pipeline: Pipeline) -> None:
    keys = pipeline.put(*[f"t{n:02d}" for n in range(40)])

    def answer(prompt: Heard) -> Completion:
        if len(pipeline.store.names("utterances", ".parquet")) >= 15:
            raise RuntimeError("the engine is gone")
        return echo(prompt)

    pipeline.answer = answer
    assert not pipeline.run(keys).success
    statuses = (
        pipeline.table("utterances").groupby("deliberation_id")["error_type"].apply(lambda errors: errors.isna().all())
    )
    assert 15 <= statuses.sum() < len(statuses) < 40
    answered = pipeline.table("utterances").query("error_type.isna()").shape[0]
    pipeline.answer, pipeline.asked = echo, []
    assert pipeline.run(keys).success
    assert len(pipeline.asked) == 40 * 9 - answered


def test_partitions_without_a_task_or_with_a_hostile_key_are_red_and_write_nothing_outside(pipeline: Pipeline) -> None:
    keys = [*pipeline.put("good"), "absent.dev", "../../escape.dev", "no-role"]
    result = pipeline.run(keys)
    assert not result.success
    assert pipeline.partitions("deliberations") == ({"good.dev"}, {"absent.dev", "../../escape.dev", "no-role"})
    which = result.failure_data_for_node("deliberations").user_failure_data.metadata["which"].records
    failed = {one.data["deliberation"]: one.data["why"] for one in which}
    assert "no task is stored" in failed["absent.dev"]
    assert "no deliberation id" in failed["../../escape.dev"]
    assert not list(pipeline.storage.parent.rglob("*escape*"))


def test_a_deliberation_below_its_quorum_keeps_its_proposals_but_names_no_winner(pipeline: Pipeline) -> None:
    pipeline.answer = lambda prompt: echo(prompt) if prompt.seat.index == 0 else said("")
    pipeline.run(pipeline.put("t1"))
    row = pipeline.table("deliberations").iloc[0]
    assert (row["status"], row["answered"]) == ("failed", 1)
    assert pd.isna(row["winner_agent_id"])
    seats = pipeline.table("proposals")
    assert len(seats) == 3
    assert not seats["winner"].any()
    assert seats["error_type"].tolist()[1:] == ["empty", "empty"]


def test_tasks_of_different_models_run_in_one_run_with_one_engine_each(pipeline: Pipeline) -> None:
    keys = [*pipeline.put("a"), *pipeline.put("b", model="other"), *pipeline.put("c")]
    pipeline.run(keys)
    assert pipeline.starts == 2
    models = pipeline.table("deliberations").set_index("task_id")["model"].to_dict()
    assert models == {"a": "scripted", "b": "other", "c": "scripted"}


def test_a_task_whose_own_model_is_not_there_fails_alone(pipeline: Pipeline) -> None:
    keys = [*pipeline.put("a"), *pipeline.put("b", model="no/such-model"), *pipeline.put("c")]
    pipeline.unavailable = {"no/such-model"}
    assert not pipeline.run(keys).success
    assert pipeline.partitions("deliberations") == ({"a.dev", "c.dev"}, {"b.dev"})
    errors = pipeline.table("deliberations").set_index("task_id")["error_message"]
    assert "no/such-model is not here" in errors["b"]


def test_the_run_s_own_model_that_is_not_there_breaks_the_run_and_says_so(pipeline: Pipeline) -> None:
    pipeline.unavailable = {"scripted"}
    result = pipeline.run(pipeline.put("a"))
    assert why_broken(result) == "step transcripts: scripted is not here"


def test_failed_outcomes_are_no_breakage_but_storage_that_cannot_be_written_is(pipeline: Pipeline) -> None:
    keys = put_described(pipeline, "good", "bad")
    pipeline.answer = silent_for("bad")
    assert why_broken(pipeline.run(keys)) is None
    (pipeline.storage / "deliberations/good.dev.parquet").unlink()
    (pipeline.storage / "deliberations/good.dev.parquet").mkdir()
    reason = why_broken(pipeline.run(keys))
    assert reason is not None
    assert "cannot write" in reason
    assert "good.dev.parquet" in reason


def test_a_task_that_no_longer_holds_is_red_and_keeps_the_transcript_it_has(pipeline: Pipeline) -> None:
    keys = pipeline.put("t1", "t2")
    pipeline.run(keys)
    pipeline.store.write("tasks/t1.dev.json", b'{"task_id": "t1", "description": "d", "roles": ["GONE"]}')
    said_before = pipeline.table("utterances")["text"].tolist()
    pipeline.run(keys)
    row = pipeline.table("deliberations").set_index("task_id").loc["t1"]
    assert row["status"] == "failed"
    assert "unknown role 'GONE'" in row["error_message"]
    assert pipeline.table("utterances")["text"].tolist() == said_before
    assert pipeline.table("deliberations").set_index("task_id").loc["t2", "status"] == "completed"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_transcript_is_made_anew_and_its_neighbours_are_not(pipeline: Pipeline, damage: str) -> None:
    keys = pipeline.put("t1", "t2")
    pipeline.run(keys)
    DAMAGES[damage](pipeline.storage / "utterances/t1.dev.parquet")
    pipeline.asked = []
    assert pipeline.run(keys).success
    assert len(pipeline.asked) == 9


def test_of_a_hundred_the_five_that_cannot_be_held_are_red_with_their_reason_and_the_others_green(
    pipeline: Pipeline,
) -> None:
    """A thousand on real vLLM: `benchmarks/faults.py poison`."""
    keys = [key for n in range(95) for key in pipeline.put(f"t{n:02d}")]
    keys[10:10] = pipeline.put("overlong", description="over-long")
    keys[30:30] = pipeline.put("late", constraints={"timeout_seconds": 1e-9})
    keys[50:50] = ["../../hostile.dev"]
    keys[70:70] = pipeline.put("unreadable")
    keys[90:90] = pipeline.put("silent", description="say nothing", quorum=3)
    pipeline.store.write("tasks/unreadable.dev.json", b'{"task_id": "../../etc"}')

    def answer(prompt: Heard) -> Completion:
        if "over-long" in prompt.user:
            return Completion(error=AgentError.OVERLONG, error_message="too long")
        return said("") if "say nothing" in prompt.user and prompt.seat.index == 2 else echo(prompt)

    pipeline.answer = answer
    result = pipeline.run(keys)
    red = {"overlong.dev", "late.dev", "../../hostile.dev", "unreadable.dev", "silent.dev"}
    assert pipeline.partitions("deliberations") == (set(keys) - red, red)
    which = result.failure_data_for_node("deliberations").user_failure_data.metadata["which"].records
    failed = {one.data["deliberation"]: one.data["why"] for one in which}
    reasons = {key.split(".dev")[0]: reason for key, reason in failed.items()}
    assert "overlong: too long" in reasons["overlong"]
    assert "timeout: unfinished after the deliberation's 1e-09 s" in reasons["late"]
    assert "no deliberation id" in reasons["../../hostile"]
    assert "description: add this field" in reasons["unreadable"]
    assert "2 of 3 agents answered, the quorum is 3" in reasons["silent"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_that_no_engine_can_mend_costs_its_own_deliberation(pipeline: Pipeline, damage: str) -> None:
    """The task no longer holds, so that it is not run again, and what it said before is damaged."""
    keys = pipeline.put("t1", "t2", "t3")
    pipeline.run(keys)
    for name in ("t1", "t3"):
        pipeline.store.write(f"tasks/{name}.dev.json", b"{")
    DAMAGES[damage](pipeline.storage / "utterances/t1.dev.parquet")
    (pipeline.storage / "utterances/t3.dev.parquet").write_bytes(b"")
    assert why_broken(pipeline.run(keys)) is None
    rows = pipeline.table("deliberations").set_index("task_id")
    assert rows["status"].to_dict() == {"t1": "failed", "t2": "completed", "t3": "failed"}
    assert "not valid JSON" in rows.loc["t1", "error_message"]


def test_logs_can_be_told_to_hold_no_texts(pipeline: Pipeline, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pipeline.configure(logs={"texts": False})
    pipeline.answer = lambda prompt: said(f"Answer with the marker XYZZY, number {prompt.seed}, %s {{0}} %(name)s.")
    assert pipeline.run(pipeline.put("t1", description="A task with the marker PLUGH, %s %d {} %(x)s.")).success
    printed = "".join(capfd.readouterr())
    logged = b"".join(path.read_bytes() for path in (tmp_path / "dagster_home").rglob("*") if path.is_file())
    for marker in ("XYZZY", "PLUGH"):
        assert marker not in printed
        assert marker.encode() not in logged
    assert pipeline.table("deliberations")["winner_text"].str.contains("XYZZY").all()


def test_only_keys_that_cannot_run_is_a_failed_run_and_no_crash(pipeline: Pipeline) -> None:
    result = pipeline.run(["no-id-at-all"])
    assert why_broken(result) is None
    assert pipeline.starts == 0


def test_a_range_that_changed_since_is_refused_and_not_run_in_part(pipeline: Pipeline) -> None:
    """Run 1 covers a to c. A later run over c and a moves them: a to c is then another range."""
    pipeline.put("a", "b", "c")
    tags = register(pipeline.instance, ["a.dev", "b.dev", "c.dev"])
    register(pipeline.instance, ["a.dev", "c.dev"])
    job = pipeline.definitions.resolve_job_def("deliberate")
    again = job.execute_in_process(instance=pipeline.instance, tags=tags, raise_on_error=False)
    assert "no longer holds the keys this run was made for" in why_broken(again)
    assert pipeline.starts == 0


def test_keys_of_a_run_under_way_are_not_moved(pipeline: Pipeline) -> None:
    pipeline.put("a", "b", "c")
    tags = register(pipeline.instance, ["a.dev", "b.dev", "c.dev"])
    job = pipeline.definitions.resolve_job_def("deliberate")
    run = pipeline.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    with pytest.raises(InvalidInput, match=f"run {run.run_id} is under way"):
        register(pipeline.instance, ["c.dev", "a.dev"])
    register(pipeline.instance, ["a.dev", "b.dev"])  # in place: nothing moves
    register(pipeline.instance, ["d.dev"])
    assert list(pipeline.instance.get_dynamic_partitions(NAME)) == ["a.dev", "b.dev", "c.dev", "d.dev"]


def test_one_key_alone_is_the_same_run(pipeline: Pipeline) -> None:
    (key,) = pipeline.put("t1")
    pipeline.instance.add_dynamic_partitions(NAME, [key])
    result = pipeline.definitions.resolve_job_def("deliberate").execute_in_process(
        instance=pipeline.instance, partition_key=key
    )
    assert result.success
    assert pipeline.partitions("deliberations") == ({key}, set())


def test_keys_that_stand_apart_are_made_a_range_and_lose_nothing(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b", "c", "d")
    pipeline.run(keys)
    chosen = ["d.dev", "b.dev"]
    tags = register(pipeline.instance, chosen)
    assert (tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]) == (
        "d.dev",
        "b.dev",
    )
    assert list(pipeline.instance.get_dynamic_partitions(NAME)) == ["a.dev", "c.dev", "d.dev", "b.dev"]
    assert pipeline.partitions("deliberations") == (set(keys), set())


def test_the_outcome_shows_winner_scores_and_path_where_people_look(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("t1", constraints={"requirements": ["seed"]}))
    (record,) = pipeline.instance.fetch_materializations(dg.AssetKey("deliberations"), limit=1).records
    metadata = record.asset_materialization.metadata
    row = pipeline.table("deliberations").iloc[0]
    assert metadata["winner's proposal"].value == inert(row["winner_text"], 10_000)
    assert metadata["requirements"].value == "1. seed"
    (why,) = (value.value for name, value in metadata.items() if name.startswith("why it "))
    assert f"{row['winner_agent_id']} " in why
    assert "It covers" in why
    assert {record.data["model"] for record in metadata["seats"].records} == {row["model"]}
    assert sum(record.data["tokens generated"] for record in metadata["seats"].records) == row["completion_tokens"]
    assert "round 1" in metadata["what revision changed"].value
    assert row["winner_agent_id"] in metadata["winner"].value
    assert [r.data["rank"] for r in metadata["proposals"].records] == pipeline.table("proposals")["rank"].tolist()
    assert Path(metadata["parquet"].value).exists()


def test_an_agent_that_failed_is_shown_with_its_error_and_what_to_do(pipeline: Pipeline) -> None:
    reason = "the prompt has 9000 tokens; shorten the task"
    overlong = Completion(error=AgentError.OVERLONG, error_message=reason)
    pipeline.answer = lambda prompt: overlong if prompt.seat.index == 1 else echo(prompt)
    pipeline.run(pipeline.put("t1"))
    (record,) = pipeline.instance.fetch_materializations(dg.AssetKey("deliberations"), limit=1).records
    seats = record.asset_materialization.metadata["proposals"].records
    assert [seat.data["error"] for seat in seats] == ["", "", f"overlong: {reason}"]


def test_the_run_says_in_the_event_log_how_far_it_is(pipeline: Pipeline) -> None:
    result = pipeline.run(pipeline.put("t1", "t2"))
    said_in_log = [record.user_message for record in pipeline.instance.all_logs(result.run_id)]
    assert "transcribed, 2 of 2 done" in " | ".join(message or "" for message in said_in_log)


def test_the_compute_log_has_a_line_a_phase_and_one_for_each_deliberation_that_ends(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = put_described(pipeline, "good", "bad")
    pipeline.answer = silent_for("bad")
    pipeline.run(keys)
    lines = [line.split(" ", 1)[1] for line in capfd.readouterr().err.splitlines() if line[2:3] == line[5:6] == ":"]
    (good,) = [line for line in lines if line.startswith("good.dev ")]
    assert re.fullmatch(r"good\.dev completed: after \d+ s, 180 tokens", good)
    assert len([line for line in lines if line.startswith("bad.dev failed: ")]) == 1
    phases = ("reading tasks", "starting the engine", "0 of 2 done", "transcribed, 2 of 2 done, 1 failed")
    assert [sum(line.startswith(phase) for line in lines) for phase in phases] == [1] * 4


def test_production_definitions_refuse_a_synthetic_engine_and_take_any_other(tmp_path: Path) -> None:
    settings, provider = Settings(storage=str(tmp_path)), ScriptedProvider()
    with pytest.raises(SyntheticEngineRefused, match="the engine is synthetic"):
        build_definitions(settings, overrides={"engine": provider})
    provider.synthetic = False
    assert build_definitions(settings, overrides={"engine": provider}).resources["engine"] is provider


def test_wrong_options_of_an_engine_break_the_run_and_fail_no_task(pipeline: Pipeline, monkeypatch) -> None:
    """Else they would be taken for a fault of every task, and a result of before would stand as this run's."""

    def identity(model: str) -> str:
        raise InvalidInput("engine: sampling.temprature: no such field")

    monkeypatch.setattr(pipeline.source, "identity", identity)
    result = pipeline.run(pipeline.put("t1"))
    assert "sampling.temprature: no such field" in (why_broken(result) or "")
    assert pipeline.starts == 0


def test_rows_that_no_model_made_are_shown_as_such_and_those_of_a_model_are_not(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("t1"))
    outcome, *_ = read_rows(pipeline.store, DELIBERATIONS, "t1.dev")
    seats, spoken = (read_rows(pipeline.store, table, "t1.dev") for table in (PROPOSALS, UTTERANCES))
    for engine, is_told in (("synthetic: scripted", True), ("vllm", False), ("another", False)):
        console = Console(record=True, file=io.StringIO(), width=200)
        console.print(deliberation_page(replace(outcome, engine=engine), seats, spoken))
        assert ("not a model" in console.export_text()) is is_told
