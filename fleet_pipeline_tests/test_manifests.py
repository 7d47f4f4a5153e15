"""What stands in k8s/: it renders, every object is valid, the policy has nothing against it, and what it names is there."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from fleet_pipeline.instance.gpu_pod import gpu_pod_executor
from fleet_pipeline.settings import Settings, load_settings
from fleet_pipeline_tests.support.manifests import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    ROOT,
    At,
    Manifest,
    allows,
    denied,
    render,
    render_with,
)

pytestmark = pytest.mark.instance

VERSIONS = ("1.31", "1.33", "1.37")
NEEDS = {"nats-cluster": ["nats", "nats-cluster"], "vllm-server": ["models", "vllm-server"],
         "tool-pod": ["models", "vllm-server", "tool-pod"]}  # fmt: skip


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    found = {name: render(K8S / "overlays" / name) for name in OVERLAYS}
    for name in COMPONENTS:
        found[f"with {name}"] = render_with(tmp_path_factory.mktemp(name), *NEEDS.get(name, [name]))
    return found


def of(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def test_every_overlay_and_component_is_valid_for_three_versions_of_kubernetes(
    rendered: dict[str, list[Manifest]],
) -> None:
    import kubernetes_validate

    looked_at = 0
    for manifests in rendered.values():
        for manifest in manifests:
            if not manifest["apiVersion"].startswith("monitoring.coreos.com/"):
                for version in VERSIONS:
                    kubernetes_validate.validate(manifest, version, strict=True)
                    looked_at += 1
    assert looked_at > 1_000


def strict(schema: Any) -> Any:
    """The schema, refusing fields that it does not name: the API server would drop them in silence."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("pattern"), str):
        found["pattern"] = schema["pattern"].replace("^(?i)", "(?i)^")  # Go's dialect
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def test_custom_resources_are_valid_by_their_published_schemas(rendered: dict[str, list[Manifest]]) -> None:
    import jsonschema

    schemas = json.loads((Path(__file__).parent / "support/crds/monitoring.coreos.com.json").read_text())
    found = [one for one in rendered["production"] if one["apiVersion"].startswith("monitoring.coreos.com/")]
    assert {one["kind"] for one in found} == set(schemas)
    for one in found:
        schema = strict(schemas[one["kind"]])
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(one, schema)
        with pytest.raises(jsonschema.ValidationError, match="selectr|grops"):
            jsonschema.validate(one | {"spec": one["spec"] | {"selectr": {}, "grops": []}}, schema)


def test_what_is_for_the_operator_of_gpus_is_valid() -> None:
    import kubernetes_validate

    for file in sorted((K8S / "gpu-operator").glob("*.yaml")):
        manifest = yaml.safe_load(file.read_text())
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)
        assert all(yaml.safe_load(text)["version"] == "v1" for text in manifest["data"].values())


def test_the_policy_has_nothing_against_what_is_rendered(rendered: dict[str, list[Manifest]]) -> None:
    assert [said for manifests in rendered.values() for manifest in manifests for said in denied(manifest)] == []


def container(manifest: Manifest) -> Any:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def pod(manifest: Manifest) -> Any:
    return manifest["spec"]["template"]["spec"]


