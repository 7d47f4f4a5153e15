"""The pipeline on a cluster: dagster-k8s, as k8s/base configures it, against a small API server whose nodes run real processes.

What is real and what is not stands in `support.kubernetes_api`. The daemon, its code server, the runs' pods and vLLM in theirs
are real; so is Postgres, where it is installed (else SQLite). Processes of the control image can import neither vLLM nor torch.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml

from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.instance.names import OUTCOMES, TRANSCRIPTS
from fleet_pipeline.storage.answer_log import earlier_logs
from fleet_pipeline.storage.store import Store
from fleet_pipeline_tests.support import deployment, postgres
from fleet_pipeline_tests.support.deployment import ROOT, instance_at, kill_tree
from fleet_pipeline_tests.support.kubernetes_api import GPU, TOKEN, Call, Cluster, Node, Pod, api_server, gpus_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

BASE = ROOT / "k8s/base"
# Engines start one after another, on the two cores of a machine that tests other things meanwhile.
eventually = partial(deployment.eventually, patience=400)
COUNCILS, A_RUN, GPUS = 12, 4, 2
SECRETS = {"AWS_ACCESS_KEY_ID": "key-of-the-store", "AWS_SECRET_ACCESS_KEY": "secret-of-the-store"}
GPU_NODES = [
    Node(f"gpu-{n}", {"fleet/gpu": "true"}, [{"key": GPU, "value": "present", "effect": "NoSchedule"}], gpus=1)
    for n in range(GPUS)
]
# A control image has none of these.
NOT_IN_CONTROL = """
import sys

class _Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vllm", "torch", "transformers", "tokenizers"):
            raise ModuleNotFoundError(f"not in the control image: {name}", name=name)

