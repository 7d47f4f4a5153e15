"""A small API server for the endpoints that dagster-k8s calls, with a scheduler and nodes that run pods as local processes.

Real: requests over HTTP by the official client, with a token; strict validation of what is posted (422), conflicts (409) and
absent objects (404); one pod for a Job, on a node that fits it by labels, taints and GPUs, or pending until there is one; the
container's command with the environment that its ConfigMaps and Secrets give it; SIGTERM, a grace period, SIGKILL; owners.
Not real: images, volumes, limits of memory and CPU, users, networks. No pod is watched: dagster-k8s only asks.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

GPU = "nvidia.com/gpu"
VERSION = "1.33"
NAMESPACE = "fleet"
TOKEN = "a-token-of-the-test"
_PATH = re.compile(
    r"/(?:api|apis)(?:/(?P<group>batch))?/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>\w+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>\w+))?$"
)


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Call(NamedTuple):
    """What a Role would have to allow."""

    verb: str
    group: str
    resource: str


@dataclass
class Node:
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[dict[str, str]] = field(default_factory=list)
    gpus: int = 0

    def takes(self, spec: Mapping[str, Any], gpus_free: int) -> bool:
        selected = (spec.get("nodeSelector") or {}).items() <= self.labels.items()
        tolerated = all(any(_tolerates(one, taint) for one in spec.get("tolerations") or ()) for taint in self.taints)
        return selected and tolerated and gpus_of(spec) <= gpus_free


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, taint["key"])
    return (toleration.get("key"), toleration.get("value")) == (taint["key"], taint["value"])


def gpus_of(spec: Mapping[str, Any]) -> int:
    return sum(int(one.get("resources", {}).get("limits", {}).get(GPU, 0)) for one in spec["containers"])


@dataclass
class Pod:
    name: str
    job: str
    uid: str
    labels: dict[str, str]
    spec: dict[str, Any]
    log: Path
    phase: str = "Pending"
    node: Node | None = None
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0  # by the clock that events have
    ended: float | None = None
    kill_at: float | None = None  # when the grace period after SIGTERM is over

    @property
    def runs(self) -> bool:
        return self.phase in ("Pending", "Running")

    def send(self, number: int) -> None:
        """To all processes of the pod."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)


