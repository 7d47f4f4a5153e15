"""What is generated anew and what stands; what becomes of runs whose process is gone."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pandas as pd
import psutil
import pytest

from fleet_pipeline.common.errors import EngineCrashed, EngineError
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.instance.in_process import execute
from fleet_pipeline.instance.run_processes import fail_orphaned_runs, lineage, this_process
from fleet_pipeline.instance.tags import PROCESS
from fleet_pipeline.models.identity import commit, folder_digest, identity
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.killed_runs import answers_known
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import ScriptedEngine, echo

pytestmark = pytest.mark.instance


def asked_again(pipeline: Pipeline, keys: list[str], resume: str) -> int:
    pipeline.configure(council={"resume": resume})
    pipeline.asked = []
    pipeline.run(keys)
    return len(pipeline.asked)


@pytest.mark.parametrize(("resume", "same", "changed"), [("if-possible", 0, 9), ("always", 0, 0), ("never", 18, 18)])
def test_the_mode_of_resuming_decides_what_is_generated_anew(
    pipeline: Pipeline, resume: str, same: int, changed: int
) -> None:
    keys = pipeline.put("a", "b")
    pipeline.run(keys)
    assert asked_again(pipeline, keys, resume) == same
    pipeline.put("b", description="Something else")
    assert asked_again(pipeline, keys, resume) == changed


@pytest.mark.parametrize("resume", ["if-possible", "always", "never"])
def test_in_every_mode_what_failed_is_run_again(pipeline: Pipeline, resume: str) -> None:
    keys = pipeline.put("a")
    pipeline.answer = lambda _: said("")
    pipeline.run(keys)
    pipeline.answer = echo
    assert asked_again(pipeline, keys, resume) == 9
    assert pipeline.partitions("deliberations") == ({"a.dev"}, set())


def test_under_never_a_run_that_is_tried_again_keeps_what_the_one_before_has_finished(pipeline: Pipeline) -> None:
    keys = pipeline.put(*[f"t{n:02d}" for n in range(12)])
    pipeline.run(keys)
    pipeline.configure(council={"resume": "never"})

    def breaks(prompt: Heard) -> Completion:
        if len(pipeline.asked) > 95:
            raise RuntimeError("the machine is gone")
        return echo(prompt)

    pipeline.asked, pipeline.answer = [], breaks
    broken = pipeline.run(keys)
    assert not broken.success
    said_before = pipeline.table("utterances").query("run_id == @broken.run_id")
    assert 0 < said_before["deliberation_id"].nunique() < 12
    known = answers_known(pipeline, keys, broken.run_id)
    pipeline.asked, pipeline.answer = [], echo
    options = dg.ReexecutionOptions.from_failure(broken.run_id, pipeline.instance)
    pipeline_of_this_test.append(pipeline)
    job = dg.reconstructable(_job_of_this_test)
    tags = pipeline.instance.get_run_by_id(broken.run_id).tags
    again = dg.execute_job(job, pipeline.instance, reexecution_options=options, tags=tags)
    assert again.success
    assert len(pipeline.asked) == 12 * 9 - known


# -- What goes on from what was heard ----------------------------------------------------------


def late_at(phase: Phase) -> Callable[[Heard], Completion]:
    """As an engine answers when a deliberation's time is up in this phase."""
    late = Completion(text="half a", error=AgentError.DEADLINE, error_message="time was up", finish_reason="deadline")
    return lambda prompt: late if prompt.phase is phase else echo(prompt)


def put_with_deadline(pipeline: Pipeline, seconds: float) -> list[str]:
    return pipeline.put("a", constraints={"timeout_seconds": seconds})


def test_a_council_whose_time_was_up_goes_on_when_it_is_given_more_and_only_then(pipeline: Pipeline) -> None:
    keys = put_with_deadline(pipeline, 5)
    pipeline.answer = late_at(Phase.REVISE)
    pipeline.run(keys)
    first = pipeline.table("deliberations").iloc[0]
    assert (first["status"], first["rounds_done"], first["timeout_seconds"]) == ("completed", 0, 5)
    assert (pipeline.table("proposals")["unfinished_text"] == "half a").all()
    pipeline.answer, pipeline.asked = echo, []
    pipeline.run(keys)
    assert pipeline.asked == []  # it would get no further
    put_with_deadline(pipeline, 50)
    pipeline.run(keys)
    assert {prompt.phase for prompt in pipeline.asked} == {Phase.REVISE}
    assert len(pipeline.asked) == 3
    row = pipeline.table("deliberations").iloc[0]
    assert (row["status"], row["rounds_done"], row["attempt"]) == ("completed", 1, 2)
    said = pipeline.table("utterances")
    assert said["error_type"].isna().all()
    assert len(said) == 9


