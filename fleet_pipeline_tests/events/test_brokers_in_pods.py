"""The brokers of k8s/components/nats and nats-cluster, really started: with the Secrets that k8s/secrets.sh makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fleet_pipeline.common.errors import BrokerUnavailable, StreamMismatch
from fleet_pipeline.events.connection import run_blocking
from fleet_pipeline.events.envelope import Envelope, Sealed
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.publisher import prepare_broker, publish
from fleet_pipeline_tests.support.http import free_port
from fleet_pipeline_tests.support.manifests import K8S, render_with

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="k8s/secrets.sh needs openssl"),
]

# Keeps what it is told to create, as the API server would.
KUBECTL = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$STORE/calls"
[ "$3" = get ] && { [ -d "$STORE/$5" ]; exit; }
[ "$3 $4 $5" = "create secret generic" ] || exit 0
mkdir "$STORE/$6"
for pair in "${@:7}"; do pair=${pair#--from-file=}; cp "${pair#*=}" "$STORE/$6/${pair%%=*}"; done
"""


class Secrets:
    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.store.mkdir()
        (folder / "kubectl").write_text(KUBECTL)
        (folder / "kubectl").chmod(0o755)
        self._path = f"{folder}:{os.environ['PATH']}"

    def make(self) -> str:
        environment = os.environ | {"STORE": str(self.store), "PATH": self._path}
        script = [K8S / "secrets.sh", "fleet"]
        return subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout

    def of(self, name: str) -> dict[str, str]:
        return {file.name: file.read_text() for file in (self.store / name).iterdir()}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    found = Secrets(tmp_path_factory.mktemp("secrets"))
    found.make()
    return found


def test_secrets_are_made_once_and_no_value_is_an_argument(secrets: Secrets) -> None:
    before = {folder.name: secrets.of(folder.name) for folder in secrets.store.iterdir() if folder.is_dir()}
    assert "made" not in secrets.make()
    assert {folder.name: secrets.of(folder.name) for folder in secrets.store.iterdir() if folder.is_dir()} == before
    calls = (secrets.store / "calls").read_text()
    values = [value for secret in before.values() for value in secret.values() if len(value) > 20]
    assert len(values) > 10
    assert not [value for value in values if value in calls]
    assert before["fleet-postgres"]["password"] in before["fleet-database"]["DAGSTER_POSTGRES_URL"]
    assert before["fleet-nats-daemon"]["FLEET_NATS__PASSWORD"] == before["fleet-nats-passwords"]["NATS_DAEMON_PASSWORD"]


def test_secrets_that_belong_together_are_not_made_one_by_one(tmp_path: Path) -> None:
    """A new certificate under the old authority would be refused by everybody."""
    secrets = Secrets(tmp_path)
    secrets.make()
    shutil.rmtree(secrets.store / "fleet-nats-tls")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        secrets.make()
    assert "fleet-nats-tls fleet-nats-ca belong together" in refused.value.stderr
    shutil.rmtree(secrets.store / "fleet-nats-ca")
    assert "fleet-nats-tls made" in secrets.make()