class Cluster:
    """Its state, and what happens in it. `objects` are the ConfigMaps and Secrets, as (kind, name): data."""

    def __init__(self, folder: Path, nodes: list[Node], objects: Mapping[tuple[str, str], Mapping[str, str]]) -> None:
        self.folder = folder
        self.nodes = nodes
        self.objects = objects
        # By image: what is installed there and nowhere else is not to be seen by others.
        self.of_image: dict[str, dict[str, str]] = {}
        self.base: dict[str, str] = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.posted: list[dict[str, Any]] = []
        self.pods: list[Pod] = []
        self.calls: set[Call] = set()
        self.lock = threading.RLock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    # The API.

    def create_job(self, namespace: str, job: dict[str, Any]) -> dict[str, Any]:
        import kubernetes_validate

        job.setdefault("apiVersion", "batch/v1")
        job.setdefault("kind", "Job")
        try:
            kubernetes_validate.validate(job, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            raise Refused(422, "Invalid", f"{where}: {error.message}") from error
        name = job["metadata"]["name"]
        with self.lock:
            if name in self.jobs:
                raise Refused(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
            self.posted.append(json.loads(json.dumps(job)))
            job["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4())}
            self.jobs[name] = job
            template = job["spec"]["template"]
            labels = template["metadata"].get("labels", {}) | {"job-name": name, "batch.kubernetes.io/job-name": name}
            pod = f"{name}-{uuid.uuid4().hex[:5]}"
            self.pods.append(Pod(pod, name, str(uuid.uuid4()), labels, template["spec"], self.folder / f"{pod}.log"))
            return self.job(name)

    def job(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise Refused(404, "NotFound", f'jobs.batch "{name}" not found')
        phases = [pod.phase for pod in self.pods if pod.job == name]
        counts = {
            "active": sum(phase in ("Pending", "Running") for phase in phases),
            "succeeded": phases.count("Succeeded"),
            "failed": phases.count("Failed"),
        }
        return self.jobs[name] | {"status": {name: count for name, count in counts.items() if count}}

    def delete_job(self, name: str) -> None:
        self.job(name)
        with self.lock:
            del self.jobs[name]
            for pod in [pod for pod in self.pods if pod.job == name]:
                self.delete_pod(pod.name)

    def pod(self, name: str) -> Pod:
        for pod in self.pods:
            if pod.name == name:
                return pod
        raise Refused(404, "NotFound", f'pods "{name}" not found')

    def delete_pod(self, name: str) -> None:
        pod = self.pod(name)
        if pod.phase == "Pending":
            pod.phase = "Failed"
        elif pod.runs and pod.kill_at is None:
            pod.send(signal.SIGTERM)
            pod.kill_at = time.monotonic() + pod.spec.get("terminationGracePeriodSeconds", 30)
        for job in [job for job in self.jobs.values() if _is_owned(job, pod.uid)]:
            self.delete_job(job["metadata"]["name"])

    # What nodes do.

    def _work(self) -> None:
        while not self._closed.wait(0.05):
            with self.lock:
                for pod in self.pods:
                    self._reap(pod)
                for pod in self.pods:
                    if pod.phase == "Pending":
                        self._schedule(pod)

    def _reap(self, pod: Pod) -> None:
        if pod.process is None or pod.ended is not None:
            return
        if pod.kill_at is not None and time.monotonic() > pod.kill_at:
            pod.send(signal.SIGKILL)
        code = pod.process.poll()
        if code is not None:
            pod.phase, pod.ended = ("Succeeded" if code == 0 else "Failed"), time.time()

    def _schedule(self, pod: Pod) -> None:
        for node in self.nodes:
            used = sum(gpus_of(other.spec) for other in self.pods if other.node is node and other.ended is None)
            if node.takes(pod.spec, node.gpus - used):
                pod.node = node
                self._start(pod)
                return

    def _start(self, pod: Pod) -> None:
        [container] = pod.spec["containers"]
        command = [*container.get("command", ()), *container.get("args", ())]
        with pod.log.open("wb") as log:
            pod.process = subprocess.Popen(
                command, env=self.environment(pod), stdout=log, stderr=log, start_new_session=True
            )
        pod.phase, pod.began = "Running", time.time()

    def environment(self, pod: Pod) -> dict[str, str]:
        [container] = pod.spec["containers"]
        found = self.base | self.of_image.get(container["image"], {}) | {"HOSTNAME": pod.name}
        for source in container.get("envFrom", ()):
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            found |= self.objects[kind, source[f"{kind[0].lower()}{kind[1:]}Ref"]["name"]]
        for one in container.get("env", ()):
            if "value" in one:
                found[one["name"]] = one["value"]
            elif "fieldRef" in one["valueFrom"]:
                fields = {"metadata.namespace": NAMESPACE, "metadata.name": pod.name}
                found[one["name"]] = fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in one["valueFrom"]:
                reference = one["valueFrom"]["secretKeyRef"]
                found[one["name"]] = self.objects["Secret", reference["name"]][reference["key"]]
        return found

    # What happens to nodes, in tests.

    def lose(self, pod: Pod) -> None:
        """A pod ends with its node, or is killed for its memory. It is told nothing."""
        pod.send(signal.SIGKILL)

    def forget(self, pod: Pod) -> None:
        """What the control plane does with pods of a node that is gone for good: they are deleted, and what they own."""
        with self.lock:
            self.lose(pod)
            self.delete_pod(pod.name)

    def running(self, gpu: bool) -> list[Pod]:
        return [pod for pod in self.pods if pod.phase == "Running" and bool(gpus_of(pod.spec)) == gpu]

    def __enter__(self) -> Cluster:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        for pod in self.pods:
            pod.send(signal.SIGKILL)
            if pod.process is not None:
                pod.process.wait()


def _is_owned(job: Mapping[str, Any], uid: str) -> bool:
    return any(owner["uid"] == uid for owner in job["metadata"].get("ownerReferences") or ())


def _shown(pod: Pod, namespace: str) -> dict[str, Any]:
    state: dict[str, Any] = {"Pending": {"waiting": {}}, "Running": {"running": {}}}.get(
        pod.phase, {"terminated": {"exitCode": pod.process.returncode if pod.process else 1}}
    )
    [container] = pod.spec["containers"]
    status = {
        "name": container["name"],
        "ready": pod.phase == "Running",
        "restartCount": 0,
        "image": container["image"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": namespace, "uid": pod.uid, "labels": pod.labels},
        "spec": pod.spec,
        "status": {"phase": pod.phase, "containerStatuses": [status | {"imageID": "", "state": state}]},
    }


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def _answer(self, verb: str) -> None:
        try:
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "no token, or another's")
            status, body = self._route(verb)
        except Refused as error:
            failure = {"apiVersion": "v1", "kind": "Status", "status": "Failure"}
            status, body = error.code, failure | {"reason": error.reason, "message": str(error), "code": error.code}
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, verb: str) -> tuple[int, Any]:
        url = urlsplit(self.path)
        found = _PATH.match(url.path)
        if found is None:
            raise Refused(404, "NotFound", f"no such path: {url.path}")
        group, namespace, kind, name, sub = (
            found[part] or "" for part in ("group", "namespace", "kind", "name", "sub")
        )
        verb = "list" if verb == "get" and not name else verb
        cluster = self.cluster
        cluster.calls.add(Call(verb, group, f"{kind}/{sub}" if sub else kind))
        length = int(self.headers.get("content-length") or 0)
        sent = json.loads(self.rfile.read(length)) if length else {}
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with cluster.lock:
            match verb, kind, sub:
                case "create", "jobs", "":
                    return 201, cluster.create_job(namespace, sent)
                case "get", "jobs", "" | "status":
                    return 200, cluster.job(name)
                case "list", "jobs", _:
                    return 200, _list("Job", [cluster.job(one) for one in cluster.jobs if _selected(query, one, {})])
                case "delete", "jobs", "":
                    cluster.delete_job(name)
                    return 200, {"apiVersion": "v1", "kind": "Status", "status": "Success"}
                case "get", "pods", "":
                    return 200, _shown(cluster.pod(name), namespace)
                case "get", "pods", "log":
                    return 200, cluster.pod(name).log.read_text(errors="replace")
                case "list", "pods", _:
                    pods = [pod for pod in cluster.pods if _selected(query, pod.name, pod.labels)]
                    return 200, _list("Pod", [_shown(pod, namespace) for pod in pods])
                case "delete", "pods", "":
                    cluster.delete_pod(name)
                    return 200, _shown(cluster.pod(name), namespace)
                case "list", "events", _:
                    return 200, _list("Event", [])
        raise Refused(
            405, "MethodNotAllowed", f"{verb} {kind}/{sub}: dagster-k8s did not call this when this was written"
        )

    def do_GET(self) -> None:
        self._answer("get")

    def do_POST(self) -> None:
        self._answer("create")

    def do_DELETE(self) -> None:
        self._answer("delete")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _list(kind: str, items: list[Any]) -> dict[str, Any]:
    return {"apiVersion": "v1" if kind != "Job" else "batch/v1", "kind": f"{kind}List", "metadata": {}, "items": items}


def _selected(query: Mapping[str, str], name: str, labels: Mapping[str, str]) -> bool:
    by_field = query.get("fieldSelector", "")
    wanted = dict(pair.split("=", 1) for pair in query.get("labelSelector", "").split(",") if pair)
    return by_field in ("", f"metadata.name={name}") and wanted.items() <= labels.items()


@contextmanager
def api_server(cluster: Cluster) -> Iterator[Path]:
    """Serve the cluster's API; yields a kubeconfig."""
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
        "current-context": "test",
    }
    path = cluster.folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
