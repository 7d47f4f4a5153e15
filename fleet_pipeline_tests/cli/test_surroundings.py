"""Every command in every broken surrounding: one line that says what is wrong, and never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet_pipeline.cli import LAST_ERROR, main
from fleet_pipeline.cli.registry import COMMANDS
from fleet_pipeline.deliberation.rows import CouncilFigures, OutcomeFooter, ProposalsFooter
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.storage.schemas import DELIBERATIONS, PROPOSALS, TABLES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import write_rows
from fleet_pipeline_tests.support.rows import a_seat, an_outcome

pytestmark = pytest.mark.instance

# Every command that ends by itself and starts no engine, with arguments that would do something.
CALLS: dict[str, list[str]] = {
    "run": ["run", "nothing.jsonl"],
    "submit": ["submit", "tasks.jsonl"],
    "backlog": ["backlog", "check", "tasks.jsonl"],
    "eval": ["eval", "--only", "nothing"],
    "status": ["status"],
    "status of one": ["status", "t1.dev"],
    "show": ["show", "t1.dev"],
    "explain": ["explain", "t1.dev"],
    "report": ["report"],
    "export": ["export", "--out", "out.jsonl"],
    "score": ["score", "cases.jsonl"],
    "doctor": ["doctor", "--model", "fleet-tiny"],
    "events check": ["events", "check"],
    "events replay": ["events", "replay", "--since", "7d"],
    "events reconcile": ["events", "reconcile"],
    "events schema": ["events", "schema"],
    "serve": ["serve"],
    "models list": ["models", "list"],
    "tools list": ["tools", "list"],
    "tools call": ["tools", "call", "files.list_files", "--workspace", "ws"],
    "tools sweep": ["tools", "sweep"],
    "metrics": ["metrics"],
    "prune": ["prune", "--keep", "5"],
    "config": ["config"],
    "home": ["home"],
}
SERVES = {"serve"}  # they go on for ever, unless something is broken that they need
Break = Callable[[Path, pytest.MonkeyPatch], None]


def writes(name: str, content: str | bytes) -> Break:
    def broken(folder: Path, _: pytest.MonkeyPatch) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return broken


def sets(**environment: str) -> Break:
    def broken(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return broken


def torn_tables(folder: Path, _: pytest.MonkeyPatch) -> None:
    store = Store(str(folder / ".fleet/storage"))
    for name in TABLES:
        store.write(f"{name}/t1.dev.parquet", b"PAR1 and no more")
    store.write("tasks/t1.dev.json", b"{")
    store.write("pending/b-requests-c.json", b"[")
    store.write("outbox/t1.dev.gz", b"\x1f\x8b")


def folders_for_files(folder: Path, _: pytest.MonkeyPatch) -> None:
    for name in TABLES:
        (folder / f".fleet/storage/{name}/t1.dev.parquet").mkdir(parents=True)


def dagster_home(name: str, content: str | bytes) -> Break:
    def broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        writes(f"home/{name}", content)(folder, monkeypatch)
        monkeypatch.setenv("DAGSTER_HOME", str(folder / "home"))

    return broken


def no_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()


WEIGHTS = {"fit": 0.4, "coverage": 0.4, "novelty": 0.1, "checks": 0.1}
NOWHERE = "127.0.0.1:9"
SURROUNDINGS: dict[str, Break] = {
    "a configuration that is no TOML": writes("fleet.toml", "storage = [broken"),
    "a configuration of another encoding": writes("fleet.toml", b"storage = 'caf\xe9'"),
    "a configuration with a section of another kind": writes("fleet.toml", "council = 5"),
    "a configuration with a value of another kind": writes("fleet.toml", "[council]\nseed = 'many'"),
    "a configuration with an unknown setting": writes("fleet.toml", "[council]\nsede = 5"),
    "a configuration that is a folder": lambda folder, _: (folder / "fleet.toml").mkdir(),
    "a configuration file that is not there": sets(FLEET_CONFIG_FILE="gone.toml"),
    "a setting of the environment that is no number": sets(FLEET_COUNCIL__SEED="many"),
    "a storage that is a file": writes(".fleet/storage", "no folder"),
    "a storage of an unknown kind": sets(FLEET_STORAGE="nope://x"),
    "a storage that may not be written": sets(FLEET_STORAGE="/proc/nothing"),
    "an object store that does not answer": sets(
        FLEET_STORAGE="s3://bucket/x", AWS_ENDPOINT_URL=f"http://{NOWHERE}", AWS_MAX_ATTEMPTS="1",
        AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s",
    ),
    "an object store without credentials": sets(
        FLEET_STORAGE="s3://bucket/x", AWS_ENDPOINT_URL=f"http://{NOWHERE}", AWS_MAX_ATTEMPTS="1",
        AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE="gone", AWS_SHARED_CREDENTIALS_FILE="gone",
    ),
    "an inbox of an unknown kind": sets(FLEET_REQUESTS__INBOX="nope://x"),
    "a roles file that is not there": sets(FLEET_COUNCIL__ROLES_FILE="gone.toml"),
    "a roles file that is no TOML": lambda folder, monkeypatch: (
        writes("roles.toml", "[roles")(folder, monkeypatch), monkeypatch.setenv("FLEET_COUNCIL__ROLES_FILE", "roles.toml")
    )[0],
    "a broker that is not there": sets(FLEET_NATS__URL=f"nats://{NOWHERE}"),
    "a broker with a URL that is none": sets(FLEET_NATS__URL="::::"),
    "a broker behind a certificate that is none": lambda folder, monkeypatch: (
        writes("ca.pem", "no certificate")(folder, monkeypatch),
        monkeypatch.setenv("FLEET_NATS__TLS_CA_FILE", "ca.pem"), monkeypatch.setenv("FLEET_NATS__URL", f"tls://{NOWHERE}"),
    )[0],
    "a seed file that holds no seed": lambda folder, monkeypatch: (
        writes("seed", "no seed")(folder, monkeypatch),
        monkeypatch.setenv("FLEET_NATS__NKEY_SEED_FILE", "seed"), monkeypatch.setenv("FLEET_NATS__URL", f"nats://{NOWHERE}"),
    )[0],
    "a Dagster configuration that is no YAML": dagster_home("dagster.yaml", "a: [broken"),
    "a Dagster configuration with an unknown class": dagster_home(
        "dagster.yaml", "run_launcher: {module: nowhere.at_all, class: Gone}"
    ),
    "a Dagster configuration with an unknown field": dagster_home("dagster.yaml", "colour: red"),
    "a Dagster home that is no absolute path": sets(DAGSTER_HOME="somewhere"),
    "a Dagster home that is not there": sets(DAGSTER_HOME="/proc/nothing/there"),
    "a database of runs that is none": dagster_home("history/runs.db", "no database"),
    "results that are torn": torn_tables,
    "folders where results should be": folders_for_files,
    "a working directory that was removed": no_working_directory,
    "a terminal one column wide": sets(COLUMNS="1", LINES="1", TERM="dumb"),
    "a temporary folder that is not there": sets(TMPDIR="/proc/nothing"),
    "a file where the folder of everything should be": writes(".fleet", "no folder"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("FLEET_", "DAGSTER_HOME", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.jsonl").write_text('{"task_id": "t1", "description": "漢字 d"}\n')
    (tmp_path / "nothing.jsonl").write_text('{"task_id": "t1"}\n')
    (tmp_path / "cases.jsonl").write_text('{"task": "t", "proposals": [{"agent_id": "a", "content": "c"}]}\n')
    return tmp_path


def test_every_command_is_called_here() -> None:
    assert {call.split()[0] for call in CALLS} == set(COMMANDS)
    assert len(SURROUNDINGS) >= 25


def called(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Result:
    """Commands set DAGSTER_HOME for the process that they have to themselves."""
    before = os.environ.get("DAGSTER_HOME")
    result = CliRunner().invoke(main, arguments)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    if before is not None:
        monkeypatch.setenv("DAGSTER_HOME", before)
    return result


@pytest.mark.parametrize("arguments", [["run"], ["submit"], ["backlog", "check"], ["score"]])
def test_a_file_on_an_object_store_that_cannot_be_asked_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """Without credentials it was a traceback."""
    SURROUNDINGS["an object store without credentials"](folder, monkeypatch)
    monkeypatch.setenv("FLEET_STORAGE", ".fleet/storage")
    result = called([*arguments, "s3://bucket/tasks.jsonl"], monkeypatch)
    assert result.exit_code == 2
    assert "s3://bucket/tasks.jsonl: cannot be read: " in result.stderr


def test_each_call_is_one_that_its_command_understands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for call, arguments in CALLS.items():
        if call not in SERVES:
            assert "Usage:" not in called(arguments, monkeypatch).output, call


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_no_command_prints_a_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch, surrounding: str) -> None:
    SURROUNDINGS[surrounding](folder, monkeypatch)
    for call, arguments in CALLS.items():
        if call in SERVES and "broker" not in surrounding and "seed" not in surrounding:
            continue
        result = called(arguments, monkeypatch)
        told = f"{surrounding}: fleet {' '.join(arguments)}: {result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit), (told, result.exc_info)
        assert "Traceback" not in result.output, told
        assert "Usage:" not in result.output, told
        assert "the whole error is in" not in result.output, told  # every one of these has words of its own
        assert result.exit_code == 0 or result.stderr.strip() or result.stdout.strip(), told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", ["show", "explain", "status"])
def test_a_terminal_without_the_letters_shows_their_numbers(folder: Path, encoding: str, command: str) -> None:
    store = Store(str(folder / ".fleet/storage"))
    seat = a_seat(1, "Ein Schloß, 漢字", score=0.5, winner=True)
    scored = ProposalsFooter(
        fingerprint="f", scores_version="2", weights=WEIGHTS, method="score", diversity=CouncilFigures()
    )
    write_rows(store, PROPOSALS, "t1.dev", [seat], scored)
    outcome = an_outcome(status=Status.FAILED, error_message="漢字 failed")
    write_rows(store, DELIBERATIONS, "t1.dev", [outcome], OutcomeFooter(status=outcome.status, fingerprint="f"))
    program = [sys.executable, "-c", "from fleet_pipeline.cli import main; main()", command, "t1.dev"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    result = subprocess.run(program, capture_output=True, text=True, encoding=encoding, env=environment)
    assert "Traceback" not in result.stderr
    assert "\\u6f22" in result.stdout or command == "explain"


def test_an_error_that_nobody_has_words_for_is_one_line_and_its_traceback_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("what nobody foresaw\nin two lines")

    monkeypatch.setattr("fleet_pipeline.cli.backlog.read", broken)
    result = CliRunner().invoke(main, ["backlog", "check", "tasks.jsonl"])
    assert result.exit_code == 1
    assert result.stderr == f"fleet: ZeroDivisionError: what nobody foresaw; the whole error is in {LAST_ERROR}\n"
    assert "in two lines" in (folder / LAST_ERROR).read_text()
