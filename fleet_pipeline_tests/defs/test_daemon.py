"""What people do in the UI, through the real webserver and daemon: launch, backfill, and be told."""

import signal
from collections.abc import Iterator

import dagster as dg
import pandas as pd
import pytest

from fleet_pipeline.api.client import Client
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.instance.partitions import NAME
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.broker import messages
from fleet_pipeline_tests.support.councils import a_task
from fleet_pipeline_tests.support.deployment import Deployment, deployed, eventually
from fleet_pipeline_tests.support.processes import wait_until_gone

pytestmark = [pytest.mark.daemon, pytest.mark.broker]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with embedded_server() as nats_url, deployed(tmp_path_factory.mktemp("deployment"), nats_url) as found:
        yield found


def test_a_selection_is_launched_and_the_failed_and_missing_ones_are_backfilled_alone(deployment: Deployment) -> None:
    deployment.storage.mkdir(exist_ok=True)
    (deployment.storage / "FAIL").touch()
    keys = deployment.add(a="do", b="fail me", c="do", d="do", e="fail me")

    # A selection with a gap: two runs, since a run covers one contiguous range.
    deployment.backfill(["a.dev", "b.dev", "d.dev"])
    eventually(lambda: deployment.partitions()["materialized"] == {"a.dev", "d.dev"}, "the selection to be launched")
    eventually(lambda: deployment.partitions()["failed"] == {"b.dev"}, "b to be red")
    assert deployment.partitions()["unmaterialized"] >= {"c.dev", "e.dev"}

    # All that is failed or missing, as the launch dialog of the UI picks it.
    (deployment.storage / "FAIL").unlink()
    state = deployment.partitions()
    deployment.backfill(sorted(state["failed"] | (state["unmaterialized"] - state["materialized"])))
    eventually(lambda: deployment.partitions()["materialized"] == set(keys), "the backfill")
    assert deployment.partitions()["failed"] == set()

    # The daemon's own sensor has published every outcome, the failed one and its mended successor.
    eventually(lambda: len(messages(deployment.nats_url)) == 6, "the events")
    announced = [(event["event_type"], event["payload"]["deliberation_id"]) for event in messages(deployment.nats_url)]
    assert sorted(announced) == sorted(
        [("deliberation.completed", key) for key in keys] + [("deliberation.failed", "b.dev")]
    )


def test_what_is_submitted_is_run_and_announced(deployment: Deployment) -> None:
    with Client(deployment.nats_url) as fleet:
        submitted = fleet.submit_all([{"task_id": f"r{n}", "description": "do"} for n in range(5)])
    keys = {key for one in submitted for key in one.deliberation_ids}
    eventually(lambda: deployment.partitions()["materialized"] >= keys, "the requests to be run")
    told = lambda: [event["payload"]["deliberation_id"] for event in messages(deployment.nats_url)]  # noqa: E731
    eventually(lambda: keys <= set(told()), "the events")
    assert sorted(key for key in told() if key in keys) == sorted(keys)


@pytest.fixture
def slow(deployment: Deployment) -> Iterator[Deployment]:
    """Half a second for each answer, until the test says `quick`."""
    deployment.storage.mkdir(exist_ok=True)
    (deployment.storage / "SLOW").touch()
    yield deployment
    quick(deployment)


def quick(deployment: Deployment) -> None:
    (deployment.storage / "SLOW").unlink(missing_ok=True)


def status(deployment: Deployment, run_id: str) -> str:
    return deployment.run(run_id).status.value


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_run_whose_process_is_killed_or_evicted_goes_on_by_itself(slow: Deployment, name: str) -> None:
    (key,) = slow.add(**{name.lower(): "do"})
    run_id = slow.launch(key)
    slow.process(run_id).send_signal(getattr(signal, name))
    eventually(lambda: status(slow, run_id) == "FAILURE", "the death to be noticed")
    quick(slow)
    eventually(lambda: key in slow.partitions()["materialized"], "the run to go on")
    again = [run for run in slow.instance.get_runs() if run.parent_run_id == run_id]
    assert [run.tags["dagster/retry_number"] for run in again] == ["1"]


def test_a_run_that_is_cancelled_in_the_ui_ends_with_what_it_has_said_and_leaves_no_process(slow: Deployment) -> None:
    # 51 answers: long enough for a loaded machine to cancel it in the midst.
    (key,) = TaskStore(Store(str(slow.storage)), BUILT_IN_ROLES).put(a_task("cancelled", rounds=8))
    slow.instance.add_dynamic_partitions(NAME, [key])
    run_id = slow.launch(key)
    process = slow.process(run_id)
    log = slow.storage / f"answers/{run_id}.jsonl"
    eventually(lambda: log.exists() and log.read_bytes().count(b"\n") > 3, "the first answers to be logged")
    family = [process, *process.children(recursive=True)]
    slow.terminate(run_id)
    wait_until_gone(family)
    eventually(lambda: status(slow, run_id) == "CANCELED", "the run to be cancelled")
    assert key not in slow.partitions()["materialized"] | slow.partitions()["failed"]
    assert not [run for run in slow.instance.get_runs() if run.parent_run_id == run_id]
    said = pd.read_parquet(slow.storage / f"utterances/{key}.parquet")
    assert said["error_type"].isna().any()
    assert set(said["error_type"].dropna()) == {"cancelled"}
    outcome = pd.read_parquet(slow.storage / f"deliberations/{key}.parquet").iloc[0]
    assert (outcome["status"], outcome["run_id"]) == ("failed", run_id)
    assert "the run was stopped" in outcome["error_message"]
    (seen,) = slow.instance.fetch_observations(
        dg.AssetRecordsFilter(dg.AssetKey("deliberations"), asset_partitions=[key]), limit=5
    ).records
    assert seen.run_id == run_id


def test_a_run_that_takes_longer_than_it_may_is_ended(slow: Deployment) -> None:
    store = Store(str(slow.storage))  # 64 seats: long enough for the daemon, which looks every 15 s
    (key,) = TaskStore(store, BUILT_IN_ROLES).put(a_task("long", num_agents=64))
    slow.instance.add_dynamic_partitions(NAME, [key])
    run_id = slow.launch(key, max_runtime="1", max_retries="0")
    process = slow.process(run_id)
    eventually(lambda: status(slow, run_id) in ("FAILURE", "SUCCESS"), "the run to be ended")
    messages_ = [entry.message for entry in slow.instance.all_logs(run_id)]
    assert any("Exceeded maximum runtime of 1 seconds" in message for message in messages_)
    wait_until_gone([process])