sys.meta_path.insert(0, _Absent())
"""


@dataclass
class Deployed:
    cluster: Cluster
    instance: dg.DagsterInstance
    storage: Path

    def ask(self, *names: str) -> list[str]:
        """Put a backlog of DEV councils into the inbox."""
        # The first of each run has no rounds, and so ends long before the others; one that is asked for alone has three.
        lines = [
            {
                "task_id": name,
                "description": f"Find what makes query {name} slow, and mend it.",
                "roles": ["DEV"],
                "rounds": 3 if n % A_RUN else 0,
            }
            for n, name in enumerate(names, start=len(names) == 1)
        ]
        file = self.storage / "inbox" / f"{names[0]}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(map(json.dumps, lines)))
        return [f"{name}.dev" for name in names]

    def runs(self, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(filters=dg.RunsFilter(statuses=list(statuses)) if statuses else None))

    def finished(self) -> dict[str, int]:
        """The transcripts that are whole: when each was written, by key.

        A run that is told to end also writes those under way, as far as they have come; another goes on from them.
        """
        files = (self.storage / "utterances").glob("*.parquet")
        return {file.stem: file.stat().st_mtime_ns for file in files if not _was_stopped(file)}

    def pod_of(self, run: dg.DagsterRun, *, gpu: bool) -> Pod | None:
        """The pod of a run that is running now: its own, or the one with the GPU."""
        running = self.cluster.running(gpu)
        return next((pod for pod in running if pod.labels["dagster/run-id"] == run.run_id), None)


def _was_stopped(transcript: Path) -> bool:
    return AgentError.CANCELLED in pq.read_table(transcript, columns=["error_type"])["error_type"].to_pylist()


@contextmanager
def deployed(folder: Path) -> Iterator[Deployed]:
    home, storage, control = folder / "home", folder / "storage", folder / "control"
    home.mkdir()
    control.mkdir()
    (control / "sitecustomize.py").write_text(NOT_IN_CONTROL)
    with ExitStack() as stack:
        config = yaml.safe_load((BASE / "dagster.yaml").read_text())
        url = "postgresql+psycopg2://nobody@/none"
        if postgres.is_installed():
            server = stack.enter_context(postgres.a_server())
            url = server.storage(postgres.OURS)["custom"]["config"]["postgres_url"]
        else:
            del config["storage"]
        environment = {
            "FLEET_CONFIG_FILE": str(BASE / "fleet.toml"),
            "FLEET_STORAGE": f"file://{storage}",
            "FLEET_REQUESTS__MOST_PER_RUN": str(A_RUN),
            "FLEET_ENGINE__MODEL": "fleet-tiny",
            "CONTROL_IMAGE": "fleet/control:test",
            "ENGINE_IMAGE": "fleet/engine:test",
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        objects = {
            ("ConfigMap", "fleet-environment"): environment,
            ("Secret", "fleet-database"): {"DAGSTER_POSTGRES_URL": url},
            ("Secret", "fleet-storage"): SECRETS,
        }
        cluster = stack.enter_context(Cluster(folder, [Node("cpu"), *GPU_NODES], objects))
        kubeconfig = stack.enter_context(api_server(cluster))
        # The only differences to what is shipped: where the API server is, that nothing is mounted, and a shorter look-out.
        config["run_launcher"]["config"] |= {
            "load_incluster_config": False,
            "kubeconfig_file": str(kubeconfig),
            "dagster_home": str(home),
        }
        config["run_monitoring"]["poll_interval_seconds"] = 3
        (home / "dagster.yaml").write_text(yaml.safe_dump(config))
        cluster.base["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        cluster.of_image["fleet/control:test"] = {"PYTHONPATH": str(control)}
        mine = environment | {"DAGSTER_POSTGRES_URL": url, "POD_NAMESPACE": "fleet"}
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in mine.items():
            patch.setenv(name, value)
        instance = stack.enter_context(instance_at(home))
        instance.event_log_storage.set_concurrency_slots("gpu", GPUS)
        program = [Path(sys.executable).with_name("dagster-daemon"), "run", "-m", "fleet_pipeline.definitions"]
        variables = os.environ | SECRETS | {"PYTHONPATH": str(control)}
        with (folder / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(program, env=variables, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        stack.callback(kill_tree, daemon)
        yield Deployed(cluster, instance, storage)


@dataclass
class Story:
    """What a backlog went through: three runs on two GPUs, whose pods half-way were lost the one, evicted the other."""

    on: Deployed
    keys: list[str]
    run: dg.DagsterRun  # whose pod was lost
    lost: Pod
    evicted: Pod
    before: dict[str, int]  # what had finished then: when, by key
    logged: int  # tokens of the answers that stood in the run's log by then


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with deployed(tmp_path_factory.mktemp("cluster")) as on:
        keys = on.ask(*(f"q{n:02d}" for n in range(COUNCILS)))
        eventually(lambda: bool(on.finished()), "a first deliberation")
        key = next(iter(on.finished()))
        [run] = [one for one in on.runs(dg.DagsterRunStatus.STARTED) if _covers(one, key)]
        lost = on.pod_of(run, gpu=True)
        assert lost is not None, "it had ended before it could be killed"
        [evicted] = [pod for pod in on.cluster.running(gpu=True) if pod is not lost]
        on.cluster.lose(lost)
        on.cluster.delete_pod(evicted.name)
        eventually(lambda: not lost.runs, "the pod to end")
        before = on.finished()
        [log] = [one for one in earlier_logs(Store(str(on.storage)), keys) if one.run_id == run.run_id]
        logged = sum(answer.completion.completion_tokens for answer in log.answers)
        eventually(lambda: len(on.runs(dg.DagsterRunStatus.SUCCESS)) == 3, "three runs")
        yield Story(on, keys, run, lost, evicted, before, logged)


def _covers(run: dg.DagsterRun, key: str) -> bool:
    return run.tags["dagster/asset_partition_range_start"] <= key <= run.tags["dagster/asset_partition_range_end"]


def outcomes(on: Deployed) -> dict[str, Any]:
    rows = [pq.read_table(file).to_pylist() for file in (on.storage / "deliberations").glob("*.parquet")]
    return {row["deliberation_id"]: row for [row] in rows}


def test_every_deliberation_of_the_backlog_completes(story: Story) -> None:
    found = outcomes(story.on)
    assert sorted(found) == sorted(story.keys)
    assert {row["status"] for row in found.values()} == {"completed"}
    assert all(row["winner_agent_id"] for row in found.values())


def test_there_are_never_more_pods_with_a_gpu_than_gpus_and_there_are_so_many(story: Story) -> None:
    pods = [pod for pod in story.on.cluster.pods if gpus_of(pod.spec)]
    changes = sorted([(pod.began, 1) for pod in pods] + [(pod.ended or math.inf, -1) for pod in pods])
    at_once, most = 0, 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    assert most == GPUS
    assert len(pods) == 3 + 2  # two of them in place of the lost and the evicted one


def test_a_pod_that_is_lost_is_replaced_in_its_run_and_nothing_finished_is_generated_again(story: Story) -> None:
    on = story.on
    assert story.lost.phase == "Failed"
    assert len(on.runs()) == 3, "the run itself goes on"
    after = on.finished()
    assert {key: after[key] for key in story.before} == story.before
    [again] = [pod for pod in on.cluster.pods if pod.job == f"{story.lost.job}-1"]
    eventually(lambda: not again.runs, "its process to end")
    assert again.phase == "Succeeded"


def test_a_pod_that_is_evicted_is_told_and_its_run_goes_on_in_another(story: Story) -> None:
    """Its deliberations are not announced as failed: nobody has cancelled them."""
    on = story.on
    assert story.evicted.process is not None
    assert story.evicted.process.returncode != -9, "it ended by itself"
    [again] = [pod for pod in on.cluster.pods if pod.job == f"{story.evicted.job}-1"]
    eventually(lambda: not again.runs, "its process to end")
    assert again.phase == "Succeeded"
    failed = on.instance.fetch_observations(dg.AssetRecordsFilter(asset_key=OUTCOMES), limit=100).records
    assert not [record for record in failed if record.partition_key in story.keys]


def test_only_answers_that_were_under_way_are_generated_again(story: Story) -> None:
    """The pod in place of the lost one generates all tokens of the run but those of answers that had been logged."""
    on = story.on
    files = [on.storage / "utterances" / f"{key}.parquet" for key in story.keys if _covers(story.run, key)]
    stored = sum(sum(pq.read_table(file)["completion_tokens"].to_pylist()) for file in files)
    assert 0 < story.logged < stored
    assert int(figure(on, story.run, "completion tokens")) == stored - story.logged


def figure(on: Deployed, run: dg.DagsterRun, name: str) -> str:
    """A figure of a run's engine, as the UI shows it."""
    records = on.instance.fetch_observations(dg.AssetKey(TRANSCRIPTS), limit=1_000).records
    found = next(one for one in records if one.run_id == run.run_id)
    assert found.asset_observation
    table = found.asset_observation.metadata["run"]
    return next(str(row.data[""]) for row in table.records if row.data["of this run"] == name)