@contextmanager
def brokers(
    folder: Path, secrets: Secrets, *components: str
) -> Iterator[tuple[list[int], list[subprocess.Popen[bytes]]]]:
    """Start as many as are rendered, as their pods do; yields their ports and processes. Addresses alone are this machine's."""
    manifests = render_with(folder, *components)
    [number] = [
        one["spec"]["replicas"]
        for one in manifests
        if one["metadata"]["name"] == "fleet-nats" and one["kind"] == "StatefulSet"
    ]
    [data] = [
        one["data"]
        for one in manifests
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("fleet-nats-")
    ]
    clients, routes = [free_port() for _ in range(number)], [free_port() for _ in range(number)]
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        for n in range(number):
            pod = folder / f"pod-{n}"
            pod.mkdir()
            here = {
                "port: 4222": f"port: {clients[n]}",
                "port: 6222": f"port: {routes[n]}",
                "http: 0.0.0.0:8222": f"http: 127.0.0.1:{free_port()}",
                "/etc/nats-tls": str(secrets.store / "fleet-nats-tls"),
                "store_dir: /data": f"store_dir: {pod}/data",
            } | {f"fleet-nats-{m}.fleet-nats:6222": f"localhost:{port}" for m, port in enumerate(routes)}
            for name, text in data.items():
                for old, new in here.items():
                    text = text.replace(old, new)
                assert "8222" not in text, "probes come to another address"
                (pod / name).write_text(text)
            command = [Path(sys.executable).with_name("nats-server"), "--config", pod / "nats.conf", "-l", pod / "log"]
            variables = os.environ | secrets.of("fleet-nats-passwords") | {"POD_NAME": f"fleet-nats-{n}"}
            process = subprocess.Popen(command, env=variables)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield clients, processes


def as_user(port: int, secrets: Secrets, user: str) -> NatsOptions:
    ca, password = (
        secrets.store / "fleet-nats-ca/ca.crt",
        secrets.of("fleet-nats-passwords")[f"NATS_{user.upper()}_PASSWORD"],
    )
    return NatsOptions(
        url=f"tls://localhost:{port}", user=user, password=password, inbox_prefix=f"_INBOX.{user}", tls_ca_file=str(ca)
    )


def prepared(options: NatsOptions, replicas: int) -> list[str]:
    """Make the streams, as the Job does: again and again, until the brokers have found each other and chosen a leader."""
    for _ in range(150):
        try:
            return run_blocking(options, partial(prepare_broker, replicas=replicas))
        except (BrokerUnavailable, StreamMismatch) as error:
            why = error
            time.sleep(0.2)
    raise AssertionError(f"the brokers were not ready after 150 tries: {why}")


def event(key: str) -> Sealed:
    one = Envelope(event_type="deliberation.completed", idempotency_key=key, correlation_id="t", payload={})
    return one.sealed()


def test_one_broker_takes_events_over_tls_from_who_may(tmp_path: Path, secrets: Secrets) -> None:
    with brokers(tmp_path, secrets, "nats") as (ports, _):
        assert prepared(as_user(ports[0], secrets, "setup"), 1) == []
        daemon = as_user(ports[0], secrets, "daemon")
        assert run_blocking(daemon, partial(publish, make_events=lambda _: [event("k")])).stored == ("k",)
        with pytest.raises(BrokerUnavailable):
            run_blocking(daemon.model_copy(update={"password": SecretStr("guessed")}), prepare_broker)
        with pytest.raises(BrokerUnavailable, match="certificate"):
            run_blocking(daemon.model_copy(update={"tls_ca_file": None}), prepare_broker)


def test_three_brokers_lose_one_and_no_event(tmp_path: Path, secrets: Secrets) -> None:
    with brokers(tmp_path, secrets, "nats", "nats-cluster") as (ports, processes):
        assert prepared(as_user(ports[0], secrets, "setup"), 3) == []
        assert prepared(as_user(ports[1], secrets, "setup"), 5)[0].startswith("stream DELIBERATIONS: 3 of the brokers")
        every = as_user(ports[0], secrets, "daemon").model_copy(
            update={"url": ",".join(f"tls://localhost:{port}" for port in ports)}
        )
        stored = list(run_blocking(every, partial(publish, make_events=lambda _: [event("before")])).stored)
        processes[0].kill()
        processes[0].wait()
        for _ in range(150):  # a new leader
            try:
                stored += run_blocking(every, partial(publish, make_events=lambda _: [event("after")])).stored
                break
            except (BrokerUnavailable, StreamMismatch):
                time.sleep(0.2)
        assert stored == ["before", "after"]

        async def count(connection: Any) -> int:
            found = await connection.jetstream().stream_info("DELIBERATIONS")
            return int(found.state.messages)

        assert run_blocking(every, count) == 2
