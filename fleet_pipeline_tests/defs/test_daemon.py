"""What people do in the UI, through the real webserver and daemon: launch, backfill, and be told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from fleet_pipeline.defs.partitions import NAME
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import put_task
from fleet_pipeline_tests.defs.test_sensors import messages
from fleet_pipeline_tests.helpers import a_task

ASSETS = ("transcripts", "proposals", "deliberations")
PATIENCE = 120.0


class Deployment:
    def __init__(self, port: int, instance: dg.DagsterInstance, storage: Path, nats_url: str) -> None:
        self.url = f"http://127.0.0.1:{port}/graphql"
        self.instance = instance
        self.storage = storage
        self.nats_url = nats_url

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]

    def add(self, **descriptions: str) -> list[str]:
        store = Store(str(self.storage))
        keys = [put_task(store, a_task(name, description=text))[0] for name, text in descriptions.items()]
        self.instance.add_dynamic_partitions(NAME, keys)
        return keys

    def backfill(self, keys: list[str]) -> None:
        parameters = {"assetSelection": [{"path": [asset]} for asset in ASSETS], "partitionNames": keys}
        launched = self.ask(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename } }",
            p=parameters,
        )
        assert launched["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess"

    def partitions(self) -> dict[str, set[str]]:
        node = self.ask(
            '{ assetNodeOrError(assetKey: {path: ["deliberations"]}) { ... on AssetNode { assetPartitionStatuses {'
            " ... on DefaultPartitionStatuses { materializedPartitions failedPartitions unmaterializedPartitions } } } } }"
        )["assetNodeOrError"]["assetPartitionStatuses"]
        return {name.removesuffix("Partitions"): set(keys) for name, keys in node.items()}


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    home, storage = folder / "home", folder / "storage"
    home.mkdir()
    (home / "dagster.yaml").write_text((Path(__file__).parents[2] / "fleet_pipeline/dagster.yaml").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with embedded_server() as nats_url, (folder / "log").open("w") as log:
        environment = {
            "DAGSTER_HOME": str(home),
            "FLEET_STORAGE": str(storage),
            "FLEET_NATS__URL": nats_url,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        program = [
            sys.executable,
            "-m",
            "dagster",
            "dev",
            "-m",
            "fleet_pipeline_tests.scripted_definitions",
            "-p",
            str(port),
        ]
        process = subprocess.Popen(
            program, env=os.environ | environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2]
        )
        try:
            with dg.DagsterInstance.from_config(str(home)) as instance:
                deployed = Deployment(port, instance, storage, nats_url)
                eventually(lambda: _answers(deployed), f"the UI; see {folder / 'log'}")
                yield deployed
        finally:
            # `dagster dev` under a parent without a terminal outlives SIGTERM: end its whole tree.
            root = psutil.Process(process.pid)
            for one in [*root.children(recursive=True), root]:
                one.kill()
            process.wait()


def _answers(deployed: Deployment) -> bool:
    try:
        return bool(deployed.partitions())
    except (urllib.error.URLError, ConnectionError, TimeoutError, KeyError, TypeError):
        return False


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
