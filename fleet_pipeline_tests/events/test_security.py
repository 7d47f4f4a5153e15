"""Ways in: what a broker asks for, and that nothing of it shows."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from fleet_pipeline.cli import main
from fleet_pipeline.events.connection import BrokerUnavailable, connect
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions, without_secrets
from fleet_pipeline.events.publisher import check, publish
from fleet_pipeline.events.subscriber import arriving
from fleet_pipeline.settings import load_settings


@contextmanager
def server(folder: Path, configuration: str) -> Iterator[str]:
    """A real nats-server with this configuration beside JetStream and a free port; gives host:port."""
    (folder / "server.conf").write_text(f'jetstream {{ store_dir: "{folder}/js" }}\n{configuration}')
    program = Path(sys.executable).with_name("nats-server")
    arguments = [
        "-c",
        folder / "server.conf",
        "-a",
        "127.0.0.1",
        "-p",
        "-1",
        "--ports_file_dir",
        folder,
        "-l",
        folder / "log",
    ]
    process = subprocess.Popen([program, *arguments])
    try:
        ports = folder / f"nats-server_{process.pid}.ports"
        while not ports.exists() or not ports.read_text():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        found = json.loads(ports.read_text())
        yield (found.get("nats") or found["tls"])[0].partition("://")[2]
    finally:
        process.terminate()
        process.wait()


def test_user_and_password(tmp_path: Path) -> None:
    with server(tmp_path, 'authorization { user: fleet, password: "pa55-of-fleet" }') as place:
        check(NatsOptions(url=f"nats://{place}", user="fleet", password="pa55-of-fleet"))
        check(NatsOptions(url=f"nats://fleet:pa55-of-fleet@{place}"))
        with pytest.raises(BrokerUnavailable) as refused:
            check(NatsOptions(url=f"nats://{place}", user="fleet", password="wrong-pa55"))
    assert "wrong-pa55" not in str(refused.value)
    assert place in str(refused.value)


def test_a_token(tmp_path: Path) -> None:
    with server(tmp_path, 'authorization { token: "t0ken-of-fleet" }') as place:
        check(NatsOptions(url=f"nats://{place}", token="t0ken-of-fleet"))
        with pytest.raises(BrokerUnavailable) as refused:
            check(NatsOptions(url=f"nats://{place}", token="other-t0ken"))
    assert "other-t0ken" not in str(refused.value)


LEAST_PRIVILEGE = Path(__file__).parents[2] / "docs/nats-server.conf"


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The configuration of the docs, with its streams made by the user who may."""
    for user in ("SETUP", "PUBLISHER", "READER"):
        monkeypatch.setenv(f"NATS_{user}_PASSWORD", f"of-{user.lower()}")
    monkeypatch.chdir(tmp_path)
    _, _, users = LEAST_PRIVILEGE.read_text().partition("authorization")
    with server(tmp_path, f"authorization{users}") as place:
        assert check(as_user(place, "setup")) == []
        yield place


def as_user(place: str, user: str) -> NatsOptions:
    return NatsOptions(url=f"nats://{place}", user=user, password=f"of-{user}")


def test_the_publisher_announces_and_can_do_no_more(guarded: str) -> None:
    event = Envelope(event_type="deliberation.completed", idempotency_key="k", correlation_id="t", payload={})
    assert publish(as_user(guarded, "publisher"), lambda _: [event.sealed()]).stored == ("k",)
    with arriving(as_user(guarded, "publisher")) as arrived:
        publish(as_user(guarded, "publisher"), lambda _: [event.model_copy(update={"idempotency_key": "k2"}).sealed()])
        assert len(list(arrived(["k2"]))) == 1
    for subject in (
        "deliberation.requested",
        "$JS.API.STREAM.DELETE.DELIBERATIONS",
        "$JS.API.STREAM.PURGE.DELIBERATIONS",
    ):
        assert not asyncio.run(answered(as_user(guarded, "publisher"), subject)), subject


def test_a_reader_reads_and_can_announce_nothing(guarded: str) -> None:
    event = Envelope(event_type="deliberation.failed", idempotency_key="k", correlation_id="t", payload={})
    publish(as_user(guarded, "publisher"), lambda _: [event.sealed()])

    async def read() -> bytes:
        async with connect(as_user(guarded, "reader")) as connection:
            subscription = await connection.jetstream().pull_subscribe("deliberation.failed", durable="someone")
            (message,) = await subscription.fetch(1, timeout=5)
            await message.ack_sync()
            return message.data

    assert json.loads(asyncio.run(read()))["idempotency_key"] == "k"
    assert not asyncio.run(answered(as_user(guarded, "reader"), "deliberation.completed"))


async def answered(options: NatsOptions, subject: str) -> bool:
    from nats.errors import Error

    async with connect(options) as connection:
        try:
            await connection.request(subject, b"{}", timeout=0.7)
        except (Error, TimeoutError):
            return False
    return True


def test_the_streams_are_made_and_listed_by_a_command(tmp_path: Path) -> None:
    with embedded_server() as url:
        result = CliRunner().invoke(main, ["events", "check", "--nats", url, "--json"])
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert document["remarks"] == []
        assert document["streams"]["DELIBERATIONS"] == [
            "deliberation.completed",
            "deliberation.failed",
            "deliberation.timeout",
        ]
        assert "FLEET_POISON" in CliRunner().invoke(main, ["events", "check", "--nats", url]).stdout
    gone = CliRunner().invoke(main, ["events", "check", "--nats", url.replace("://", "://u:hunter2@")])
    assert gone.exit_code == 1
    assert "hunter2" not in gone.stderr
    assert CliRunner().invoke(main, ["events", "check"]).exit_code == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "host:4222"}, "such as nats://host:4222"),
        ({"url": "http://host:4222"}, "such as nats://host:4222"),
        ({"url": "nats://a:4222,nats://"}, "such as nats://host:4222"),
        ({"user": "u", "password": "p", "token": "t"}, "one of them is enough"),
        ({"user": "u"}, "belong together"),
        ({"credentials_file": "/nowhere.creds"}, "/nowhere.creds is not a file"),
        ({"tls_key_file": __file__}, "belongs to a tls_cert_file"),
    ],
)
def test_options_that_cannot_work_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        NatsOptions(**fields)
    assert message in str(refused.value)


def test_secrets_show_nowhere() -> None:
    options = NatsOptions(url="nats://u:hunter2@host:4222,nats://t0ken@b", user="u", password="hunter3")
    for shown in (
        str(options.model_dump(exclude={"url"})),
        repr(options.password),
        options.model_dump_json(exclude={"url"}),
    ):
        assert "hunter" not in shown
    assert without_secrets(options.url or "") == "nats://host:4222,nats://b"


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_NATS__URL", "tls://broker:4222")
    monkeypatch.setenv("FLEET_NATS__TOKEN", "t0ken-of-fleet")
    nats = load_settings().nats
    assert nats.token is not None
    assert nats.token.get_secret_value() == "t0ken-of-fleet"
    assert "t0ken" not in str(nats)