def test_under_fail_a_council_that_keep_had_completed_becomes_a_timeout_and_no_run_loops_over_it(pipeline) -> None:
    keys = put_with_deadline(pipeline, 5)
    pipeline.answer = late_at(Phase.REVISE)
    pipeline.run(keys)
    pipeline.configure(council={"on_timeout": "fail"})
    pipeline.run(keys)
    row = pipeline.table("deliberations").iloc[0]
    assert (row["status"], row["rounds_done"]) == ("timeout", 0)
    assert (pipeline.table("utterances")["error_type"] == "deadline").sum() == 3


def test_under_always_a_council_of_fewer_rounds_than_its_task_has_now_stands_and_says_how_many_it_had(pipeline) -> None:
    keys = pipeline.put("a", rounds=1)
    pipeline.run(keys)
    pipeline.put("a", rounds=3)
    pipeline.configure(council={"resume": "always"})
    pipeline.asked = []
    result = pipeline.run(keys)
    assert pipeline.asked == []
    row = pipeline.table("deliberations").iloc[0]
    assert (row["status"], row["rounds"], row["rounds_done"]) == ("completed", 1, 1)
    assert result.success


def test_of_a_council_that_failed_only_the_seats_that_did_not_answer_are_asked_again(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", quorum=3)
    pipeline.answer = lambda prompt: said("") if prompt.seat.label == "C" else echo(prompt)
    pipeline.run(keys)
    assert pipeline.table("deliberations").iloc[0]["status"] == "failed"
    first = pipeline.table("utterances").query("error_type.isna()").set_index("agent_id")["started_at"]
    pipeline.answer, pipeline.asked = echo, []
    pipeline.run(keys)
    assert [prompt.seat.label for prompt in pipeline.asked if prompt.phase is Phase.PROPOSE] == ["C"]
    assert len(pipeline.asked) == 1 + 3 + 3
    again = pipeline.table("utterances").query("phase == 'propose'").set_index("agent_id")["started_at"]
    assert (again[first.index] == first).all()  # what was recalled says when it was asked for


def test_what_was_heard_of_another_task_under_the_same_id_is_not_used(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", quorum=3)
    pipeline.answer = lambda prompt: said("") if prompt.seat.label == "C" else echo(prompt)
    pipeline.run(keys)
    pipeline.put("a", quorum=3, description="Another task")
    pipeline.answer, pipeline.asked = echo, []
    pipeline.run(keys)
    assert len(pipeline.asked) == 9


def test_of_a_judge_that_was_cut_short_only_what_it_did_not_answer_is_asked_again(judged: Pipeline) -> None:
    keys = judged.put("a")
    answer, verdicts = judged.answer, []

    def breaks_down(prompt: Heard) -> Completion:
        if prompt.phase is Phase.JUDGE:
            verdicts.append(prompt)
            if len(verdicts) == 3:
                return Completion(error=AgentError.ENGINE, error_message="gone for a moment")
        return answer(prompt)

    judged.answer = breaks_down
    judged.run(keys)
    assert judged.table("judgements")["better"].isna().tolist() == [False, False, True, False, False, False]
    judged.answer, judged.asked = answer, []
    judged.run(keys)
    again = [prompt.request.name for prompt in judged.asked]
    assert again[0] == verdicts[2].request.name
    assert len(again) == 1 + 6  # and what is in doubt after the first look
    assert not {one.request.name for one in verdicts if one is not verdicts[2]} & set(again)
    assert judged.table("judgements")["better"].notna().tolist() == [True] * 12
    assert judged.store.names("answers", "") == []


def test_a_run_that_is_stopped_never_takes_the_place_of_a_result_and_shows_what_it_had_said_elsewhere(
    pipeline: Pipeline,
) -> None:
    first = pipeline.put("a")
    pipeline.run(first)
    before = pipeline.table("utterances")
    pipeline.configure(council={"resume": "never"})

    def stopped(prompt: Heard) -> Completion:
        if prompt.phase is Phase.CRITIQUE:
            raise KeyboardInterrupt
        return echo(prompt)

    pipeline.answer = stopped
    keys = [*first, *pipeline.put("b")]
    with suppress(KeyboardInterrupt):
        pipeline.run(keys)
    stands = pipeline.table("utterances").query("task_id == 'a'").reset_index(drop=True)
    pd.testing.assert_frame_equal(stands, before)
    outcome = pipeline.table("deliberations").set_index("task_id").loc["b"]
    assert (outcome["status"], outcome["answered"]) == ("failed", 3)
    assert pd.isna(outcome["winner_agent_id"])
    assert "the run was stopped" in outcome["error_message"]
    shown = pipeline.instance.fetch_observations(dg.AssetKey("deliberations"), limit=5).records
    assert [record.partition_key for record in shown] == ["b.dev"]


pipeline_of_this_test: list[Pipeline] = []


def _job_of_this_test() -> dg.JobDefinition:
    return pipeline_of_this_test[-1].definitions.resolve_job_def("deliberate")


def test_what_failed_and_is_run_again_leaves_its_record_and_the_outcome_counts_the_attempts(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b")
    pipeline.answer = lambda prompt: Completion(error=AgentError.OVERLONG, error_message="too long for this model")
    pipeline.run(keys)
    pipeline.answer = lambda prompt: said("") if prompt.seat.index else echo(prompt)
    pipeline.run(keys)
    pipeline.answer = echo
    pipeline.run(keys)
    kept = pd.read_parquet(pipeline.storage / "attempts")
    assert list(kept.columns) == list(pipeline.table("utterances").columns)
    assert sorted(path.name for path in (pipeline.storage / "attempts").iterdir()) == [
        "a.dev.001.parquet", "a.dev.002.parquet", "b.dev.001.parquet", "b.dev.002.parquet"
    ]  # fmt: skip
    assert kept.query("deliberation_id == 'a.dev'")["error_type"].value_counts().to_dict() == {
        "overlong": 3,
        "empty": 4,
    }
    assert pipeline.table("deliberations")["attempt"].tolist() == [3, 3]
    assert set(pipeline.table("deliberations")["status"]) == {"completed"}


def test_a_model_that_has_gone_does_not_take_with_it_what_was_said(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", model="other")
    pipeline.run(keys)
    before = pipeline.table("utterances")["text"].tolist()
    pipeline.put("a", model="other", description="Another task")
    pipeline.unavailable = {"other"}
    pipeline.run(keys)
    assert pipeline.table("deliberations").iloc[0]["status"] == "failed"
    assert pd.read_parquet(pipeline.storage / "attempts")["text"].tolist() == before


def test_an_engine_that_dies_is_started_again_in_the_same_run_and_the_record_says_so(pipeline: Pipeline) -> None:
    keys = pipeline.put(*[f"t{n}" for n in range(6)], *["poison"], description="d")
    pipeline.put("poison", description="This one kills.")

    def answer(prompt: Heard) -> Completion:
        if "This one kills." in prompt.user:
            raise EngineCrashed("CUDA error: an illegal memory access was encountered")
        return echo(prompt)

    pipeline.answer = answer
    result = pipeline.run(keys)
    assert pipeline.partitions("deliberations") == ({f"t{n}.dev" for n in range(6)}, {"poison.dev"})
    row = pipeline.table("deliberations").set_index("task_id").loc["poison"]
    assert "the engine died 3 times while this was under way, the last time alone: CUDA error" in row["error_message"]
    assert set(pipeline.table("utterances").query("task_id == 'poison'")["error_type"]) == {"fatal"}
    [told] = result.asset_observations_for_node("transcripts")[-1:]
    of_the_run = {record.data["of this run"]: record.data[""] for record in told.metadata["run"].records}
    assert "illegal memory access" in of_the_run["engine crashes"]
    assert of_the_run["engine starts"] == "3"  # it was the last one open: after its end nothing needed an engine


def test_an_engine_that_cannot_be_started_again_leaves_what_finished_as_it_is(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = pipeline.put(*[f"t{n}" for n in range(14)], model="other")

    def dies(prompt: Heard) -> Completion:
        if pipeline.store.names("utterances", ".parquet"):
            raise EngineCrashed("gone")
        return echo(prompt)

    def gone(self: ScriptedEngine, reason: str) -> None:
        raise EngineError(f"{reason}, and the model as well")

    pipeline.answer = dies
    with monkeypatch.context() as patch:
        patch.setattr(ScriptedEngine, "restart", gone)
        pipeline.run(keys)
    statuses = pipeline.table("deliberations").set_index("task_id")["status"]
    assert 0 < (statuses == "completed").sum() < 14
    assert set(pipeline.table("deliberations")["attempt"].dropna()) == {1}
    assert not (pipeline.storage / "attempts").exists()


def test_a_model_of_one_task_that_cannot_start_costs_its_own_deliberations(pipeline: Pipeline, monkeypatch) -> None:
    keys = [*pipeline.put("a"), *pipeline.put("b", model="too-big"), *pipeline.put("c", model="x" * 400)]
    start = pipeline.source.start

    def starts(model: str) -> ScriptedEngine:
        if model != "scripted":
            raise EngineError("CUDA out of memory")
        return start(model)

    monkeypatch.setattr(pipeline.source, "start", starts)
    pipeline.run(keys)
    assert pipeline.partitions("deliberations") == ({"a.dev"}, {"b.dev", "c.dev"})
    assert identity("x" * 400, None) == ""


def test_of_two_runs_the_one_that_failed_does_not_take_the_place_of_the_one_that_completed(pipeline: Pipeline) -> None:
    keys = pipeline.put("a")
    pipeline.run(keys)
    before = pipeline.table("utterances")
    pipeline.configure(council={"resume": "never"})
    pipeline.answer = lambda _: said("")
    pipeline.run(keys)
    pd.testing.assert_frame_equal(pipeline.table("utterances"), before)
    assert pipeline.partitions("deliberations") == ({"a.dev"}, set())


def test_a_damaged_transcript_is_kept_beside_the_attempts_before_it_is_replaced(pipeline: Pipeline) -> None:
    keys = pipeline.put("a")
    pipeline.run(keys)
    pipeline.store.write("utterances/a.dev.parquet", b"PAR1 of another version")
    pipeline.run(keys)
    assert (pipeline.storage / "attempts/a.dev.001.damaged").read_bytes() == b"PAR1 of another version"
    assert pipeline.table("deliberations")["attempt"].tolist() == [2]
    pipeline.store.write("utterances/a.dev.parquet", b"PAR1 damaged once more")
    pipeline.run(keys)
    assert (pipeline.storage / "attempts/a.dev.001.damaged").read_bytes() == b"PAR1 of another version"
    assert (pipeline.storage / "attempts/a.dev.002.damaged").read_bytes() == b"PAR1 damaged once more"
    assert pipeline.table("deliberations")["attempt"].tolist() == [3]


# -- What a model's name stands for ------------------------------------------------------------


def test_other_weights_under_the_same_name_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(os.urandom(1_000_000))
    digest = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == digest
    (tmp_path / "README.md").write_text("What it is for.")
    assert folder_digest(tmp_path) == digest
    shutil.copytree(tmp_path, tmp_path.parent / "copied")
    assert folder_digest(tmp_path.parent / "copied") == digest  # a copy, later, elsewhere
    content = bytearray(weights.read_bytes())
    content[500_000] ^= 1
    weights.write_bytes(content)
    assert folder_digest(tmp_path) != digest


def test_weights_too_large_to_be_read_whole_are_told_apart_by_samples(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fleet_pipeline.models.identity._WHOLE", 1_000)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(10_000_000))
    digests = {folder_digest(tmp_path)}
    weights.write_bytes(os.urandom(10_000_000))
    digests.add(folder_digest(tmp_path))
    weights.write_bytes(weights.read_bytes()[:-1])
    digests.add(folder_digest(tmp_path))
    assert len(digests) == 3


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--acme--council"
    (repository / "snapshots" / sha).mkdir(parents=True)
    (repository / "snapshots" / sha / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(sha)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert commit("acme/council", None) == sha
    assert commit("acme/council", "main") == sha
    assert commit("acme/council", "v2") is None
    assert commit("acme/other", None) is None
    assert commit("acme/council", sha[::-1]) == sha[::-1]
    assert commit("not a name at all", None) is None


def test_changed_weights_in_the_same_folder_are_spoken_with_anew(pipeline: Pipeline, monkeypatch) -> None:
    keys = pipeline.put("a")
    pipeline.run(keys)
    monkeypatch.setattr(pipeline.source, "identity", lambda model: f"other weights of {model}")
    pipeline.asked = []
    pipeline.run(keys)
    pipeline.run(keys)
    assert len(pipeline.asked) == 9


# -- Runs whose process is gone ----------------------------------------------------------------


def started(pipeline: Pipeline, tag: Callable[[str], str], status: str = "STARTED") -> str:
    job = pipeline.definitions.resolve_job_def("deliberate")
    run = pipeline.instance.create_run_for_job(job, status=dg.DagsterRunStatus(status))
    pipeline.instance.add_run_tags(run.run_id, {PROCESS: tag(run.run_id)})
    return run.run_id


def test_a_run_whose_process_is_gone_is_ended_and_others_are_not(pipeline: Pipeline) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname()
    here = f"{host} {Path('/proc/self/ns/pid').readlink()}"
    dead = started(pipeline, lambda run_id: f"{run_id} {here} {gone.pid} 1700000000")
    number_taken_by_another = started(pipeline, lambda run_id: f"{run_id} {here} {os.getpid()} 1700000000")
    alive = started(pipeline, this_process)
    elsewhere = started(pipeline, lambda run_id: f"{run_id} another-machine {here.split(' ')[1]} {gone.pid} 1700000000")
    in_another_container = started(pipeline, lambda run_id: f"{run_id} {host} pid:[1] {gone.pid} 1700000000")
    unreadable = started(pipeline, lambda run_id: f"{run_id} nonsense")
    tried_again = started(pipeline, lambda run_id: f"the-run-before {here} {gone.pid} 1700000000")
    untold = started(pipeline, lambda run_id: "")
    cancelling = started(pipeline, lambda run_id: f"{run_id} {here} {gone.pid} 1700000000", "CANCELING")
    assert set(fail_orphaned_runs(pipeline.instance)) == {dead, number_taken_by_another, cancelling}
    statuses = {run.run_id: run.status.value for run in pipeline.instance.get_runs()}
    assert (statuses[dead], statuses[number_taken_by_another], statuses[cancelling]) == (
        "FAILURE",
        "FAILURE",
        "CANCELED",
    )
    assert {
        statuses[run_id] for run_id in (alive, elsewhere, in_another_container, unreadable, tried_again, untold)
    } == {"STARTED"}
    assert fail_orphaned_runs(pipeline.instance) == []


def test_every_run_says_which_process_executes_it_and_goes_on_with_all_steps(pipeline: Pipeline) -> None:
    """What passes between scoring ops goes with its process: "from failure" could not start."""
    result = pipeline.run(pipeline.put("a"))
    run = pipeline.instance.get_run_by_id(result.run_id)
    assert run.tags[PROCESS] == this_process(run.run_id)
    assert run.tags["dagster/retry_strategy"] == "ALL_STEPS"


def test_a_run_that_goes_on_from_one_whose_record_is_gone_does_so(pipeline: Pipeline) -> None:
    first = pipeline.run(pipeline.put("a"))
    job = pipeline.definitions.resolve_job_def("deliberate")
    tags = {key: value for key, value in pipeline.instance.get_run_by_id(first.run_id).tags.items() if "range" in key}
    second = pipeline.instance.create_run_for_job(job, tags=tags, root_run_id=first.run_id, parent_run_id=first.run_id)
    pipeline.instance.delete_run(first.run_id)
    assert lineage(pipeline.instance, second) == [first.run_id, first.run_id]
    assert execute(job, second, pipeline.instance) is None


def test_a_place_in_the_pool_that_an_ended_run_holds_is_given_back_and_no_other(pipeline: Pipeline) -> None:
    slots = pipeline.instance.event_log_storage
    slots.set_concurrency_slots("gpu", 2)
    ended = pipeline.run(pipeline.put("t1")).run_id
    assert slots.get_concurrency_info("gpu").active_slot_count == 0
    under_way = pipeline.instance.create_run_for_job(pipeline.definitions.resolve_job_def("deliberate")).run_id
    for run_id in (ended, under_way):
        slots.claim_concurrency_slot("gpu", run_id, "transcripts")
    fail_orphaned_runs(pipeline.instance)
    assert slots.get_concurrency_info("gpu").active_run_ids == {under_way}


def test_a_place_in_the_pool_is_kept_while_the_process_of_a_run_that_was_ended_by_force_still_ends(pipeline) -> None:
    slots = pipeline.instance.event_log_storage
    slots.set_concurrency_slots("gpu", 1)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        here = f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
        began = psutil.Process(process.pid).create_time()
        ended = started(pipeline, lambda run_id: f"{run_id} {here} {process.pid} {began:.0f}", "CANCELED")
        slots.claim_concurrency_slot("gpu", ended, "transcripts")
        fail_orphaned_runs(pipeline.instance)
        assert slots.get_concurrency_info("gpu").active_run_ids == {ended}
        process.kill()
    fail_orphaned_runs(pipeline.instance)
    assert slots.get_concurrency_info("gpu").active_slot_count == 0