BROKEN: dict[str, Callable[[Manifest], Any]] = {
    "pods run as root": lambda one: pod(one)["securityContext"].pop("runAsNonRoot"),
    "no user id": lambda one: pod(one)["securityContext"].update(runAsUser=0),
    "no seccomp profile": lambda one: pod(one)["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    "addresses of services": lambda one: pod(one).pop("enableServiceLinks"),
    "a token is mounted": lambda one: pod(one).pop("automountServiceAccountToken"),
    "no account of its own": lambda one: pod(one).update(serviceAccountName="default"),
    "shares hostPID": lambda one: pod(one).update(hostPID=True),
    "mounts a folder of its node": lambda one: pod(one)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
    "an emptyDir without a limit": lambda one: pod(one)["volumes"].append(
        {"name": "h", "emptyDir": {"medium": "Memory"}}
    ),
    "may gain privileges": lambda one: container(one)["securityContext"].update(allowPrivilegeEscalation=True),
    "keeps capabilities": lambda one: container(one)["securityContext"].update(capabilities={"drop": ["CHOWN"]}),
    "writes to its image": lambda one: container(one)["securityContext"].pop("readOnlyRootFilesystem"),
    "has no limits of memory": lambda one: container(one)["resources"]["limits"].pop("memory"),
    "has no requests of cpu": lambda one: container(one).pop("resources"),
    "has no livenessProbe": lambda one: container(one).pop("livenessProbe"),
    "an image without a version": lambda one: container(one).update(image="fleet-pipeline/control:latest"),
    "should come from a Secret: A_PASSWORD": lambda one: container(one)["env"].append(
        {"name": "A_PASSWORD", "value": "hunter2"}
    ),
    "a Secret's value": lambda one: one.update(kind="Secret"),
}


@pytest.mark.parametrize("said", BROKEN)
def test_the_policy_sees_what_is_broken(said: str, rendered: dict[str, list[Manifest]]) -> None:
    manifest = copy.deepcopy(of(rendered["dev"], "Deployment")["fleet-serve"])
    BROKEN[said](manifest)
    assert any(said in one for one in denied(manifest)), denied(manifest)


def test_the_policy_sees_a_right_to_everything() -> None:
    role = {
        "kind": "Role",
        "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["*"], "verbs": ["get"]}],
    }
    assert denied(role) == ["Role/r: a right to everything"]
    assert denied(role | {"kind": "ClusterRole"}) != denied(role)


def test_all_that_is_named_in_a_pod_is_rendered_or_documented(rendered: dict[str, list[Manifest]]) -> None:
    """ConfigMaps, accounts and claims are there. Secrets are not rendered: k8s/secrets.sh makes each that must be there."""
    made = set(re.findall(r"^secret (fleet-[a-z-]+)", (K8S / "secrets.sh").read_text(), re.MULTILINE))
    for where, manifests in rendered.items():
        known = {kind: of(manifests, kind) for kind in ("ConfigMap", "ServiceAccount", "PersistentVolumeClaim")}
        for manifest in manifests:
            if manifest["kind"] not in ("Deployment", "StatefulSet", "Job"):
                continue
            spec = pod(manifest)
            assert spec["serviceAccountName"] in known["ServiceAccount"], where
            for reference, name, optional in references(spec):
                there = made if reference == "Secret" else known[reference]
                assert optional or name in there, (where, manifest["metadata"]["name"], reference, name)


def references(spec: Manifest) -> list[tuple[str, str, bool]]:
    found = []
    for volume in spec.get("volumes", ()):
        if "configMap" in volume:
            found.append(("ConfigMap", volume["configMap"]["name"], False))
        if "secret" in volume:
            found.append(("Secret", volume["secret"]["secretName"], volume["secret"].get("optional", False)))
        if "persistentVolumeClaim" in volume:
            found.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], False))
    for one in [*spec["containers"], *spec.get("initContainers", ())]:
        for source in one.get("envFrom", ()):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    found.append((kind, source[key]["name"], source[key].get("optional", False)))
        sources = [variable.get("valueFrom", {}) for variable in one.get("env", ())]
        found += [("Secret", source["secretKeyRef"]["name"], False) for source in sources if "secretKeyRef" in source]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_images_of_runs_are_those_of_the_services(overlay: str, rendered: dict[str, list[Manifest]]) -> None:
    """dagster-k8s takes them from the environment, where kustomize's `images` does not reach."""
    environment = of(rendered[overlay], "ConfigMap")["fleet-environment"]["data"]
    services = {container(one)["image"] for one in of(rendered[overlay], "Deployment").values()}
    assert services == {environment["CONTROL_IMAGE"]}
    for job in of(rendered[overlay], "Job").values():
        assert container(job)["image"] in (environment["ENGINE_IMAGE"], environment["CONTROL_IMAGE"])


