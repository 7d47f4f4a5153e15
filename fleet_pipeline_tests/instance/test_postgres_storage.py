"""Dagster's storage in Postgres with an event log whose connections stay open, on a real server."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from fleet_pipeline_tests.support.deployment import instance_at
from fleet_pipeline_tests.support.postgres import DAGSTERS_OWN, OURS, Server, a_server, is_installed

pytestmark = [pytest.mark.instance, pytest.mark.skipif(not is_installed(), reason="Postgres is not installed")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with a_server() as server:
        yield server


@pytest.fixture
def homes(server: Server, tmp_path: Path) -> tuple[Path, Path]:
    """Two homes on the same database: one with our class, and one with Dagster's own."""
    ours = server.storage(OURS)
    homes = []
    for name, storage in (("ours", ours), ("own", {"custom": ours["custom"] | DAGSTERS_OWN})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dagster.yaml").write_text(
            yaml.safe_dump({"telemetry": {"enabled": False}, "storage": storage})
        )
        homes.append(tmp_path / name)
    return homes[0], homes[1]


def a_run(instance: dg.DagsterInstance) -> str:
    @dg.asset
    def thing() -> None:
        return None

    return dg.materialize([thing], instance=instance).run_id


def sessions(instance: dg.DagsterInstance) -> set[int]:
    """The server processes that the event log talks to, one after another."""
    found = set()
    for _ in range(5):
        with instance.event_log_storage.index_connection() as connection:
            found.add(connection.exec_driver_sql("select pg_backend_pid()").scalar())
    return found


def test_connections_stay_open_and_dagsters_own_class_reads_what_was_written(homes: tuple[Path, Path]) -> None:
    with instance_at(homes[0]) as ours, instance_at(homes[1]) as own:
        assert len(sessions(ours)) == 1
        assert len(sessions(own)) == 5
        run_id = a_run(ours)
        kinds = [entry.dagster_event.event_type_value for entry in own.all_logs(run_id) if entry.dagster_event]
        assert "ASSET_MATERIALIZATION" in kinds
        assert kinds[-1] == "PIPELINE_SUCCESS"
        again = a_run(own)
        assert ours.get_latest_materialization_event(dg.AssetKey("thing")).run_id == again


def test_a_server_that_was_restarted_costs_no_event(server: Server, homes: tuple[Path, Path]) -> None:
    with instance_at(homes[0]) as instance:
        a_run(instance)
        before = sessions(instance)
        server.stop()
        server.start()
        run_id = a_run(instance)
        assert sessions(instance).isdisjoint(before)
        assert instance.get_run_by_id(run_id).is_success


def test_a_forked_process_has_connections_of_its_own(homes: tuple[Path, Path]) -> None:
    with instance_at(homes[0]) as instance:
        before = sessions(instance)
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.write(writer, " ".join(map(str, sessions(instance))).encode())
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        found = {int(number) for number in os.read(reader, 1_000).split()}
        assert len(found) == 1
        assert found.isdisjoint(before)
        assert sessions(instance) == before
