"""The images for machines without a GPU, built from nothing and run as restricted pods. Needs root, mmdebstrap, buildah and podman: skipped elsewhere.

Its base is made by mmdebstrap, so that no registry of images is asked. A machine whose package index needs a certificate or an
address says so in BUILD_OPTIONS (k8s/images/build.sh).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet_pipeline_tests.support.manifests import K8S, ROOT, render

TOOLS = ("mmdebstrap", "buildah", "podman", "crun", "unshare")
pytestmark = [
    pytest.mark.instance,
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(
        os.getuid() != 0 or not all(map(shutil.which, TOOLS)), reason=f"needs root and {', '.join(TOOLS)}"
    ),
]

BASE = """FROM scratch
ADD rootfs.tar /
"""
# podman inside of a container: crun refuses a hybrid cgroup mount, and no limit may be raised there.
ENGINE = '[containers]\ndefault_ulimits=[]\n[engine]\nruntime="crun"\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'
PODMAN = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"'


def run(*command: str | Path, **variables: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Builds an image of k8s/images by its name."""
    folder = tmp_path_factory.mktemp("image")
    packages = "--include=python3-minimal,python3-venv,ca-certificates"
    run("mmdebstrap", "--variant=minbase", packages, "bookworm", folder / "rootfs.tar")
    (folder / "Containerfile").write_text(BASE)
    isolated = {"BUILDAH_ISOLATION": "chroot"}
    run("buildah", "build", "-q", "-t", "localhost/fleet-base:test", "-f", folder / "Containerfile", folder, **isolated)

    def by_name(name: str) -> str:
        run(K8S / "images/build.sh", name, BASE="localhost/fleet-base:test", **isolated)
        return f"localhost/fleet-pipeline/{name}:0.1.0"

    return by_name


@pytest.fixture(scope="module")
def image(build: Callable[[str], str]) -> str:
    return build("control")


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "containers.conf").write_text(ENGINE)

    def call(*arguments: str | Path) -> str:
        return run(
            "unshare", "-m", "sh", "-c", PODMAN, "podman", *arguments, CONTAINERS_CONF=str(tmp_path / "containers.conf")
        )

    yield call
    call("pod", "rm", "-f", "fleet-try")


def test_the_image_says_what_it_is_and_what_is_in_it(image: str) -> None:
    config = json.loads(run("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def restricted(image: str, script: str) -> dict[str, Any]:
    """A pod that runs `script` with the security of the services, and a folder of its own at /tmp."""
    [code] = [
        one
        for one in render(K8S / "overlays/dev")
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "fleet-code"
    ]
    spec = code["spec"]["template"]["spec"]
    [container] = spec["containers"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "fleet-try"},
        "spec": {
            "hostNetwork": True,
            "restartPolicy": "Never",
            "securityContext": {
                name: spec["securityContext"][name] for name in ("runAsNonRoot", "runAsUser", "runAsGroup")
            },
            "containers": [
                {
                    "name": "fleet",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", script],
                    "securityContext": container["securityContext"],
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def test_services_start_in_it_with_the_security_of_their_manifests(image: str, podman: Any, tmp_path: Path) -> None:
    script = 'touch /x; id -u; fleet metrics --storage /tmp/s; python3 -c \'import json; print([p["name"] for p in json.load(open("/opt/fleet/packages.json")) if p["name"] in ("vllm", "torch", "fleet-pipeline")])\''
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(restricted(image, script)))
    podman("kube", "play", tmp_path / "pod.yaml")
    podman("wait", "fleet-try-fleet")
    said = podman("logs", "fleet-try-fleet")
    assert "10001" in said
    assert "fleet_deliberations{" in said
    assert "['fleet-pipeline']" in said
    assert podman("inspect", "--format", "{{.State.ExitCode}}", "fleet-try-fleet").strip() == "0"


def test_the_engine_on_cpu_deliberates_in_its_image(build: Callable[[str], str], podman: Any, tmp_path: Path) -> None:
    task = '{"task_id": "t1", "description": "Design a rate limiter."}'
    script = f"cd /tmp; echo '{task}' > backlog.jsonl; fleet run backlog.jsonl --model fleet-tiny --nats off --json"
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(restricted(build("engine-cpu"), script)))
    podman("kube", "play", tmp_path / "pod.yaml")
    podman("wait", "fleet-try-fleet")
    said = podman("logs", "fleet-try-fleet")
    assert podman("inspect", "--format", "{{.State.ExitCode}}", "fleet-try-fleet").strip() == "0", said[-2_000:]
    assert '"status": "completed"' in said