def settings_of(manifests: list[Manifest], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a pod there reads."""
    maps = of(manifests, "ConfigMap")
    (folder / "fleet.toml").write_text(maps["fleet-settings"]["data"]["fleet.toml"])
    for name, value in (maps["fleet-environment"]["data"] | {"FLEET_CONFIG_FILE": str(folder / "fleet.toml")}).items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_of_every_overlay_are_settings(
    overlay: str, rendered: dict[str, list[Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(rendered[overlay], tmp_path, monkeypatch)
    assert settings.pods.gpu is not None
    assert isinstance(gpu_pod_executor(settings.pods.gpu), dg.ExecutorDefinition)
    claims = {
        one["persistent_volume_claim"]["claim_name"]
        for one in volumes(settings.pods.gpu)
        if "persistent_volume_claim" in one
    }
    assert claims <= set(of(rendered[overlay], "PersistentVolumeClaim"))
    assert settings.storage.startswith("s3://")


def volumes(gpu: dict[str, Any]) -> list[Any]:
    return list(gpu["step_k8s_config"]["pod_spec_config"]["volumes"])


def labels_of(manifests: list[Manifest]) -> dict[str, At]:
    """Every pod that there is or will be, by its component."""
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in manifests if "template" in one.get("spec", {})]
    launcher = yaml.safe_load((K8S / "base/dagster.yaml").read_text())["run_launcher"]["config"]["run_k8s_config"]
    run = launcher["pod_template_spec_metadata"]["labels"]
    gpu = tomllib.loads((K8S / "base/fleet.toml").read_text())["pods"]["gpu"]["step_k8s_config"]
    pods += [run, run | gpu["pod_template_spec_metadata"]["labels"]]
    return {labels["app.kubernetes.io/component"]: At(labels) for labels in pods}


OUTSIDE = At(None)
PROXY = At({}, {"kubernetes.io/metadata.name": "ingress", "fleet/ui": "true"})
PROMETHEUS = At({}, {"kubernetes.io/metadata.name": "monitoring", "fleet/metrics": "true"})
DNS = At({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"})
STRANGER = At({"app": "x"}, {"kubernetes.io/metadata.name": "x"})
CLIENT = At({"app": "y"}, {"kubernetes.io/metadata.name": "y", "fleet/nats-client": "true"})
# (from, to, port, whether). All that the services and the runs open, and what none of them does.
FLOWS: list[tuple[str | At, str | At, int, bool]] = [
    *((name, "database", 5432, True) for name in ("webserver", "daemon", "code", "serve", "metrics", "run", "gpu")),
    *((name, "code", 4000, name in ("webserver", "daemon")) for name in ("webserver", "daemon", "serve", "run", "gpu")),
    *(
        (name, OUTSIDE, 6443, name in ("webserver", "daemon", "run"))
        for name in ("webserver", "daemon", "run", "code", "gpu", "serve")
    ),
    *((name, "store", 8333, True) for name in ("code", "serve", "metrics", "run", "gpu", "bucket")),
    *((name, OUTSIDE, 443, True) for name in ("code", "serve", "metrics", "run", "gpu", "fetch-model")),
    *((name, "broker", 4222, True) for name in ("code", "serve", "metrics", "streams")),
    *((name, "broker", 4222, False) for name in ("run", "gpu", "webserver", "daemon")),
    *((name, OUTSIDE, 443, False) for name in ("broker", "database", "store")),
    ("broker", "broker", 6222, True),
    ("serve", "broker", 6222, False),
    (CLIENT, "broker", 4222, True),
    (STRANGER, "broker", 4222, False),
    (STRANGER, "database", 5432, False),
    (STRANGER, "webserver", 3000, False),
    ("gpu", "webserver", 3000, False),
    (PROXY, "webserver", 3000, True),
    (PROXY, "code", 4000, False),
    (PROMETHEUS, "metrics", 9464, True),
    (STRANGER, "metrics", 9464, False),
    ("gpu", OUTSIDE, 80, False),
]


def test_every_flow_is_allowed_and_no_other(rendered: dict[str, list[Manifest]]) -> None:
    manifests = rendered["gpu"]
    pods, policies = labels_of(manifests), list(of(manifests, "NetworkPolicy").values())

    def end(one: str | At) -> At:
        return pods[one] if isinstance(one, str) else one

    wrong = [flow for flow in FLOWS if allows(policies, end(flow[0]), end(flow[1]), flow[2]) != flow[3]]
    assert wrong == []
    assert all(allows(policies, one, DNS, 53, "UDP") for one in pods.values())
    assert {flow[0] for flow in FLOWS if isinstance(flow[0], str)} == set(pods)


def test_the_model_server_is_asked_by_who_may_and_scraped(rendered: dict[str, list[Manifest]]) -> None:
    manifests = rendered["with vllm-server"]
    pods, policies = labels_of(manifests), list(of(manifests, "NetworkPolicy").values())
    asker = At({}, {"kubernetes.io/metadata.name": "chat", "fleet/vllm-client": "true"})
    allowed = [
        one
        for one in (asker, PROMETHEUS, STRANGER, *pods.values())
        if allows(policies, one, pods["model-server"], 8000)
    ]
    assert allowed == [asker, PROMETHEUS]


def test_a_pod_for_tools_has_a_kernel_of_its_own_and_neither_gpu_nor_models(
    rendered: dict[str, list[Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod as dagster-k8s makes it of these settings."""
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    manifests = rendered["with tool-pod"]
    monkeypatch.setenv("FLEET_STORAGE", "s3://an-overlay-s/own")
    settings = settings_of(manifests, tmp_path, monkeypatch)
    assert settings.engine.server is not None
    assert settings.engine.server.ca_file == "/etc/fleet-vllm/ca.crt"
    assert settings.pods.gpu is not None
    assert isinstance(gpu_pod_executor(settings.pods.gpu), dg.ExecutorDefinition)
    launcher = yaml.safe_load((K8S / "base/dagster.yaml").read_text())["run_launcher"]["config"]["run_k8s_config"]
    own = UserDefinedDagsterK8sConfig.from_dict(settings.pods.gpu["step_k8s_config"])
    both = merged(UserDefinedDagsterK8sConfig.from_dict(launcher), own)
    job = construct_dagster_k8s_job(DagsterK8sJobConfig(job_image="x:1", dagster_home="/opt/dagster/home"), [], "run", user_defined_k8s_config=both)  # fmt: skip
    spec = job.spec.template.spec
    [container] = spec.containers
    assert spec.runtime_class_name == "kata"
    assert not spec.node_selector
    assert not any("gpu" in name for name in container.resources.limits)
    assert not [one for one in spec.volumes if one.persistent_volume_claim]
    assert {one.value_from.secret_key_ref.name for one in container.env if one.value_from and one.value_from.secret_key_ref} == {"fleet-vllm"}  # fmt: skip
    mounted = {one.mount_path for one in container.volume_mounts}
    assert str(Path(settings.tools.workspaces).parent) in mounted
    assert container.security_context.read_only_root_filesystem
    pods, policies = labels_of(manifests), list(of(manifests, "NetworkPolicy").values())
    tools = At(job.spec.template.metadata.labels)
    assert allows(policies, tools, pods["model-server"], 8000)
    assert not allows(policies, pods["run"], pods["model-server"], 8000)
    assert not allows(policies, tools, OUTSIDE, 6443)


def merged(launcher: Any, own: Any) -> Any:
    from dagster_k8s.container_context import K8sContainerContext

    context = K8sContainerContext(run_k8s_config=launcher).merge(K8sContainerContext(run_k8s_config=own))
    return context.run_k8s_config


def test_a_pod_that_no_policy_selects_may_do_all_and_one_with_an_empty_policy_nothing() -> None:
    """The evaluator itself."""
    nothing = {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    a, b = At({"a": "1"}), At({"b": "1"})
    out = {
        "spec": {
            "podSelector": {"matchLabels": {"a": "1"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"b": "1"}}}]}],
        }
    }
    into = {
        "spec": {
            "podSelector": {"matchLabels": {"b": "1"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 1}]}],
        }
    }
    assert allows([], a, b, 1)
    assert not allows([nothing], a, b, 1)
    assert not allows([nothing, out], a, b, 1)
    assert allows([nothing, out, into], a, b, 1)
    assert not allows([nothing, out, into], a, b, 2)
    assert not allows([nothing, out, into], a, OUTSIDE, 1)
    assert not allows([nothing, out, into], b, a, 1)
    assert not allows([nothing, into], STRANGER, b, 1)


def test_alerts_are_of_figures_that_there_are(rendered: dict[str, list[Manifest]]) -> None:
    import promql_parser

    [rules] = of(rendered["production"], "PrometheusRule").values()
    ours = set(re.findall(r'"(fleet_\w+)"', (ROOT / "fleet_pipeline/services/metrics.py").read_text()))
    named = set()
    for rule in rules["spec"]["groups"][0]["rules"]:
        promql_parser.parse(rule["expr"])
        named |= set(re.findall(r"\bfleet_\w+", rule["expr"]))
        assert rule["annotations"].keys() == {"summary", "description"}
    assert named <= ours
    assert len(named) >= 4


@pytest.mark.parametrize(
    ("linter", "files"),
    [
        ("hadolint", sorted(map(str, K8S.glob("images/*.Dockerfile")))),
        ("shellcheck", sorted(map(str, [*K8S.rglob("*.sh"), *ROOT.glob("requirements/*.sh")]))),
    ],
)
def test_recipes_and_scripts_have_no_findings(linter: str, files: list[str], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name(linter)
    done = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\nrm $1\n" if linter == "shellcheck" else "FROM debian\nRUN cd /tmp\n")
    assert subprocess.run([program, bad], capture_output=True, check=False).returncode != 0