def test_what_comes_after_generation_runs_in_a_pod_without_a_gpu(story: Story) -> None:
    on = story.on
    for run in on.runs():
        of_run = [pod for pod in on.cluster.pods if pod.labels["dagster/run-id"] == run.run_id]
        own, *more = [pod for pod in of_run if not gpus_of(pod.spec)]
        assert not more
        with_gpu = [pod for pod in of_run if gpus_of(pod.spec)]
        assert {pod.labels["dagster/op"] for pod in with_gpu} == {"transcripts"}
        assert {"proposals.rank_proposals", "council_checks", "deliberations"} <= started_in(own)
        assert {step for pod in with_gpu for step in started_in(pod)} == {"transcripts"}


def started_in(pod: Pod) -> set[str]:
    """The steps that a pod has executed."""
    return set(re.findall(r'STEP_START - Started execution of step "([\w.]+)"', pod.log.read_text()))


def test_each_outcome_is_logged_once_where_no_pod_was_lost(story: Story) -> None:
    """The run's own pod knows what was concluded in the other one."""
    records = story.on.instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=OUTCOMES), limit=1_000).records
    counts = Counter((record.partition_key, record.run_id) for record in records)
    # Those of lost pods are concluded again by the ones in their place, which cannot know whether they were announced.
    ended = {pod.labels["dagster/run-id"] for pod in (story.lost, story.evicted)}
    again = {key for key in story.keys for run in story.on.runs() if run.run_id in ended and _covers(run, key)}
    assert {key for key, _ in counts} == set(story.keys)
    assert {key for (key, _), count in counts.items() if count > 1} <= again
    assert max(counts.values()) <= 2


