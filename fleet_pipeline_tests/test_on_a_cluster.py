"""The pipeline on a cluster: dagster-k8s, as k8s/base configures it, against a small API server whose nodes run real processes.

What is real and what is not stands in `support.kubernetes_api`. The daemon, its code server, the runs' pods and the engine in
them are real, and so are Postgres, where it is installed, and the object store's server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml

from fleet_pipeline_tests.support import postgres
from fleet_pipeline_tests.support.deployment import ROOT, eventually, instance_at, kill_tree
from fleet_pipeline_tests.support.kubernetes_api import GPU, Cluster, Node, api_server

pytestmark = pytest.mark.engine

BASE = ROOT / "k8s/base"
GPU_NODES = [
    Node(f"gpu-{n}", {"fleet/gpu": "true"}, [{"key": GPU, "value": "present", "effect": "NoSchedule"}], gpus=1)
    for n in range(2)
]


class OnCluster:
    def __init__(self, cluster: Cluster, instance: dg.DagsterInstance, storage: Path) -> None:
        self.cluster = cluster
        self.instance = instance
        self.storage = storage


@contextmanager
def deployed(folder: Path) -> Iterator[OnCluster]:
    home, storage = folder / "home", folder / "storage"
    home.mkdir()
    with ExitStack() as stack:
        objects: dict[tuple[str, str], dict[str, str]] = {
            ("ConfigMap", "fleet-environment"): {
                "FLEET_CONFIG_FILE": str(BASE / "fleet.toml"),
                "FLEET_STORAGE": f"file://{storage}",
                "FLEET_REQUESTS__MOST_PER_RUN": "4",
                "CONTROL_IMAGE": "fleet/control:test",
                "ENGINE_IMAGE": "fleet/engine:test",
                "DAGSTER_HOME": str(home),
                "FLEET_ENGINE__MODEL": "fleet-tiny",
                "HF_HUB_OFFLINE": "1",
                "OMP_WAIT_POLICY": "PASSIVE",
                "VLLM_CPU_KVCACHE_SPACE": "1",
            },
            ("Secret", "fleet-database"): {"DAGSTER_POSTGRES_URL": "postgresql+psycopg2://nobody@/none"},
            ("Secret", "fleet-storage"): {"AWS_SECRET_ACCESS_KEY": "a-secret-of-the-store"},
        }
        config = yaml.safe_load((BASE / "dagster.yaml").read_text())
        if postgres.is_installed():
            server = stack.enter_context(postgres.a_server())
            objects["Secret", "fleet-database"] = {
                "DAGSTER_POSTGRES_URL": server.storage(postgres.OURS)["custom"]["config"]["postgres_url"]
            }
        else:
            del config["storage"]
        cluster = stack.enter_context(Cluster(folder, [Node("cpu"), *GPU_NODES], objects))
        kubeconfig = stack.enter_context(api_server(cluster))
        # The only differences to what is shipped: where the API server is, and that nothing is mounted.
        config["run_launcher"]["config"] |= {
            "load_incluster_config": False,
            "kubeconfig_file": str(kubeconfig),
            "dagster_home": str(home),
        }
        (home / "dagster.yaml").write_text(yaml.safe_dump(config))
        variables = {name: value for data in objects.values() for name, value in data.items()}
        variables |= {"POD_NAMESPACE": "fleet", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        cluster.base["PATH"] = variables["PATH"]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in variables.items():
            patch.setenv(name, value)
        instance = stack.enter_context(instance_at(home))
        instance.event_log_storage.set_concurrency_slots("gpu", 2)
        program = [Path(sys.executable).with_name("dagster-daemon"), "run", "-m", "fleet_pipeline.definitions"]
        with (folder / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(program, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        stack.callback(kill_tree, daemon)
        yield OnCluster(cluster, instance, storage)


def test_a_backlog_is_generated_in_pods_with_gpus_and_reported_in_pods_without(tmp_path: Path) -> None:
    with deployed(tmp_path) as on:
        inbox = on.storage / "inbox"
        inbox.mkdir(parents=True)
        lines = [
            {"task_id": f"t{n:02d}", "description": f"Find the slow query number {n}.", "roles": ["DEV"], "rounds": 1}
            for n in range(12)
        ]
        (inbox / "backlog.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        finished = lambda: on.instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
        eventually(lambda: len(finished()) == 3, "three runs")
