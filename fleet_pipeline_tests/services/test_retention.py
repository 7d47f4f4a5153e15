"""What is old goes, whole; what is unfinished stays; what was cut short is ended by the next."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.instance.event_log import read_outcomes
from fleet_pipeline.instance.partitions import NAME
from fleet_pipeline.services.retention import Old, Removed, find_old, remove
from fleet_pipeline.services.tool_calls import store_calls
from fleet_pipeline.settings import RetentionSettings, Settings
from fleet_pipeline.storage.pending import new_batch, put_batch
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import specs
from fleet_pipeline.tools.audit import Audit
from fleet_pipeline_tests.support.councils import a_task, said
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = pytest.mark.instance

MONTH = RetentionSettings(max_age_days=30)


def age(pipeline: Pipeline, *keys: str, days: float) -> None:
    """Make deliberations look as old as that: every file of theirs."""
    then = time.time() - days * 86_400
    for key in keys:
        for path in pipeline.storage.rglob(f"{key}.*"):
            os.utime(path, (then, then))


def inbox(pipeline: Pipeline) -> Store:
    return Store(str(pipeline.storage / "inbox"))


def old(pipeline: Pipeline, keep: RetentionSettings = MONTH, now: datetime | None = None) -> Old:
    return find_old(pipeline.instance, pipeline.tasks, inbox(pipeline), keep, NatsOptions(), now)


def prune(pipeline: Pipeline, found: Old) -> Removed:
    return remove(pipeline.instance, pipeline.tasks, inbox(pipeline), found)


def remains(pipeline: Pipeline, key: str) -> list[Path]:
    return [path for path in pipeline.storage.rglob("*") if path.is_file() and path.name.startswith(f"{key}.")]


def test_what_is_older_goes_with_all_its_files_and_its_partition_and_the_rest_stays(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b", "c", "a.b")
    pipeline.answer = lambda _: said("")
    pipeline.run(keys)
    pipeline.answer = Pipeline(pipeline.instance, pipeline.storage).answer
    pipeline.run(keys)
    assert remains(pipeline, "a.dev")
    age(pipeline, "a.dev", "c.dev", days=31)
    found = old(pipeline)
    assert list(found.deliberations) == ["a.dev", "c.dev"]
    prune(pipeline, found)
    assert [remains(pipeline, key) for key in ("a.dev", "c.dev")] == [[], []]
    assert len(remains(pipeline, "a.b.dev")) == len(remains(pipeline, "b.dev")) == 7
    assert list(pipeline.instance.get_dynamic_partitions(NAME)) == ["b.dev", "a.b.dev"]
    assert pipeline.partitions("deliberations") == ({"b.dev", "a.b.dev"}, set())
    assert old(pipeline).deliberations == {}
    pipeline.put("a")
    assert pipeline.run(["a.dev"]).success  # the same id again is a new deliberation


def test_calls_of_tools_go_with_the_results_of_their_time(pipeline: Pipeline, tmp_path: Path) -> None:
    def call() -> str:
        audit = Audit(tmp_path / "audit")
        audit.end(audit.begin("w", "files", "read_file", {}, read_only=True, sandbox="none"), "ok", "", 1, 0.1)
        audit.close()
        assert store_calls(pipeline.store, tmp_path / "audit") == 1
        return audit.path.stem

    early, late = call(), call()
    age(pipeline, early, days=31)
    assert old(pipeline, RetentionSettings(max_count=1)).files == ()  # nothing is kept that they could be older than
    prune(pipeline, old(pipeline))
    assert [remains(pipeline, key) for key in (early, late)] == [
        [],
        [pipeline.storage / f"tool_calls/{late}.audit.parquet"],
    ]
    keys = pipeline.put("a")
    pipeline.run(keys)
    age(pipeline, late, days=1)
    assert len(old(pipeline, RetentionSettings(max_count=1)).files) == 1


def test_beyond_a_count_the_oldest_go(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b", "c", "d")
    pipeline.run(keys)
    for days, key in enumerate(["c.dev", "a.dev", "d.dev", "b.dev"]):
        age(pipeline, key, days=days)
    assert list(old(pipeline, RetentionSettings(max_count=2)).deliberations) == ["b.dev", "d.dev"]
    assert list(old(pipeline, RetentionSettings(max_count=4)).deliberations) == []
    assert list(old(pipeline, RetentionSettings(max_count=3, max_age_days=1.5)).deliberations) == ["b.dev", "d.dev"]


def test_what_is_asked_for_again_or_under_way_stays(pipeline: Pipeline) -> None:
    keys = pipeline.put("asked", "running", "done")
    pipeline.run(keys)
    age(pipeline, *keys, days=400)
    put_batch(pipeline.store, new_batch("requests", specs(a_task("asked")), True, datetime.now(UTC)))
    job = pipeline.definitions.resolve_job_def("deliberate")
    tags = {"dagster/partition": "running.dev"}
    run = pipeline.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    pipeline.put("never-run")
    found = old(pipeline)
    assert list(found.deliberations) == ["done.dev"]
    assert set(found.unfinished) == {"asked.dev", "running.dev"}
    prune(pipeline, Old(dict.fromkeys(keys, datetime.now(UTC)), (), ()))  # asked for after they were found
    assert remains(pipeline, "asked.dev")
    assert remains(pipeline, "running.dev")
    assert remains(pipeline, "never-run.dev")
    assert pipeline.instance.get_run_by_id(run.run_id)


def test_run_records_go_when_they_made_nothing_that_is_kept(pipeline: Pipeline) -> None:
    first = pipeline.run(pipeline.put("a")).run_id
    second = pipeline.run(pipeline.put("b")).run_id
    foreign = prune_of_others.execute_in_process(instance=pipeline.instance).run_id
    in_forty_days = datetime.now(UTC) + timedelta(days=40)
    assert set(old(pipeline, now=in_forty_days).runs) == {first, second}
    age(pipeline, "b.dev", days=-39)  # an outcome written anew keeps itself, and no run before it
    found = old(pipeline, now=in_forty_days)
    assert (list(found.deliberations), set(found.runs)) == (["a.dev"], {first, second})
    age(pipeline, "b.dev", days=0.5)
    assert old(pipeline, RetentionSettings(max_count=1)).runs == ()  # both ended after what is kept was written
    prune(pipeline, found)
    assert {run.run_id for run in pipeline.instance.get_runs()} == {foreign}


@dg.op
def nothing() -> None: ...


@dg.job(name="prune")
def prune_of_others() -> None:
    nothing()


def test_a_removal_that_is_cut_short_is_ended_by_the_next(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = pipeline.put("a", "b")
    pipeline.run(keys)
    age(pipeline, *keys, days=31)
    real, calls = Store.delete, 0

    def dies(self: Store, path: str) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        real(self, path)

    for at in (1, 3, 6, 7, 8):  # noqa: B007 - read by `dies`
        calls = 0
        monkeypatch.setattr(Store, "delete", dies)
        with pytest.raises(KeyboardInterrupt):
            prune(pipeline, old(pipeline))
        monkeypatch.undo()
    prune(pipeline, old(pipeline))
    assert [remains(pipeline, key) for key in keys] == [[], []]
    assert list(pipeline.instance.get_dynamic_partitions(NAME)) == []


def test_what_was_said_or_asked_for_after_the_outcome_is_unfinished(pipeline: Pipeline) -> None:
    """The run that was to judge it broke, and nothing is queued."""
    keys = pipeline.put("said", "asked", "old")
    pipeline.run(keys)
    age(pipeline, *keys, days=31)
    (pipeline.storage / "utterances/said.dev.parquet").touch()
    pipeline.put("asked")
    found = old(pipeline, RetentionSettings(max_count=1, max_age_days=30))
    assert list(found.deliberations) == ["old.dev"]


def test_what_is_run_or_asked_for_again_while_others_are_removed_is_spared(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b", "c", "d")
    pipeline.run(keys)
    age(pipeline, *keys, days=31)
    found = old(pipeline)
    pipeline.run(["b.dev"])
    first = iter([True])

    def meanwhile(_: int) -> None:
        if next(first, False):
            put_batch(pipeline.store, new_batch("requests", specs(a_task("c")), True, datetime.now(UTC)))

    done = remove(pipeline.instance, pipeline.tasks, inbox(pipeline), found, meanwhile)
    assert (done.deliberations, sorted(done.spared)) == (["a.dev", "d.dev"], ["b.dev", "c.dev"])
    assert remains(pipeline, "c.dev")


def test_what_has_not_been_announced_stays_where_there_is_a_broker(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("told"))
    cursor = read_outcomes(pipeline.instance, 0)[1]
    pipeline.run(pipeline.put("untold"))
    age(pipeline, "told.dev", "untold.dev", days=31)
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(_LOCATION, "__repository__"), "completions")
    data = SensorInstigatorData(cursor=str(cursor), sensor_type=SensorType.STANDARD)
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
    pipeline.instance.add_instigator_state(state)
    nats = NatsOptions(url="nats://127.0.0.1:1")
    found = find_old(pipeline.instance, pipeline.tasks, inbox(pipeline), MONTH, nats)
    assert (list(found.deliberations), found.unfinished) == (["told.dev"], ("untold.dev",))


_LOCATION = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), "m")


def test_while_a_backfill_is_under_way_nothing_is_removed(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("a"))
    backfill = PartitionBackfill("b1", BulkActionStatus.REQUESTED, False, {}, 0.0, serialized_asset_backfill_data="{}")
    pipeline.instance.add_backfill(backfill)
    with pytest.raises(InvalidInput, match="backfill b1 is under way"):
        old(pipeline)


def test_remains_of_killed_writers_and_old_files_of_the_inbox_go(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("a"))
    killed, writing = (pipeline.storage / f"utterances/.writing-{name}" for name in ("killed", "now"))
    taken = pipeline.storage / "inbox/taken/backlog.jsonl"
    taken.parent.mkdir(parents=True)
    for path in (killed, writing, taken):
        path.write_text("x")
    long_ago = time.time() - 40 * 86_400
    os.utime(killed, (long_ago, long_ago))
    os.utime(taken, (long_ago, long_ago))
    prune(pipeline, old(pipeline))
    assert [path.exists() for path in (killed, writing, taken)] == [False, True, False]


def test_without_a_limit_nothing_is_old_and_that_is_said(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidInput, match=r"set retention.max_age_days or retention.max_count"):
        old(pipeline, RetentionSettings())


def test_the_schedule_asks_for_a_run_where_the_settings_say_what_is_old(pipeline: Pipeline) -> None:
    for retention, wanted in (({}, 0), ({"max_age_days": 30}, 1)):
        settings = Settings(storage=str(pipeline.storage), retention=retention)
        schedule = build_definitions(settings).resolve_schedule_def("retention")
        with dg.build_schedule_context(pipeline.instance, resources={"retention": settings.retention}) as context:
            assert len(schedule.evaluate_tick(context).run_requests or ()) == wanted


def test_the_job_that_prunes_removes_what_is_old_and_says_how_much(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b")
    pipeline.run(keys)
    age(pipeline, "a.dev", days=31)
    pipeline.configure(retention={"max_age_days": 30})
    result = pipeline.definitions.resolve_job_def("prune").execute_in_process(instance=pipeline.instance)
    assert result.success
    assert pipeline.store.names("deliberations", ".parquet") == ["b.dev"]


def test_what_was_said_is_scored_again_without_an_engine(pipeline: Pipeline) -> None:
    keys = pipeline.put("a", "b")
    pipeline.run(keys)
    pipeline.store.delete("proposals/a.dev.parquet")
    pipeline.store.delete("deliberations/b.dev.parquet")
    tags = {key: value for key, value in pipeline.instance.get_runs()[0].tags.items() if "range" in key}
    job = pipeline.definitions.resolve_job_def("rescore")
    assert job.execute_in_process(instance=pipeline.instance, tags=tags).success
    assert pipeline.starts == 1
    assert len(pipeline.table("proposals")) == 6
    assert len(pipeline.table("deliberations")) == 2


def test_the_answer_log_of_a_killed_run_goes_when_it_is_old_and_that_of_a_run_under_way_stays(
    pipeline: Pipeline,
) -> None:
    under_way = pipeline.instance.create_run_for_job(
        pipeline.definitions.resolve_job_def("deliberate"), status=dg.DagsterRunStatus.STARTED
    ).run_id
    for run_id in (under_way, "0a1b-gone", "0a1b-new"):
        pipeline.store.append(f"answers/{run_id}.jsonl", b"{}\n")
    then = time.time() - 60 * 86_400
    for run_id in (under_way, "0a1b-gone"):
        os.utime(pipeline.storage / f"answers/{run_id}.jsonl", (then, then))
    found = old(pipeline)
    assert found.files == ("answers/0a1b-gone.jsonl",)
    prune(pipeline, found)
    assert sorted(pipeline.store.names("answers", ".jsonl")) == sorted([under_way, "0a1b-new"])
