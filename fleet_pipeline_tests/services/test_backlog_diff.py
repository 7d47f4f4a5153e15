"""Asking from the launchpad and by the clock: what is typed in, a backlog, what failed."""

import json
import os
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.defs.sensors import inbox
from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.services.backlog_diff import put_in_inbox
from fleet_pipeline.settings import Settings, load_settings
from fleet_pipeline.storage.task_store import specs
from fleet_pipeline_tests.support.councils import a_task
from fleet_pipeline_tests.support.intakes import Intakes, line
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import echo

pytestmark = [pytest.mark.instance, pytest.mark.broker]


class Asking(Intakes):
    """The jobs that ask, the schedule, and the inbox behind them."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        super().__init__(pipeline, "nats://127.0.0.1:1")
        self.folder = folder
        folder.mkdir()
        self.bulk = {"backlog": str(folder)}
        pipeline.configure(bulk=self.bulk)

    def write(self, name: str, *lines: Any) -> None:
        (self.folder / name).write_text(
            "".join((one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)) + "\n" for one in lines)
        )

    def ask(self, job: str, **config: Any) -> dg.ExecuteInProcessResult:
        found = self.pipeline.definitions.resolve_job_def(job)
        (op,) = (node.name for node in found.nodes)
        given = {"ops": {op: {"config": config}}} if config else {}
        return found.execute_in_process(run_config=given, instance=self.pipeline.instance, raise_on_error=False)

    def scheduled(self) -> Any:
        schedule = self.pipeline.definitions.resolve_schedule_def("bulk")
        resources = {
            name: self.pipeline.definitions.resources[name]
            for name in ("bulk", "council", "storage", "request_options", "backlog_options")
        }
        # Closed at once. A context that is left to the garbage collector sets Dagster's current storage back to one
        # whose instance is gone, and the next definitions fail to load.
        with dg.build_schedule_context(self.pipeline.instance, resources=resources) as context:
            return schedule.evaluate_tick(context)

    def run_what_was_asked(self) -> list[str]:
        """Let the sensor take the inbox, run what it asks for; returns the keys that ran."""
        for file in (self.pipeline.storage / "inbox").glob("*.jsonl"):
            os.utime(file, (time.time() - 60, time.time() - 60))
        before = self.judged()
        tick = self.tick(inbox)
        if tick.run_requests:
            self.launch(tick)
        after = self.judged()
        return sorted(key for key, run in after.items() if before.get(key) != run)

    def judged(self) -> dict[str, str]:
        if not (self.pipeline.storage / "deliberations").is_dir():
            return {}
        rows = self.pipeline.table("deliberations")
        return dict(zip(rows["deliberation_id"], rows["run_id"], strict=True))

    def night(self) -> tuple[str, list[str]]:
        """One night: (what the tick said, the deliberations that ran)."""
        tick = self.scheduled()
        if not tick.run_requests:
            return tick.skip_message, []
        (request,) = tick.run_requests
        assert self.ask("ask_backlog").success
        return request.tags["fleet/found"], self.run_what_was_asked()


@pytest.fixture
def asking(pipeline: Pipeline, tmp_path: Path) -> Asking:
    return Asking(pipeline, tmp_path / "backlogs")


def test_in_three_nights_on_a_changing_backlog_exactly_the_new_and_changed_run(asking: Asking) -> None:
    asking.write("a.jsonl", line("t1"), line("t2", roles=["DEV", "QA"]), "no JSON")
    said, ran = asking.night()
    assert ran == ["t1.dev", "t2.dev", "t2.qa"]
    assert "1 file: 3 new deliberations, 0 changed, 0 as before; 1 refused" in said
    assert "a.jsonl line 3" in said

    assert asking.night()[1] == []
    asking.write("a.jsonl", line("t1", description="Another task now"), line("t2", roles=["DEV", "QA", "DATA"]))
    asking.write("b.jsonl", line("t3"), line("t1"))
    said, ran = asking.night()
    assert ran == ["t1.dev", "t2.data", "t3.dev"]
    assert "2 files: 2 new deliberations, 1 changed, 2 as before; 1 refused" in said
    assert "'t1' is in" in said

    said, ran = asking.night()
    assert ran == []
    assert said.startswith(f"{asking.folder}: 2 files: 0 new deliberations, 0 changed, 5 as before")


def test_a_tick_only_looks(asking: Asking) -> None:
    """Ticks are tried out in the UI, which starts nothing."""
    asking.write("a.jsonl", line("t1"))
    assert asking.scheduled().run_requests
    assert not asking.pipeline.storage.exists() or not list(asking.pipeline.storage.rglob("*.json*"))
    assert asking.partitions == []


def test_asking_twice_before_it_is_taken_runs_once(asking: Asking) -> None:
    asking.write("a.jsonl", line("t1"), line("t2"))
    assert asking.ask("ask_backlog").success
    assert asking.ask("ask_backlog").success
    assert asking.run_what_was_asked() == ["t1.dev", "t2.dev"]
    assert len(asking.pipeline.asked) == 2 * 9
    assert asking.run_what_was_asked() == []


def test_a_file_a_folder_and_a_glob_are_read_and_a_bad_file_costs_its_neighbours_nothing(asking: Asking) -> None:
    asking.write("a.jsonl", line("t1"))
    asking.write("b.csv", "task_id,description", "t2,Describe it")
    asking.write("notes.txt", "not a backlog")
    (asking.folder / "c.parquet").write_bytes(b"torn")
    for backlog, found in ((asking.folder / "a.jsonl", 1), (asking.folder, 2), (asking.folder / "*.csv", 1)):
        asking.pipeline.configure(bulk={"backlog": str(backlog)})
        said = asking.scheduled().run_requests[0].tags["fleet/found"]
        assert f"{found} new" in said
        assert ("c.parquet line 0: (whole file)" in said) == (backlog == asking.folder)


def test_what_waits_for_a_run_under_way_is_not_asked_for_at_every_tick(asking: Asking) -> None:
    asking.write("a.jsonl", line("t1"))
    asking.night()
    job = asking.pipeline.definitions.resolve_job_def("deliberate")
    busy = asking.pipeline.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "t1.dev"}
    )
    asking.write("a.jsonl", line("t1", description="Another task now"))
    assert "1 changed" in asking.night()[0]
    for _ in range(2):
        assert "0 changed, 1 as before" in asking.night()[0]
    assert len(list((asking.pipeline.storage / "pending").glob("*.json"))) == 1
    asking.pipeline.instance.report_run_failed(busy)
    assert asking.run_what_was_asked() == ["t1.dev"]


def test_names_in_any_case_and_in_any_script_are_asked_for_as_they_are(asking: Asking) -> None:
    long = "\u6f22" * 99_000
    asking.write("a.jsonl", line("t1", description=long, context="\u5b57" * 400_000))
    assert asking.ask("ask_backlog").success
    assert asking.run_what_was_asked() == ["t1.dev"]
    asking.pipeline.put("job")
    asking.pipeline.put("Job")
    assert asking.ask("ask_again").success
    assert asking.run_what_was_asked() == ["Job.dev", "job.dev"]


def test_a_task_longer_than_a_line_may_be_is_told_and_not_asked_for(asking: Asking) -> None:
    (task,) = [one.task for one in specs(a_task("long", context="\u5b57" * 500_000, description="\u6f22" * 100_000))]
    with pytest.raises(InvalidInput, match=r"long: has more than 2,000,000 bytes"):
        put_in_inbox(asking.pipeline.store, "x", [task.model_copy(update={"context": "\u5b57" * 700_000})])


def test_an_id_that_is_there_already_is_not_replaced_from_the_launchpad(asking: Asking) -> None:
    asking.pipeline.put("t1")
    failed = asking.ask("ask", description="Another task", task_id="t1")
    assert "t1.dev has been asked for already" in failed.all_node_events[-1].step_failure_data.error.message
    assert asking.run_what_was_asked() == []


def test_what_cannot_be_read_is_run_again_and_a_foreign_file_is_no_deliberation(asking: Asking) -> None:
    asking.pipeline.run(asking.pipeline.put("bad", description="d"))
    (asking.pipeline.storage / "deliberations/summary.parquet").write_bytes(b"foreign")
    asking.pipeline.instance.delete_dynamic_partition("deliberations", "bad.dev")
    (asking.pipeline.storage / "deliberations/bad.dev.parquet").write_bytes(b"PAR1 torn")
    assert asking.ask("ask_again").success
    (asked,) = (asking.pipeline.storage / "inbox").glob("again-*.jsonl")
    assert [json.loads(one)["task_id"] for one in asked.read_text().splitlines()] == ["bad"]


@pytest.mark.parametrize("place", ["s3://key:secret@bucket/x.jsonl", "https://host/x.jsonl?X-Amz-Signature=abc"])
def test_a_backlog_whose_url_holds_a_secret_is_refused_and_the_secret_stays_untold(asking: Asking, place: str) -> None:
    failed = asking.ask("ask_backlog", backlog=place)
    message = failed.all_node_events[-1].step_failure_data.error.message
    assert "config: backlog: holds" in message
    assert "secret" not in message
    assert "abc" not in message
    with pytest.raises(InvalidInput, match=r"bulk.backlog: holds"):
        load_settings({"bulk": {"backlog": place}})


def test_names_that_look_like_globs_are_names_where_there_are_such_files(asking: Asking) -> None:
    asking.write("t[1].jsonl", line("t1"))
    folder = asking.folder / "f[2026]"
    folder.mkdir()
    (folder / "b.jsonl").write_text(json.dumps(line("t2")) + "\n")
    for place in (asking.folder / "t[1].jsonl", folder):
        asking.pipeline.configure(bulk={"backlog": str(place)})
        assert "1 new" in asking.scheduled().run_requests[0].tags["fleet/found"]


@pytest.mark.parametrize("place", ["nowhere", "nowhere/*.jsonl", "s3://"])
def test_a_backlog_that_is_not_there_is_a_tick_that_says_so(asking: Asking, place: str) -> None:
    place = place if "://" in place else str(asking.folder / place)
    asking.pipeline.configure(bulk={"backlog": place})
    assert place in asking.scheduled().skip_message


def test_without_a_backlog_the_schedule_says_how_to_name_one(asking: Asking) -> None:
    asking.pipeline.configure()
    assert "bulk.backlog in fleet.toml" in asking.scheduled().skip_message
    failed = asking.ask("ask_backlog")
    assert "name a file, a folder or a glob" in failed.all_node_events[-1].step_failure_data.error.message


def test_a_typed_in_task_is_run_for_each_of_its_roles(asking: Asking) -> None:
    result = asking.ask("ask", description="Where should we cache?", roles=["dev", "QA"], rubric=["cost"], rounds=0)
    assert result.success
    ran = asking.run_what_was_asked()
    assert [key.rpartition(".")[2] for key in ran] == ["dev", "qa"]
    assert ran[0].startswith("where-should-we-cache-")
    told = next(event for event in result.all_node_events if event.is_successful_output).step_output_data.metadata
    assert [f"(/assets/deliberations?view=partitions&partition={key})" in told["deliberations"].value for key in ran] == [
        True, True
    ]  # fmt: skip
    assert any("C1. cost" in prompt.user for prompt in asking.pipeline.asked)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"description": "d", "num_agents": 65}, "num_agents"),
        ({"description": "d", "roles": ["BUTLER"]}, "unknown role 'BUTLER'"),
        ({"description": " ", "task_id": "t"}, "description"),
        ({"description": "d", "task_id": "../x"}, "task_id"),
        ({"description": "d", "timeout_seconds": 0.0}, "timeout_seconds"),
    ],
)
def test_what_is_wrong_with_a_typed_in_task_is_told_with_its_field(asking: Asking, config: dict, said: str) -> None:
    failed = asking.ask("ask", **config)
    assert not failed.success
    message = failed.all_node_events[-1].step_failure_data.error.message
    assert said in message
    assert "ops > ask_for_task > config" in message
    assert asking.run_what_was_asked() == []


def test_the_launchpad_knows_which_field_is_absent_or_of_another_type(asking: Asking) -> None:
    job = asking.pipeline.definitions.resolve_job_def("ask")
    for config, field in (({}, "description"), ({"description": "d", "num_agents": "three"}, "num_agents")):
        with pytest.raises(dg.DagsterInvalidConfigError, match=field):
            job.execute_in_process(run_config={"ops": {"ask_for_task": {"config": config}}})


def test_one_action_runs_again_what_failed_or_never_ran_and_nothing_else(asking: Asking) -> None:
    pipeline = asking.pipeline
    broken = Completion(error=AgentError.ENGINE, error_message="it broke")
    pipeline.answer = lambda prompt: broken if "fails" in prompt.user else echo(prompt)
    keys = pipeline.put("good") + pipeline.put("bad", description="This fails")
    pipeline.run(keys)
    pipeline.put("never")
    pipeline.answer = echo
    asked = asking.ask("ask_again")
    assert asked.success
    assert asking.run_what_was_asked() == ["bad.dev", "never.dev"]
    assert pipeline.partitions("deliberations") == ({"good.dev", "bad.dev", "never.dev"}, set())
    assert asking.ask("ask_again").success
    assert asking.run_what_was_asked() == []


def test_what_failed_is_asked_for_again_with_what_would_help_and_a_deadline_that_cannot_hold_is_told(
    asking: Asking,
) -> None:
    pipeline = asking.pipeline
    pipeline.configure(bulk=asking.bulk, council={"on_timeout": "fail"})
    pipeline.run(pipeline.put("late", constraints={"timeout_seconds": 1e-9}) + pipeline.put("good"))
    assert pipeline.partitions("deliberations") == ({"good.dev"}, {"late.dev"})
    same = asking.ask("ask_again")
    said = " ".join(event.user_message for event in pipeline.instance.all_logs(same.run_id) if event.level == 30)
    assert "1 of them ran out of time, such as late.dev, and get the same deadline again" in said
    (file,) = (pipeline.storage / "inbox").glob("again-*.jsonl")
    assert json.loads(file.read_text())["constraints"]["timeout_seconds"] == 1e-9
    file.unlink()
    assert asking.ask("ask_again", timeout_seconds=600.0).success
    assert asking.run_what_was_asked() == ["late.dev"]
    assert pipeline.partitions("deliberations") == ({"good.dev", "late.dev"}, set())
    assert pipeline.tasks.get("late.dev")[0].constraints.timeout_seconds == 600.0
    assert asking.ask("ask_again", rerun=["good.dev"], max_tokens=77).success
    assert asking.run_what_was_asked() == ["good.dev"]
    assert pipeline.tasks.get("good.dev")[0].sampling.max_tokens == 77


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"rerun": ["good.dev"]}, "rerun: with the same model and max_tokens they are done already"),
        ({"rerun": ["../x", "none.dev"], "model": "m"}, "rerun: no deliberation '../x', 'none.dev'"),
        ({"timeout_seconds": -1.0}, "timeout_seconds"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_cannot_be_asked_for_again_so_is_told_with_its_field(asking: Asking, config: dict, told: str) -> None:
    asking.pipeline.put("never")
    failed = asking.ask("ask_again", **config)
    message = failed.all_node_events[-1].step_failure_data.error.message
    assert f"ops > ask_for_undone > config: {told}" in message or ("ask_for_undone" in message and told in message)
    assert asking.run_what_was_asked() == []


def test_roles_of_one_task_that_differ_are_asked_for_again_as_they_are(asking: Asking) -> None:
    pipeline = asking.pipeline
    pipeline.put("t1", roles=["DEV"], description="One thing")
    pipeline.put("t1", roles=["QA"], description="Another thing")
    assert asking.ask("ask_again").success
    assert asking.run_what_was_asked() == ["t1.dev", "t1.qa"]
    rows = pipeline.table("deliberations").set_index("deliberation_id")["description"]
    assert rows.to_dict() == {"t1.dev": "One thing", "t1.qa": "Another thing"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bulk": {"cron": "every night"}}, "bulk.cron: 'every night' is no cron expression"),
        ({"retention": {"cron": "61 * * * *"}}, "retention.cron"),
    ],
)
def test_a_time_that_is_none_is_told_with_its_setting(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(InvalidInput, match=said.replace("'", ".")):
        build_definitions(Settings(storage=str(tmp_path), **settings))


def test_an_unknown_time_zone_is_told_with_its_setting() -> None:
    with pytest.raises(InvalidInput, match=r"bulk.timezone.*no time zone"):
        load_settings({"bulk": {"timezone": "Mars/Olympus"}})
