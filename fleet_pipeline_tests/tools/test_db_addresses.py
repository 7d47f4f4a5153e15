"""Addresses of databases: what cannot be read, or reached, is told without a letter of its password."""

import pytest

from fleet_pipeline.tools.families.db_addresses import is_address, user_apart, without_password
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.toolbox import Result, Toolbox
from fleet_pipeline_tests.support.tool_world import World

pytestmark = pytest.mark.unit
OPTIONS = ToolOptions(
    databases={
        "gone": {"kind": "postgresql", "url_env": "GONE_URL"},
        "cache": {"kind": "redis", "url_env": "CACHE_URL"},
        "unset": {"kind": "postgresql", "url_env": "NOT_SET"},
    }
)


@pytest.fixture
def tools(world: World, monkeypatch: pytest.MonkeyPatch) -> Toolbox:
    monkeypatch.setenv("GONE_URL", "postgresql://fleet:s3cret-word@127.0.0.1:1/postgres")
    monkeypatch.setenv("CACHE_URL", "redis://:s3cret-word@127.0.0.1:1/0")
    return Toolbox(Box(world.workspace, world.box.sandbox, OPTIONS), world.audit)


def query(tools: Toolbox, text: str, database: str) -> Result:
    return tools.call("db.postgresql_query", {"database": database, "query": text})


def redis(tools: Toolbox, *command: str) -> Result:
    return tools.call("db.redis_command", {"database": "cache", "command": command})


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("CACHE_URL", "redis://:s3cret#word@127.0.0.1/0"),
        ("CACHE_URL", "redis://:s3cret?word@127.0.0.1/0"),
        ("CACHE_URL", "redis://:s3c[ret]word@127.0.0.1/0"),
        ("CACHE_URL", "redis://:1234/word@127.0.0.1/0"),
        ("GONE_URL", "postgresql://u:s3cret#word@127.0.0.1/d"),
        ("GONE_URL", "postgresql://u:1234/word@127.0.0.1/d"),
        ("GONE_URL", "postgresql://u:s3cret@word@127.0.0.1/d"),
        ("GONE_URL", "host=127.0.0.1 port=1 user=a password=x s3cret"),
        ("GONE_URL", "host=127.0.0.1 port=1 user=a password=x s3cret=word"),
    ],
)
def test_no_part_of_a_password_is_told_where_an_address_cannot_be_read(
    tools: Toolbox, monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    """Its driver named as a port what stood before a # that was not written as %23."""
    monkeypatch.setenv(variable, address)
    told = redis(tools, "GET", "a") if variable == "CACHE_URL" else query(tools, "select 1", "gone")
    assert told.outcome == "refused", told
    assert f"{variable} holds is no address" in told.error
    assert not [part for part in ("s3c", "ret", "word", "1234") if part in told.error.replace("password", "")]


@pytest.mark.parametrize("password", ["x", "postgres", "connection", "se+cret"])
def test_a_password_that_stands_in_the_error_is_told_by_no_gap(
    tools: Toolbox, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """A mask in a driver's words tells what it hides: `connection timeout e***pired`."""
    monkeypatch.setenv("GONE_URL", f"host=127.0.0.1 port=1 user={password} password={password} connect_timeout=2")
    told = query(tools, "select 1", "gone")
    assert told.outcome == "failed"
    assert "***" not in told.error
    assert without_password("postgresql", f"postgresql://u@h/d?password={password}", f"wrong: {password}").endswith(
        "because that may hold the password"
    )


@pytest.mark.parametrize(
    ("kind", "address", "is_one"),
    [
        ("postgresql", "postgresql://u:p%40ss@h1:5432,h2:5432/d", True),
        ("postgresql", "postgresql://u:pass@[::1],[::2]/d", True),
        ("postgresql", "postgresql://u@/d?host=/run/postgresql", True),
        ("postgresql", "host=/run/postgresql user=a@b password=x@y", True),
        ("postgresql", "postgresql:///d?user=u@corp", False),
        ("redis", "rediss://user:p%23ss@h:6380/1", True),
        ("redis", "unix:///run/redis.sock?password=x", True),
        ("redis", "redis://[::1]:6379/0", True),
        ("redis", "h:6379", False),
        ("neo4j", "neo4j+s://u:p@h:7687", True),
        ("neo4j", "garbage", False),
    ],
)
def test_addresses_of_every_usual_form_are_taken(kind: str, address: str, is_one: bool) -> None:
    assert is_address(kind, address) is is_one


def test_neo4j_gets_its_user_apart() -> None:
    """Its driver takes no address with one, and so no database with a password could be asked."""
    assert user_apart("neo4j+s://agent:p%40ss@h:7687") == ("neo4j+s://h:7687", ("agent", "p@ss"))
    assert user_apart("bolt://h") == ("bolt://h", None)


def test_an_option_that_no_client_knows_breaks_no_call(tools: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("socket_timeout=s3cret", "nosuch=1"):
        monkeypatch.setenv("CACHE_URL", f"redis://:s3cret@127.0.0.1:1/0?{option}")
        told = redis(tools, "GET", "a")
        assert told.outcome != "broke", told
        assert "s3cret" not in told.error


def test_what_cannot_be_reached_is_told_without_its_password(tools: Toolbox) -> None:
    for name, arguments in {"db.postgresql_query": {"database": "gone", "query": "select 1"}, "db.redis_command": {"database": "cache", "command": ["GET", "a"]}}.items():  # fmt: skip
        result = tools.call(name, {**arguments, "timeout": 2})
        assert result.outcome == "failed", result
        assert "s3cret-word" not in result.error
    assert "NOT_SET is not set" in query(tools, "select 1", "unset").error
    assert "is none of the settings'" in query(tools, "select 1", "postgresql://u:p@host/db").error
    assert "is none of the settings'" in query(tools, "select 1", "cache").error
    assert tools.call("db.neo4j_query", {"database": "x", "query": "return 1"}).outcome == "refused"
