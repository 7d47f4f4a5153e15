"""Renders what stands in k8s/, and asks its policy. kubectl and Rego's interpreter are wheels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())

Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    kubectl = Path(sys.executable).with_name("kubectl")
    made = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def render_with(folder: Path, *components: str) -> list[Manifest]:
    """The base with these components, from a kustomization in `folder`."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "fleet",
        "resources": [os.path.relpath(K8S / "base", folder.resolve())],
        "components": [os.path.relpath(K8S / "components" / name, folder.resolve()) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(folder)


def denied(manifest: Mapping[str, Any]) -> list[str]:
    """What the policy says against a manifest."""
    from regopy import Interpreter

    interpreter = Interpreter()
    interpreter.add_module("policy", (K8S / "policy.rego").read_text())
    interpreter.set_input(manifest)
    [found] = interpreter.query("data.main.deny").results[0].expressions
    return list(found)


class At(NamedTuple):
    """One end of a connection: a pod by its labels and its namespace's, or, without labels, something that is no pod."""

    labels: Mapping[str, str] | None
    namespace: Mapping[str, str] = {"kubernetes.io/metadata.name": "fleet"}


def allows(policies: Sequence[Manifest], source: At, target: At, port: int, protocol: str = "TCP") -> bool:
    """Whether NetworkPolicies of the namespace `fleet` let `source` connect to `target`.

    As the documentation of Kubernetes has it: a pod that policies select may do what one of them allows; both ends count.
    """
    return _end_allows(policies, "Egress", source, target, port, protocol) and _end_allows(
        policies, "Ingress", target, source, port, protocol
    )


def _end_allows(policies: Sequence[Manifest], direction: str, own: At, other: At, port: int, protocol: str) -> bool:
    if own.labels is None or own.namespace != At(None).namespace:
        return True  # not of this namespace
    specs = [policy["spec"] for policy in policies]
    mine = [one for one in specs if direction in one["policyTypes"] and _selects(one["podSelector"], own.labels)]
    rules = [rule for spec in mine for rule in spec.get(direction.lower(), ())]
    return not mine or any(_rule_allows(rule, direction, other, port, protocol) for rule in rules)


def _rule_allows(rule: Manifest, direction: str, other: At, port: int, protocol: str) -> bool:
    ports = [(one.get("protocol", "TCP"), one["port"]) for one in rule.get("ports", ())]
    if ports and (protocol, port) not in ports:
        return False
    peers = rule.get("to" if direction == "Egress" else "from", ())
    return not peers or (other.labels is not None and any(_is_peer(peer, other) for peer in peers))


def _is_peer(peer: Manifest, other: At) -> bool:
    assert other.labels is not None
    here = other.namespace == At(None).namespace
    namespace = _selects(peer["namespaceSelector"], other.namespace) if "namespaceSelector" in peer else here
    return namespace and _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    expressions = selector.get("matchExpressions", ())
    assert all(one["operator"] == "In" for one in expressions), "only In is known here"
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )
