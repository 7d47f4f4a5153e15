"""Ways in: what a broker asks for, and that nothing of it shows."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from fleet_pipeline.api.client import Client
from fleet_pipeline.api.nats_service import Answer
from fleet_pipeline.cli import main
from fleet_pipeline.common.errors import BrokerUnavailable, InvalidInput
from fleet_pipeline.common.messages import Received
from fleet_pipeline.events.connection import connect, run_blocking, unavailable
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.lookup import refusal, stored_keys, untaken, waiting
from fleet_pipeline.events.options import NatsOptions, without_secrets
from fleet_pipeline.events.payloads import Status
from fleet_pipeline.events.publisher import prepare_broker, publish
from fleet_pipeline.events.receiver import receive
from fleet_pipeline.events.subscriber import arriving
from fleet_pipeline.settings import load_settings
from fleet_pipeline_tests.support.answering import answering
from fleet_pipeline_tests.support.credentials import certificates, jwt_server, user_key
from fleet_pipeline_tests.support.rows import a_status

pytestmark = pytest.mark.broker


@contextmanager
def server(folder: Path, configuration: str, jetstream: bool = True) -> Iterator[str]:
    """A real nats-server with this configuration beside JetStream and a free port; gives host:port."""
    storage = f'jetstream {{ store_dir: "{folder}/js" }}\n' if jetstream else ""
    (folder / "server.conf").write_text(f"{storage}{configuration}")
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
        run_blocking(NatsOptions(url=f"nats://{place}", user="fleet", password="pa55-of-fleet"), prepare_broker)
        run_blocking(NatsOptions(url=f"nats://fleet:pa55-of-fleet@{place}"), prepare_broker)
        with pytest.raises(BrokerUnavailable) as refused:
            run_blocking(NatsOptions(url=f"nats://{place}", user="fleet", password="wrong-pa55"), prepare_broker)
    assert "wrong-pa55" not in str(refused.value)
    assert place in str(refused.value)


def test_a_token(tmp_path: Path) -> None:
    with server(tmp_path, 'authorization { token: "t0ken-of-fleet" }') as place:
        run_blocking(NatsOptions(url=f"nats://{place}", token="t0ken-of-fleet"), prepare_broker)
        with pytest.raises(BrokerUnavailable) as refused:
            run_blocking(NatsOptions(url=f"nats://{place}", token="other-t0ken"), prepare_broker)
    assert "other-t0ken" not in str(refused.value)


def test_an_nkey(tmp_path: Path) -> None:
    mine, other = user_key(), user_key()
    for name, key in (("mine", mine), ("other", other)):
        (tmp_path / name).write_bytes(key.seed)
    with server(tmp_path, f"authorization {{ users: [ {{ nkey: {mine.public} }} ] }}") as place:
        run_blocking(NatsOptions(url=f"nats://{place}", nkey_seed_file=str(tmp_path / "mine")), prepare_broker)
        with pytest.raises(BrokerUnavailable) as refused:
            run_blocking(NatsOptions(url=f"nats://{place}", nkey_seed_file=str(tmp_path / "other")), prepare_broker)
    assert other.seed.decode() not in str(refused.value)


def test_user_credentials_with_a_jwt(tmp_path: Path) -> None:
    configuration, credentials = jwt_server(tmp_path)
    (tmp_path / "foreign").mkdir()
    _, foreign = jwt_server(tmp_path / "foreign")
    with server(tmp_path, configuration, jetstream=False) as place:
        reached(NatsOptions(url=f"nats://{place}", credentials_file=str(credentials)))
        with pytest.raises(BrokerUnavailable) as refused:
            reached(NatsOptions(url=f"nats://{place}", credentials_file=str(foreign)))
    secret = foreign.read_text().split("SEED-----")[1].split()[0]
    assert secret not in str(refused.value)


def reached(options: NatsOptions) -> None:
    """Speak to the server, without JetStream, which accounts of the test's operator do not have."""

    async def speak(connection: Any) -> None:
        subscription = await connection.subscribe("t")
        await connection.publish("t", b"hello")
        assert (await subscription.next_msg(timeout=5)).data == b"hello"

    run_blocking(options, speak)


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    folder = certificates(tmp_path)
    tls = f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", ca_file: "{folder}/ca.pem", verify: true }}'
    files = {"tls_cert_file": f"{folder}/client.pem", "tls_key_file": f"{folder}/client.key"}
    with server(tmp_path, tls) as place:
        run_blocking(NatsOptions(url=f"tls://{place}", tls_ca_file=f"{folder}/ca.pem", **files), prepare_broker)
        run_blocking(NatsOptions(url=f"nats://{place}", tls_ca_file=f"{folder}/ca.pem", **files), prepare_broker)
        with pytest.raises(BrokerUnavailable, match="(?i)certificate"):  # a server that nobody vouches for
            run_blocking(NatsOptions(url=f"tls://{place}"), prepare_broker)
        with pytest.raises(BrokerUnavailable):  # a client that does not say who it is
            run_blocking(NatsOptions(url=f"tls://{place}", tls_ca_file=f"{folder}/ca.pem"), prepare_broker)


