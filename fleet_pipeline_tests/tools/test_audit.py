"""The audit: what stands in it, what does not, and what a kill leaves of it."""

import json
import resource
import signal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.services.agents import Agents
from fleet_pipeline.services.tool_calls import audit_folder, store_calls
from fleet_pipeline.storage.store import Store
from fleet_pipeline.tools.audit import Audit, Caller, masked, read_calls
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline_tests.support.tool_world import World

pytestmark = pytest.mark.unit


def test_every_call_stands_there_with_its_caller_arguments_outcome_and_sandbox(world: World) -> None:
    world.audit.caller = Caller("run-1", "t.dev", "agent-dev-001")
    world.call("files.read_file", path="app.py")
    world.call("files.read_file", path="../x")
    world.call("tests.make_test")
    read, refused, failed = read_calls(world.audit.path)
    assert (read.begun.family, read.begun.operation, read.outcome, read.output_bytes) == (
        "files",
        "read_file",
        "ok",
        24,
    )
    assert read.begun.caller == Caller("run-1", "t.dev", "agent-dev-001")
    assert json.loads(read.begun.arguments) == {"path": "app.py"}
    assert (refused.outcome, refused.error) == ("refused", "../x: leads out of the workspace")
    assert (failed.outcome, failed.begun.sandbox) == ("failed", world.box.sandbox.level)
    assert failed.seconds > 0


@pytest.mark.parametrize(
    ("arguments", "secret"),
    [
        ({"password": "hunter22hunter"}, "hunter22hunter"),
        ({"headers": {"Authorization": "Basic aGVsbG86d29ybGQ="}}, "aGVsbG86d29ybGQ"),
        ({"headers": {"X-Api-Key": "abc123secret"}}, "abc123secret"),
        ({"url": "postgres://u:passw0rd9@host/db"}, "passw0rd9"),
        ({"url": "postgres://u:pass/w0rd9@host/db"}, "w0rd9"),
        ({"content": "key = sk-abcdefghijklmnop1234"}, "sk-abcdefghijklmnop1234"),
        ({"content": "t: ghp_0123456789abcdef0123"}, "ghp_0123456789abcdef0123"),
        ({"content": "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----"}, "MIIEabc"),
        ({"content": "curl -H 'Authorization: Bearer eyJhbGciOi.JIUzI1NiJ9.xyzzy123'"}, "JIUzI1NiJ9"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": "abcd/efgh"}}, "abcd/efgh"),
        ({"content": "go to HTTPS://token-17@host/x"}, "token-17"),
        ({"content": "x" * 1_990 + " https://u:passw0rd9@host/"}, "passw0rd9"),
        ({"content": "authorization: bearer abcdefgh1234"}, "abcdefgh1234"),
        ({"url": "https://h/?api_key=k3y-value&q=1"}, "k3y-value"),
        ({"data": '{"token": "t0k3n-value"}'}, "t0k3n-value"),
        ({"content": "POSTGRES_PASSWORD=hunter2secret"}, "hunter2secret"),
        ({"content": "client_secret: abcdefg123"}, "abcdefg123"),
        ({"content": "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG"}, "wJalrXUtnFEMI"),
        ({"content": "ALTER USER a PASSWORD 'hunter22'"}, "hunter22"),
        ({"command": ["mysql", "--password hunter22"]}, "hunter22"),
        ({"url": "https://h/?key=SECRETKEY12345&sig=ABCDEF"}, "SECRETKEY12345"),
        ({"content": "ghs_abcdefghijklmnopqrst1234 sk_live_abcdefghijklmnop1234"}, "abcdefghijklmnop"),
        ({"env": {"MYSQL_PWD": "hunter22"}}, "hunter22"),
        ({"command": ["AUTH", "x"], "client_token": ["tok-1"]}, "tok-1"),
        ({"content": "AccountName=me;AccountKey=S3CRETkey0123456789==;x"}, "S3CRETkey"),
        ({"content": "https://hooks.slack.com/services/T0/B0/S3CRETS3CRET"}, "S3CRETS3CRET"),
        ({"content": "ya29.S3CRETS3CRETS3CRET"}, "S3CRET"),
        ({"content": "SG.S3CRETS3CRET.S3CRETS3CRET"}, "S3CRET"),
        ({"content": "-----BEGIN PGP PRIVATE KEY BLOCK-----\nS3CRET"}, "S3CRET"),
        ({"content": "curl -u admin:S3CRETS3CRET https://host"}, "S3CRET"),
        ({"content": "Authorization: Token S3CRETS3CRET"}, "S3CRET"),
        ({"content": "Set-Cookie: sid=S3CRETS3CRET; Path=/"}, "S3CRET"),
        ({"content": "Cookie: a=b; sid=S3CRETS3CRET"}, "S3CRET"),
        ({"content": "Authorization: ApiKey S3CRETS3CRET"}, "S3CRET"),
        ({"content": "Authorization: Digest username=a, response=S3CRETS3CRET"}, "S3CRET"),
        ({"content": "<db:password>S3CRET</db:password>"}, "S3CRET"),
        ({"env": {"PGPASS": "S3CRET", "DB_PW": "S3CRET"}}, "S3CRET"),
        ({"command": ["AUTH", "default", "S3CRET"]}, "S3CRET"),
        ({"command": ["HELLO", "3", "auth", "default", "S3CRET"]}, "S3CRET"),
        ({"command": ["CONFIG", "SET", "requirepass", "S3CRET"]}, "S3CRET"),
        ({"command": ["ACL", "SETUSER", "bob", "on", ">S3CRET"]}, "S3CRET"),
        ({"params": {"key": "S3CRET"}}, "S3CRET"),
        ({"headers": {"Ocp-Apim-Subscription-Key": "S3CRET"}}, "S3CRET"),
        ({"env": {"ENCRYPTION_KEY": "S3CRET"}}, "S3CRET"),
        ({"query": "CREATE USER bob IDENTIFIED BY 'S3CRET'"}, "S3CRET"),
        ({"content": "user=bob&pass=S3CRET"}, "S3CRET"),
        ({"command": ["tool", "--auth S3CRET"]}, "S3CRET"),
        # Within the source of a program, or JSON within a text.
        ({"content": r'KEYS = "a\nghp_S3CRETS3CRETS3CRET"'}, "S3CRET"),
        ({"content": r'"x\teyJhbGciOiJI.JIUzI1NiJ9S3CRET.xyzzy123"'}, "S3CRET"),
        ({"content": r'"x\nBearer S3CRETS3CRET"'}, "S3CRET"),
        ({"content": r'"{\"password\": \"S3CRET\"}"'}, "S3CRET"),
        ({"content": 'SECRET_KEY = "S3CRET"'}, "S3CRET"),
        ({"content": "secret_key: S3CRET"}, "S3CRET"),
        ({"data": '{"h": {"Authorization": "Token S3CRETS3CRET"}}'}, "S3CRET"),
        ({"env": {"PASSWORD1": "S3CRET"}, "api.key": "S3CRET", "passcode": "S3CRET"}, "S3CRET"),
        # Half a secret at the end of what is looked at, which a mask before it brings to the front.
        (
            {
                "content": ("-----BEGIN PRIVATE KEY-----\n" + "A" * 11_850 + "\n-----END PRIVATE KEY-----\n").ljust(
                    11_950, "x"
                )
                + " https://user:S3CRETS3CRET"
                + "x" * 100
                + "@host"
            },
            "S3CRET",
        ),
    ],
)
def test_a_secret_is_masked_and_the_rest_is_kept(tmp_path: Path, arguments: dict[str, Any], secret: str) -> None:
    audit = Audit(tmp_path)
    audit.begin("w", "f", "o", {"kept": "plain text", **arguments}, read_only=False, sandbox="none")
    text = audit.path.read_text()
    audit.close()
    assert secret not in text
    assert "***" in text or "more characters" in text
    assert "plain text" in text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,  # with the usual 100, drawing took 18 s
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_arguments_of_any_kind_can_be_kept_and_read_again(
    tmp_path_factory: pytest.TempPathFactory, arguments: dict[str, Any]
) -> None:
    audit = Audit(tmp_path_factory.mktemp("audit"))
    begun = audit.begin("w", "f", "o", arguments, read_only=False, sandbox="none")
    audit.end(begun, "ok", "", 0, 0.1)
    audit.close()
    (call,) = read_calls(audit.path)
    assert call.begun == begun


@pytest.mark.parametrize("blank", [" ", "\n", "\u2003"])
def test_a_long_text_of_blanks_alone_is_kept_like_any_other(tmp_path: Path, blank: str) -> None:
    """The call was not in the audit, and its row ended the run of all agents, each time that it was resumed."""
    audit = Audit(tmp_path)
    audit.begin("w", blank * 12_001, "o", {"content": blank * 12_001}, read_only=False, sandbox="none")
    (call,) = read_calls(audit.path)
    assert "more characters" in call.begun.arguments


def test_what_cannot_be_masked_is_not_shown() -> None:
    class Odd(str):
        def __len__(self) -> int:
            raise ValueError

    assert masked({"a": Odd("x")}) == "***"


def test_of_many_long_texts_in_one_call_no_more_is_looked_at_than_of_some() -> None:
    """400 of them held up the process of the engine for 17 s."""
    shown = masked({"many": ["a://sk-" * 1_700] * 400, "last": "x"})
    assert len([one for one in shown["many"] if one.startswith("a://")]) == 5
    assert shown["many"][5] == "[... 11,900 more characters]"
    assert shown["last"] == "x"


def test_a_file_that_is_called_like_a_secret_hides_no_others() -> None:
    arguments = {"paths": ["AUTH", "evil.py", "token", "setup.cfg"], "command": ["env", "-u", "AUTH", "sh"]}
    assert masked(arguments) == arguments


@pytest.mark.parametrize(
    "text", ["a-" * 10**6, "eyJaaaaaaaa-" * 10**5, "a.b+c" * 10**6, "-----BEGIN X PRIVATE KEY-----" * 10**5]
)
def test_a_long_text_that_is_nearly_a_secret_does_not_hold_up_the_audit(text: str) -> None:
    """80,000 characters took two seconds, and ten million would have taken hours: this test would not end."""
    assert len(masked({"content": text})["content"]) < 3_000


def test_half_a_character_in_a_call_does_not_keep_the_table_from_all_others(tmp_path: Path, world: World) -> None:
    for text in ("\ud800", "plain"):
        audit = Audit(tmp_path / "audit")
        audit.end(
            audit.begin("w", "f", text, {"path": text, text: 1}, read_only=False, sandbox="none"), "ok", text, 0, 0.1
        )
        audit.close()
    assert store_calls(Store(str(tmp_path / "storage")), tmp_path / "audit") == 2
    assert list((tmp_path / "audit").iterdir()) == []


def test_a_line_that_a_full_disk_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.begin("w", "f", "one", {}, read_only=False, sandbox="none")
    size = audit.path.stat().st_size
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, bounds[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            audit.begin("w", "f", "two", {}, read_only=False, sandbox="none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
        signal.signal(signal.SIGXFSZ, before)
    audit.begin("w", "f", "three", {}, read_only=False, sandbox="none")
    audit.close()
    assert [call.begun.operation for call in read_calls(audit.path)] == ["one", "three"]


def test_a_long_text_is_kept_by_its_beginning_and_length() -> None:
    (text,) = masked({"content": "x" * 10_000}).values()
    assert text == "x" * 2_000 + "[... 8,000 more characters]"


def test_a_torn_last_line_hides_nothing_that_stands_before_it(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    for number in range(3):
        begun = audit.begin("w", "f", str(number), {}, read_only=False, sandbox="none")
        audit.end(begun, "ok", "", 0, 0.0)
    audit.close()
    content = audit.path.read_bytes()
    for length in range(len(content)):
        audit.path.write_bytes(content[:length])
        calls = list(read_calls(audit.path))
        assert [call.begun.operation for call in calls] == [str(n) for n in range(len(calls))]
        whole = content[:length].rpartition(b"\n")[0].count(b'"call_id"')
        assert whole <= len(calls) <= whole + 1  # without its line break a line may be whole, too


def test_finished_files_become_a_table_and_those_in_use_stay(tmp_path: Path, world: World) -> None:
    world.call("files.read_file", path="app.py")
    folder = world.audit.path.parent
    store = Store(str(tmp_path / "storage"))
    assert store_calls(store, folder) == 0  # its process is still there
    other = Audit(folder, Caller("r", "t.qa", "a"))
    other.begin("w", "git", "commit", {"message": "m"}, read_only=False, sandbox="landlock-7+seccomp")
    other.close()
    assert store_calls(store, folder) == 1
    assert store_calls(store, folder) == 0
    assert list(folder.glob("*.jsonl")) == [world.audit.path]
    rows = duckdb.sql(
        f"select family, operation, outcome, seconds, agent_id from '{tmp_path}/storage/tool_calls/*.parquet'"
    ).fetchall()
    assert rows == [("git", "commit", "unfinished", None, "a")]


def test_a_run_that_finds_all_done_makes_a_table_of_what_a_killed_one_left(tmp_path: Path) -> None:
    options, store = ToolOptions(workspaces=str(tmp_path / "fleet/workspaces")), Store(str(tmp_path / "storage"))
    killed = Audit(audit_folder(options))
    killed.begin("w", "git", "commit", {"message": "m"}, read_only=False, sandbox="landlock-7+seccomp")
    killed.close()
    Agents(options, store, "later", lambda _: True).close()
    assert list(audit_folder(options).iterdir()) == []
    assert store.names("tool_calls", ".parquet") == [f"{killed.path.stem}.audit"]
