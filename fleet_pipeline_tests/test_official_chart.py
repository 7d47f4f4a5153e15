"""The values for Dagster's own Helm chart, held against what the chart takes, as far as that was written down.

The chart is not here, so it is not rendered: `as_pod` says what it makes of the values, after its templates.
"""

from __future__ import annotations

import copy
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet_pipeline.instance.names import CODE_LOCATION
from fleet_pipeline_tests.support.manifests import K8S, At, Manifest, allows, render, render_with

pytestmark = pytest.mark.instance

CHART = K8S / "components/official-chart"
SCHEMA = json.loads((Path(__file__).parent / "support/dagster_chart.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
[CODE] = VALUES["dagster-user-deployments"]["deployments"]
PODS: dict[str, Any] = {"webserver": VALUES["dagsterWebserver"], "daemon": VALUES["dagsterDaemon"], "code": CODE}
# What the chart labels its pods with, besides.
OF_THE_CHART = {
    "webserver": {"component": "dagster-webserver"},
    "daemon": {"component": "dagster-daemon", "deployment": "daemon"},
    "code": {"component": "user-deployments", "deployment": "fleet-code"},
}


def as_pod(name: str) -> Manifest:
    values = PODS[name]
    image = values["image"]
    probes = {
        kind: {key: value for key, value in values[kind].items() if key != "enabled"}
        for kind in ("startupProbe", "livenessProbe")
        if kind in values
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": values["labels"] | OF_THE_CHART[name]},
        "spec": {
            "securityContext": values["podSecurityContext"],
            "volumes": values["volumes"],
            "containers": [
                {
                    "name": "dagster",
                    "image": f"{image['repository']}:{image['tag']}",
                    "imagePullPolicy": image["pullPolicy"],
                    "securityContext": values["securityContext"],
                    "resources": values["resources"],
                    "env": values["env"],
                    "envFrom": [{"configMapRef": one} for one in values["envConfigMaps"]]
                    + [{"secretRef": one} for one in values["envSecrets"]],
                    "volumeMounts": values["volumeMounts"],
                    **probes,
                }
            ],
        },
    }


def test_the_values_are_values_of_the_chart() -> None:
    import jsonschema

    jsonschema.validate(VALUES, SCHEMA)
    wrong = copy.deepcopy(VALUES)
    wrong["dagsterDaemon"]["volumeMount"] = wrong["dagsterDaemon"].pop("volumeMounts")
    with pytest.raises(jsonschema.ValidationError, match="volumeMount"):
        jsonschema.validate(wrong, SCHEMA)
    assert metadata.version("dagster").rsplit(".", 1)[0] in SCHEMA["$comment"]
    assert f"--version {metadata.version('dagster')}" in (CHART / "kustomization.yaml").read_text()


@pytest.mark.parametrize("name", PODS)
def test_its_pods_are_those_of_the_base_in_all_that_both_say(name: str) -> None:
    import kubernetes_validate

    pod = as_pod(name)
    kubernetes_validate.validate(pod, "1.33", strict=True)
    [theirs] = [
        one["spec"]["template"]
        for one in render(K8S / "overlays/gpu")
        if one["kind"] == "Deployment" and one["metadata"]["name"] == f"fleet-{name}"
    ]
    labels = {key: value for key, value in theirs["metadata"]["labels"].items() if key != "app.kubernetes.io/name"}
    assert labels.items() - {("app.kubernetes.io/part-of", "fleet")} <= pod["metadata"]["labels"].items()
    [ours], [base] = pod["spec"]["containers"], theirs["spec"]["containers"]
    assert pod["spec"]["securityContext"] == theirs["spec"]["securityContext"]
    for key in ("image", "securityContext", "resources", "startupProbe", "livenessProbe"):
        if key in ours:
            assert ours[key] == base[key], key
    for key in ("env", "envFrom"):
        assert sorted(map(json.dumps, ours[key])) == sorted(map(json.dumps, base[key])), key
    mounts = {one["mountPath"]: one["name"] for one in ours["volumeMounts"]}
    assert mounts.keys() == {one["mountPath"] for one in base["volumeMounts"]}
    assert {one["name"] for one in pod["spec"]["volumes"]} == set(mounts.values())
    assert VALUES["global"]["dagsterHome"] not in mounts  # the chart mounts its dagster.yaml there


def test_the_code_location_has_the_name_that_it_has_without_the_chart() -> None:
    [server] = VALUES["dagsterWebserver"]["workspace"]["servers"]
    [plain] = yaml.safe_load((K8S / "base/workspace.yaml").read_text())["load_from"]
    assert server["name"] == plain["grpc_server"]["location_name"] == CODE_LOCATION
    assert (server["host"], server["port"]) == (CODE["name"], CODE["port"])


def test_beside_the_chart_the_base_keeps_all_but_what_the_chart_has(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "beside").mkdir()
    plain = {(one["kind"], one["metadata"]["name"]) for one in render_with(tmp_path / "plain")}
    beside = render_with(tmp_path / "beside", "official-chart")
    names = {(one["kind"], one["metadata"]["name"]) for one in beside}
    assert {name for kind, name in plain - names if kind == "Deployment"} == {f"fleet-{pod}" for pod in PODS}
    assert {kind for kind, _ in plain - names} == {"Deployment", "Service", "PodDisruptionBudget"}
    assert ("Job", "fleet-prepare") in names
    service = VALUES["global"]["serviceAccountName"], CODE["serviceAccount"]["name"]
    assert {("ServiceAccount", name) for name in service} <= names

    policies = [one for one in beside if one["kind"] == "NetworkPolicy"]
    ends = {name: At(as_pod(name)["metadata"]["labels"]) for name in PODS}
    asking = [name for name in PODS if allows(policies, ends[name], ends["code"], CODE["port"])]
    assert asking == ["webserver", "daemon"]
    outside = [name for name in PODS if allows(policies, ends[name], At(None), 6443)]
    assert outside == ["webserver", "daemon"]
    proxy = At({}, {"kubernetes.io/metadata.name": "ingress", "fleet/ui": "true"})
    port = VALUES["dagsterWebserver"]["service"]["port"]
    assert allows(policies, proxy, ends["webserver"], port)
    assert not allows(policies, ends["daemon"], ends["webserver"], port)