def test_pods_carry_their_limits_and_no_secret(story: Story) -> None:
    for job in story.on.cluster.posted:
        spec = job["spec"]["template"]["spec"]
        [container] = spec["containers"]
        text = json.dumps(job)
        assert not [value for value in (*SECRETS.values(), TOKEN, os.environ["DAGSTER_POSTGRES_URL"]) if value in text]
        assert {"secretRef": {"name": "fleet-database"}} in container["envFrom"]
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
        gone = {one["key"]: one["tolerationSeconds"] for one in spec["tolerations"] if "tolerationSeconds" in one}
        assert gone == {"node.kubernetes.io/unreachable": 30, "node.kubernetes.io/not-ready": 30}
        assert spec["terminationGracePeriodSeconds"] == 120
        assert job["spec"]["backoffLimit"] == 0, "a second pod of a Job would be another engine beside the first"
        if gpus_of(spec):
            assert spec["nodeSelector"] == {"fleet/gpu": "true"}
            assert spec["priorityClassName"] == "fleet-gpu"
            assert spec["serviceAccountName"] == "fleet-gpu"
            assert spec["automountServiceAccountToken"] is False
            assert container["image"] == "fleet/engine:test"
            assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}} in spec["volumes"]
            assert job["metadata"]["ownerReferences"][0]["kind"] == "Pod"
        else:
            assert container["image"] == "fleet/control:test"
            assert spec["serviceAccountName"] == "fleet-run"
        mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        assert {"/opt/dagster/home", "/etc/fleet", "/tmp"} <= set(mounts)
        assert set(mounts.values()) <= {one["name"] for one in spec["volumes"]}


def test_the_policy_has_nothing_against_the_pods_of_runs(story: Story) -> None:
    from fleet_pipeline_tests.support.manifests import denied

    assert [said for job in story.on.cluster.posted for said in denied(job) if "without a version" not in said] == []


def test_a_run_that_is_cancelled_ends_its_pods_and_keeps_what_was_said(story: Story) -> None:
    on = story.on
    [key] = on.ask("cancelled")

    def heard() -> bool:
        """Of this run: the log is made before its engine starts, and runs that were lost have left theirs."""
        logs = [
            log
            for run in on.runs(dg.DagsterRunStatus.STARTED)
            for log in (on.storage / "answers").glob(f"{run.run_id}*")
        ]
        return any(log.stat().st_size for log in logs)

    eventually(heard, "a first answer")
    [run] = on.runs(dg.DagsterRunStatus.STARTED)
    gpu = on.pod_of(run, gpu=True)
    assert gpu is not None
    assert on.instance.run_launcher.terminate(run.run_id)
    eventually(lambda: not gpu.runs, "the pod with the GPU to end")
    eventually(lambda: on.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED, "the run to end")
    assert not [job for job in on.cluster.jobs.values() if job["metadata"]["labels"]["dagster/run-id"] == run.run_id]
    eventually(lambda: key in outcomes(on), "what was said until then")
    assert outcomes(on)[key]["status"] != "completed"


def test_a_run_whose_own_pod_is_lost_with_its_node_goes_on_in_another(story: Story) -> None:
    on = story.on
    keys = on.ask("r1", "r2")
    eventually(lambda: any((on.storage / "answers").glob("*")), "a first answer")
    [run] = on.runs(dg.DagsterRunStatus.STARTED)
    own, gpu = on.pod_of(run, gpu=False), on.pod_of(run, gpu=True)
    assert own is not None
    assert gpu is not None
    on.cluster.forget(own)
    eventually(lambda: not gpu.runs, "the pod that it owned to end: the next one needs the GPU")
    eventually(lambda: set(keys) <= {key for key, row in outcomes(on).items() if row["status"] == "completed"}, "both")
    eventually(
        lambda: on.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE, "the lost run to be ended"
    )


def test_the_role_allows_what_is_called_and_nothing_else(story: Story) -> None:
    """Last: every kind of run has been by now."""
    accounts = list(yaml.safe_load_all((BASE / "accounts.yaml").read_text()))
    [role] = [one for one in accounts if one["kind"] == "Role"]
    allowed = {
        Call(verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    # As the daemon asks, of a run whose pod has failed and is still there.
    said = story.on.instance.run_launcher.get_run_worker_debug_info(story.on.runs()[-1])
    assert said is not None
    assert story.on.cluster.calls <= allowed, "called and not allowed"
    assert allowed <= story.on.cluster.calls, "allowed and never called"
