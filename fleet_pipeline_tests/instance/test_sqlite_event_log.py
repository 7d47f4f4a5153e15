"""The event log in SQLite with open connections: the same files as Dagster's own class, and no stale ones."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from fleet_pipeline.instance import home
from fleet_pipeline.instance.sqlite_event_log import MAX_OPEN, SqliteEventLog

pytestmark = pytest.mark.instance


@pytest.fixture
def instance(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(Path(home.__file__).parents[1].joinpath("dagster.yaml").read_text())
    with dg.DagsterInstance.get() as instance:
        yield instance


def a_run(instance: dg.DagsterInstance) -> str:
    @dg.asset
    def thing():
        return None

    return dg.materialize([thing], instance=instance).run_id


def test_the_instance_that_fleet_sets_up_keeps_its_connections_open(instance):
    assert isinstance(instance.event_log_storage, SqliteEventLog)


def test_dagsters_own_class_reads_what_was_written_with_open_connections(instance, tmp_path):
    run_id = a_run(instance)
    own = SqliteEventLogStorage(str(tmp_path / "history/runs"))
    kinds = [entry.dagster_event.event_type_value for entry in own.get_logs_for_run(run_id) if entry.dagster_event]
    assert "ASSET_MATERIALIZATION" in kinds
    assert kinds[-1] == "PIPELINE_SUCCESS"
    assert own.get_latest_materialization_events([dg.AssetKey("thing")])[dg.AssetKey("thing")].run_id == run_id


def test_what_another_process_writes_is_seen_at_once(instance, tmp_path):
    a_run(instance)
    other = dg.DagsterInstance.from_config(str(tmp_path))
    with other:
        run_id = a_run(other)
    assert instance.get_latest_materialization_event(dg.AssetKey("thing")).run_id == run_id


def test_a_run_whose_file_was_removed_gets_a_new_one(instance, tmp_path):
    run_id = a_run(instance)
    instance.event_log_storage.get_logs_for_run(run_id)
    for file in (tmp_path / "history/runs").glob(f"{run_id}*"):
        file.unlink()
    assert instance.event_log_storage.get_logs_for_run(run_id) == []
    instance.report_engine_event("again", run_id=run_id, job_name="job")
    own = SqliteEventLogStorage(str(tmp_path / "history/runs"))
    assert [entry.dagster_event.message for entry in own.get_logs_for_run(run_id)] == ["again"]


def test_no_more_files_stay_open_than_the_limit(instance):
    log = instance.event_log_storage
    runs = [a_run(instance) for _ in range(MAX_OPEN + 2)]
    assert len(log._open) <= MAX_OPEN
    assert all(log.get_logs_for_run(run_id) for run_id in runs)


def test_nothing_stays_open_after_the_instance_has_ended(instance):
    a_run(instance)
    instance.event_log_storage.dispose()
    assert not instance.event_log_storage._open


def test_an_instance_opened_without_dagster_home_is_refused_and_told_so(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "dagster.yaml").write_text(Path(home.__file__).parents[1].joinpath("dagster.yaml").read_text())
    with pytest.raises(dg.DagsterInvariantViolationError, match="DAGSTER_HOME, which is not set"):
        _ = dg.DagsterInstance.from_config(str(tmp_path)).event_log_storage
