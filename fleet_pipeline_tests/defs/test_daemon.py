"""What people do in the UI, through the real webserver and daemon: launch, backfill, and be told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fleet_pipeline.client import Client
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline_tests.defs.test_sensors import messages
from fleet_pipeline_tests.deployment import Deployment, deployed, eventually


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with embedded_server() as nats_url, deployed(tmp_path_factory.mktemp("deployment"), nats_url) as found:
        yield found


@pytest.mark.timeout(600)
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

    # The daemon's own sensor has announced every verdict, the failed one and its mended successor.
    eventually(lambda: len(messages(deployment.nats_url)) == 6, "the events")
    announced = [(event["event_type"], event["payload"]["deliberation_id"]) for event in messages(deployment.nats_url)]
    assert sorted(announced) == sorted(
        [("deliberation.completed", key) for key in keys] + [("deliberation.failed", "b.dev")]
    )


@pytest.mark.timeout(600)
def test_what_is_submitted_is_run_and_announced(deployment: Deployment) -> None:
    with Client(deployment.nats_url) as fleet:
        submitted = fleet.submit_all([{"task_id": f"r{n}", "description": "do"} for n in range(5)])
    keys = {key for one in submitted for key in one.deliberation_ids}
    eventually(lambda: deployment.partitions()["materialized"] >= keys, "the requests to be run")
    told = lambda: [event["payload"]["deliberation_id"] for event in messages(deployment.nats_url)]  # noqa: E731
    eventually(lambda: keys <= set(told()), "the events")
    assert sorted(key for key in told() if key in keys) == sorted(keys)
