"""A real Dagster deployment: webserver and daemon, with a scripted engine, a real broker and real files."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.instance.home import open_instance
from fleet_pipeline.instance.partitions import NAME
from fleet_pipeline.instance.tags import PROCESS
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.councils import a_task
from fleet_pipeline_tests.support.http import free_port

ROOT = Path(__file__).parents[2]
ASSETS = ("transcripts", "proposals", "deliberations")
PATIENCE = 480.0  # seconds; under the bound of a whole test
SCRIPTED = "fleet_pipeline_tests.support.scripted_definitions"


class Deployment:
    def __init__(
        self, port: int, instance: dg.DagsterInstance, storage: Path, nats_url: str, location: str = SCRIPTED
    ) -> None:
        self.location = location
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
        keys = [
            TaskStore(store, BUILT_IN_ROLES).put(a_task(name, description=text))[0]
            for name, text in descriptions.items()
        ]
        self.instance.add_dynamic_partitions(NAME, keys)
        return keys

    def backfill(self, keys: list[str]) -> None:
        parameters = {"assetSelection": [{"path": [asset]} for asset in ASSETS], "partitionNames": keys}
        launched = self.ask(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename } }",
            p=parameters,
        )
        assert launched["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess"

    def launch(self, key: str, **tags: str) -> str:
        """Launch one partition, as the UI's launchpad does. Returns the run's id."""
        run_tags = {"dagster/partition": key, **{f"dagster/{name}": value for name, value in tags.items()}}
        parameters = {
            "selector": {
                "repositoryLocationName": self.location,
                "repositoryName": "__repository__",
                "jobName": "deliberate",
            },
            "mode": "default",
            "executionMetadata": {"tags": [{"key": name, "value": value} for name, value in run_tags.items()]},
        }
        launched = self.ask(
            "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {"
            " __typename ... on LaunchRunSuccess { run { runId } } } }",
            p=parameters,
        )["launchRun"]
        return str(launched["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """Cancel a run, as the button in the UI does."""
        answer = self.ask("mutation($r: String!) { terminateRun(runId: $r) { __typename } }", r=run_id)
        assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def process(self, run_id: str) -> psutil.Process:
        """The process that executes a run. Waits until the run's tags name it."""
        eventually(lambda: PROCESS in self.run(run_id).tags, f"run {run_id} to start")
        return psutil.Process(int(self.run(run_id).tags[PROCESS].split(" ")[-2]))

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def partitions(self) -> dict[str, set[str]]:
        node = self.ask(
            '{ assetNodeOrError(assetKey: {path: ["deliberations"]}) { ... on AssetNode { assetPartitionStatuses {'
            " ... on DefaultPartitionStatuses { materializedPartitions failedPartitions unmaterializedPartitions } } } } }"
        )["assetNodeOrError"]["assetPartitionStatuses"]
        return {name.removesuffix("Partitions"): set(keys) for name, keys in node.items()}


def eventually(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:.0f} s for {what}"
        time.sleep(0.5)


def make_home(folder: Path) -> Path:
    """A DAGSTER_HOME with the shipped dagster.yaml."""
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "fleet_pipeline/dagster.yaml").read_text())
    return home


@contextmanager
def instance_at(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance in `home`, opened as all its processes open it: by DAGSTER_HOME, where its event log is looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with open_instance() as instance:
            yield instance


def environment(home: Path, storage: Path, nats_url: str) -> dict[str, str]:
    return os.environ | {
        "DAGSTER_HOME": str(home),
        "FLEET_STORAGE": str(storage),
        **({"FLEET_NATS__URL": nats_url} if nats_url else {}),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole process tree: `dagster dev` outlives SIGTERM if its parent has no terminal."""
    root = psutil.Process(process.pid)
    for member in [*root.children(recursive=True), root]:
        member.kill()
    process.wait()


def start_daemon(home: Path, storage: Path, nats_url: str) -> subprocess.Popen[bytes]:
    """Start the daemon alone. It starts its own code server."""
    program = [Path(sys.executable).with_name("dagster-daemon"), "run", "-m", SCRIPTED]
    with (home.parent / "daemon.log").open("a") as log:
        return subprocess.Popen(
            program, env=environment(home, storage, nats_url), stdout=log, stderr=log, cwd=ROOT, start_new_session=True
        )


@contextmanager
def deployed(folder: Path, nats_url: str = "", module: str = SCRIPTED, **settings: str) -> Iterator[Deployment]:
    """Run `dagster dev` in `folder` on the definitions of `module`. `settings` are environment variables."""
    home, storage = make_home(folder), folder / "storage"
    port = free_port()
    program = [sys.executable, "-m", "dagster", "dev", "-m", module, "-p", str(port)]
    # The instance is opened first: `dagster dev` makes its databases without asking who else is making them.
    with (folder / "log").open("w") as log, instance_at(home) as instance:
        variables = environment(home, storage, nats_url) | settings
        process = subprocess.Popen(program, env=variables, stdout=log, stderr=log, cwd=ROOT)
        try:
            deployment = Deployment(port, instance, storage, nats_url, module)
            eventually(lambda: _answers(deployment), f"the UI; see {folder / 'log'}")
            yield deployment
        finally:
            kill_tree(process)


def _answers(deployment: Deployment) -> bool:
    try:
        return bool(deployment.partitions())
    except (urllib.error.URLError, ConnectionError, TimeoutError, KeyError, TypeError):
        return False