GREETING = b'INFO {"server_id":"x","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576}\r\n'


@contextmanager
def listener(greeting: bytes, *, hang_up: bool) -> Iterator[tuple[str, list[bytes]]]:
    """Something in the broker's place: it greets, and keeps all that it is sent, or hangs up. Gives host:port."""
    received: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    connection.sendall(greeting)
                    connection.settimeout(2)
                    while not hang_up and (data := connection.recv(4_096)):
                        received.append(data)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", received
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("asked_by", ["the URL", "one URL of two", "a certificate"])
@pytest.mark.parametrize("login", ["a password", "a password in the URL", "a token"])
def test_no_credential_leaves_before_the_connection_is_encrypted(
    tmp_path: Path, lasting: bool, asked_by: str, login: str
) -> None:
    """Whatever is in the broker's place says that it has no TLS, and got user and password in clear."""
    with listener(GREETING, hang_up=False) as (place, received):
        address = f"user:hunter2@{place}" if login == "a password in the URL" else place
        scheme = "tls" if asked_by == "the URL" else "nats"
        url = f"{scheme}://{address}" + (",tls://127.0.0.1:1" if asked_by == "one URL of two" else "")
        secrets = {"a password": {"user": "user", "password": "hunter2"}, "a token": {"token": "hunter2"}}.get(
            login, {}
        )
        files = {"tls_ca_file": f"{certificates(tmp_path)}/ca.pem"} if asked_by == "a certificate" else {}
        options = NatsOptions(url=url, **secrets, **files)

        async def talk() -> None:
            async with connect(options, lasting=lasting):
                pass

        with pytest.raises(BrokerUnavailable) as refused, unavailable(options):
            asyncio.run(talk())
    assert received == []
    assert "hunter2" not in str(refused.value)
    if asked_by != "one URL of two":  # nats-py tries its servers in any order, and tells of the last
        assert "offers no encryption (TLS), and nothing was sent to it; turn TLS on in the broker" in str(refused.value)


def test_a_login_in_clear_is_sent_where_nobody_asks_for_encryption() -> None:
    """The test above can fail: the same listener gets the password of a plain URL."""
    with listener(GREETING, hang_up=False) as (place, received), pytest.raises(BrokerUnavailable):
        run_blocking(NatsOptions(url=f"nats://{place}", user="user", password="hunter2"), prepare_broker)
    assert b"hunter2" in b"".join(received)


def test_each_way_in_which_a_broker_fails_has_a_sentence_with_its_remedy(tmp_path: Path) -> None:
    said: dict[str, str] = {}

    def fails(what: str, options: NatsOptions, talk: Any = prepare_broker) -> None:
        with pytest.raises(BrokerUnavailable) as failed:
            run_blocking(options, talk)
        said[what] = str(failed.value)

    for name in ("off", "login", "full"):
        (tmp_path / name).mkdir()
    with server(tmp_path / "off", "", jetstream=False) as place:
        fails("JetStream is off there: start nats-server with -js", NatsOptions(url=f"nats://{place}"))
    with server(tmp_path / "login", 'authorization { user: fleet, password: "x" }') as place:
        fails("it refuses this login: correct nats.user", NatsOptions(url=f"nats://{place}", user="f", password="y"))
        fails("it asks for a login: set nats.user", NatsOptions(url=f"nats://{place}"))
    small = f'jetstream {{ store_dir: "{tmp_path}/full/js", max_file_store: 3000, max_memory_store: 1MB }}'
    with server(tmp_path / "full", small, jetstream=False) as place:
        events = [
            Envelope(
                event_type="deliberation.failed", idempotency_key=f"{n}", correlation_id="t", payload={"a": "b" * 900}
            )
            for n in range(5)
        ]
        send = partial(publish, make_events=lambda _: [event.sealed() for event in events])
        fails("its storage is full: raise max_file_store", NatsOptions(url=f"nats://{place}"), send)
    for greeting in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", GREETING):
        with listener(greeting, hang_up=True) as (place, _):
            fails("it hung up in the handshake" + " " * len(greeting), NatsOptions(url=f"nats://{place}"))
    fails("nobody answers there: start it, or correct nats.url", NatsOptions(url="nats://127.0.0.1:1"))
    fails("there is no host of that name", NatsOptions(url="nats://no-such-host.invalid"))
    assert {what: what.strip() in told for what, told in said.items()} == dict.fromkeys(said, True), said
    assert len({told.rpartition("; ")[2] for told in said.values()}) >= 7


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LEAST_PRIVILEGE = Path(__file__).parents[2] / "k8s/components/nats/users.conf"


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The configuration of the docs, with its streams made by the user who may."""
    for user in ("SETUP", "PUBLISHER", "DAEMON", "SUBMITTER", "ANSWERER", "READER"):
        monkeypatch.setenv(f"NATS_{user}_PASSWORD", f"of-{user.lower()}")
    monkeypatch.chdir(tmp_path)
    users = LEAST_PRIVILEGE.read_text()
    with server(tmp_path, users) as place:
        assert run_blocking(as_user(place, "setup"), prepare_broker) == []
        yield place


def whole(event: Envelope) -> Envelope:
    return event


def as_user(place: str, user: str) -> NatsOptions:
    return NatsOptions(url=f"nats://{place}", user=user, password=f"of-{user}", inbox_prefix=f"_INBOX.{user}")


def test_the_publisher_announces_and_can_do_no_more(guarded: str) -> None:
    event = Envelope(event_type="deliberation.completed", idempotency_key="k", correlation_id="t", payload={})
    assert run_blocking(
        as_user(guarded, "publisher"), partial(publish, make_events=lambda _: [event.sealed()])
    ).stored == ("k",)
    with arriving(as_user(guarded, "publisher"), whole) as arrived:
        run_blocking(
            as_user(guarded, "publisher"),
            partial(publish, make_events=lambda _: [event.model_copy(update={"idempotency_key": "k2"}).sealed()]),
        )
        assert len(list(arrived(["k2"]))) == 1
    for subject in (
        "deliberation.requested",
        "$JS.API.STREAM.DELETE.DELIBERATIONS",
        "$JS.API.STREAM.PURGE.DELIBERATIONS",
    ):
        assert not asyncio.run(answered(as_user(guarded, "publisher"), subject)), subject


def test_a_reader_reads_and_can_announce_nothing(guarded: str) -> None:
    event = Envelope(event_type="deliberation.failed", idempotency_key="k", correlation_id="t", payload={})
    run_blocking(as_user(guarded, "publisher"), partial(publish, make_events=lambda _: [event.sealed()]))

    async def read() -> bytes:
        async with connect(as_user(guarded, "reader")) as connection:
            subscription = await connection.jetstream().pull_subscribe("deliberation.failed", durable="someone")
            (message,) = await subscription.fetch(1, timeout=5)
            await message.ack_sync()
            return message.data

    assert json.loads(asyncio.run(read()))["idempotency_key"] == "k"
    assert not asyncio.run(answered(as_user(guarded, "reader"), "deliberation.completed"))


def test_the_daemon_takes_requests_and_puts_poison_away_and_can_do_no_more(guarded: str) -> None:
    with Client(as_user(guarded, "submitter")) as fleet:
        fleet.submit({"task_id": "t1", "description": "d"})
    seen: list[Received] = []

    def take(messages: Sequence[Received]) -> list[str | None]:
        seen.extend(messages)
        return ["because of a test"] * len(messages)

    for _ in range(2):
        run_blocking(as_user(guarded, "daemon"), partial(receive, take=take, wait_seconds=1, work_seconds=5, batch=10))
    assert [message.subject for message in seen] == ["deliberation.requested"]
    event = Envelope(event_type="deliberation.completed", idempotency_key="k", correlation_id="t", payload={})
    assert run_blocking(
        as_user(guarded, "daemon"), partial(publish, make_events=lambda _: [event.sealed()])
    ).stored == ("k",)
    for subject in (
        "deliberation.requested",
        "$JS.API.STREAM.PURGE.FLEET_POISON",
        "$JS.API.CONSUMER.DELETE.PLANNING_EVENTS.fleet-plans",
    ):
        assert not asyncio.run(answered(as_user(guarded, "daemon"), subject)), subject


def test_a_submitter_submits_and_asks_and_can_neither_announce_nor_read(guarded: str) -> None:
    with Client(as_user(guarded, "submitter")) as fleet:
        assert fleet.submit({"task_id": "t1", "description": "d"}).deliberation_ids == ("t1.dev",)
    for subject in ("deliberation.completed", "planning.plan.approved", "$JS.API.STREAM.INFO.DELIBERATIONS"):
        assert not asyncio.run(answered(as_user(guarded, "submitter"), subject)), subject


def test_the_service_answers_with_rights_of_its_own(guarded: str) -> None:
    with Client(as_user(guarded, "submitter")) as fleet:
        submitted = fleet.submit({"task_id": "t1", "description": "d"})

        async def answer(connection: Any, subject: str, key: str, request_id: str, _: bool) -> Answer:
            if subject == "fleet.stats":
                return await waiting(connection)
            reason = await refusal(connection, request_id or "none", LONG_AGO)
            waits = key in await untaken(connection)
            return a_status(status=Status.PENDING if waits else Status.UNKNOWN, error=reason)

        with answering(as_user(guarded, "answerer"), answer):
            assert fleet.status("t1.dev") == a_status(status=Status.PENDING)
            assert fleet.result("t2.dev").status is Status.UNKNOWN
            assert fleet.stats()["deliberation.requested"] == 1
            run_blocking(
                as_user(guarded, "daemon"),
                partial(receive, take=lambda _: ["no"], wait_seconds=1, work_seconds=5, batch=10),
            )
            assert fleet.status("t1.dev", submitted.request_id) == a_status(error="no")
    for subject in ("deliberation.requested", "deliberation.completed", "$JS.API.STREAM.PURGE.DELIBERATIONS"):
        assert not asyncio.run(answered(as_user(guarded, "answerer"), subject)), subject


def test_the_publisher_may_compare_what_is_there(guarded: str) -> None:
    event = Envelope(event_type="deliberation.completed", idempotency_key="k", correlation_id="t", payload={})
    run_blocking(as_user(guarded, "publisher"), partial(publish, make_events=lambda _: [event.sealed()]))
    assert run_blocking(as_user(guarded, "publisher"), stored_keys) == {"k"}


def test_a_reader_cannot_take_or_read_what_is_others(guarded: str) -> None:
    run_blocking(
        as_user(guarded, "daemon"), partial(receive, take=lambda _: [], wait_seconds=0, work_seconds=5, batch=10)
    )
    consumers = "DELIBERATION_REQUESTS.fleet-requests"
    for subject in (
        f"$JS.API.CONSUMER.MSG.NEXT.{consumers}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{consumers}",
        f"$JS.API.CONSUMER.CREATE.{consumers}.deliberation.none",
        f"$JS.API.CONSUMER.DELETE.{consumers}",
        f"$JS.ACK.{consumers}.1.1.1.1.0",
        "$JS.API.CONSUMER.CREATE.FLEET_POISON",
    ):
        assert not asyncio.run(answered(as_user(guarded, "reader"), subject)), subject

    async def overhears() -> bool:
        async with connect(as_user(guarded, "reader")) as connection:
            for subject in ("_INBOX.daemon.>", "_INBOX.>", "deliberation.requested"):
                subscription = await connection.subscribe(subject)
                await connection.flush()
                with Client(as_user(guarded, "submitter")) as fleet:
                    await asyncio.to_thread(fleet.submit, {"task_id": "t1", "description": subject}, rerun=True)
                await asyncio.to_thread(_take_all, guarded)
                if subscription.pending_msgs:
                    return True
        return False

    assert not asyncio.run(overhears())


def _take_all(place: str) -> None:
    run_blocking(
        as_user(place, "daemon"),
        partial(receive, take=lambda found: [None] * len(found), wait_seconds=1, work_seconds=5, batch=10),
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"nkey_seed_file": b"no seed at all"}, "nats.nkey_seed_file: .* holds no NKey seed"),
        ({"nkey_seed_file": b""}, "holds no NKey seed"),
        (
            {"credentials_file": b"-----BEGIN USER NKEY SEED-----\nSUnonsense\n"},
            "nats.credentials_file: .* no NKey seed",
        ),
        ({"tls_ca_file": b"no certificate"}, "nats.tls_ca_file: not the PEM files"),
        ({"tls_cert_file": b"-----BEGIN CERTIFICATE-----\n"}, "nats.tls_cert_file and nats.tls_key_file: not the PEM"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_named(tmp_path: Path, files: dict, message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    options = NatsOptions(url="nats://127.0.0.1:1", **{name: str(tmp_path / name) for name in files})
    with pytest.raises(InvalidInput, match=message) as refused:
        run_blocking(options, prepare_broker)
    assert "nonsense" not in str(refused.value)


def test_what_a_user_may_not_do_is_said(guarded: str) -> None:
    with (
        Client(as_user(guarded, "reader")) as fleet,
        pytest.raises(BrokerUnavailable, match="(?i)permissions violation for publish"),
    ):
        fleet.submit({"task_id": "t1", "description": "d"})


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
