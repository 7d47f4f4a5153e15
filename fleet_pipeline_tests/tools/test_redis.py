"""Redis: commands that its server calls read-only, and, where it is writable, those that change this database alone."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.toolbox import Toolbox
from fleet_pipeline_tests.support.http import free_port
from fleet_pipeline_tests.support.listening import listening
from fleet_pipeline_tests.support.tool_world import World

pytestmark = pytest.mark.unit
OPTIONS = ToolOptions(
    databases={
        "cache": {"kind": "redis", "url_env": "CACHE_URL"},
        "store": {"kind": "redis", "url_env": "CACHE_URL", "writable": True},
    }
)


@pytest.fixture
def cache(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toolbox]:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    tools = Toolbox(Box(world.workspace, world.box.sandbox, OPTIONS), world.audit)
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path), "--requirepass", "s3cret-word"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            monkeypatch.setenv("CACHE_URL", f"redis://:s3cret-word@127.0.0.1:{port}/0")
            while "refused" in redis(tools, "GET", "a").error:
                time.sleep(0.02)
            yield tools
        finally:
            process.terminate()


def redis(tools: Toolbox, *command: str, database: str = "cache", **more: Any) -> Any:
    return tools.call("db.redis_command", {"database": database, "command": command, **more})


@pytest.mark.parametrize("command", [("SWAPDB", "0", "3"), ("FLUSHALL",), ("MOVE", "a", "3"), ("COPY", "a", "b", "DB", "3"), ("SELECT", "3")])  # fmt: skip
def test_no_command_reaches_another_database_of_the_same_redis(cache: Toolbox, command: tuple[str, ...]) -> None:
    redis(cache, "SET", "a", "1", database="store")
    assert redis(cache, *command, database="store").outcome == "refused"
    assert "is unknown there" in redis(cache, "NO-SUCH-COMMAND", database="store").error
    assert redis(cache, "COPY", "a", "c", database="store").ok
    assert redis(cache, "FLUSHDB", database="store").ok


def test_redis_is_read_and_where_it_is_writable_changed(cache: Toolbox) -> None:
    assert redis(cache, "SET", "a", "1", database="store").output == "true"
    assert redis(cache, "GET", "a").output == '"1"'
    assert redis(cache, "LPUSH", "l", "x", "y", database="store").ok
    assert redis(cache, "LRANGE", "l", "0", "-1").output == '["y", "x"]'
    assert "WRONGTYPE" in redis(cache, "LLEN", "a").error
    assert redis(cache, "SADD", "s", "x", database="store").ok
    assert redis(cache, "SRANDMEMBER", "s", "1").output == '["x"]'
    assert "repeats what there is" in redis(cache, "srandmember", "s", "-4000000").error


@pytest.mark.parametrize(
    "command",
    [
        *(("SET", "a", "2"), ("set", "a", "2"), ("DEL", "a"), ("FLUSHALL",), ("GETDEL", "a"), ("GETEX", "a", "PX", "1"), ("SORT", "l", "STORE", "a")),
        *(("EVAL", "redis.call('DEL','a')", "0"), ("CONFIG", "SET", "dir", "/tmp"), ("SHUTDOWN",), ("DEBUG", "SEGFAULT"), ("REPLICAOF", "10.0.0.1", "1")),
        *(("MIGRATE", "10.0.0.1", "1", "a", "0", "1"), ("SAVE",), ("MODULE", "LOAD", "/x"), ("SUBSCRIBE", "c"), ("MONITOR",), ("BLPOP", "q", "0")),
        *(("FUNCTION", "FLUSH"), ("CLIENT", "KILL", "ID", "1"), ("NOTHING",), ("GET a\r\nDEL a",), ("GET", "a\r\nDEL a"), ("PUBLISH", "c", "x"), ("SELECT", "1")),
    ],
)  # fmt: skip
def test_redis_that_is_only_read_is_not_changed_by_any_command(cache: Toolbox, command: tuple[str, ...]) -> None:
    redis(cache, "SET", "a", "1", database="store")
    redis(cache, *command, timeout=2)
    if command[0] in (
        "CONFIG",
        "SHUTDOWN",
        "DEBUG",
        "REPLICAOF",
        "MIGRATE",
        "SAVE",
        "MODULE",
        "EVAL",
        "CLIENT",
        "FUNCTION",
    ):
        redis(cache, *command, database="store", timeout=2)
        assert redis(cache, *command, database="store", timeout=2).outcome == "refused"
    assert redis(cache, "GET", "a").output == '"1"'
    assert redis(cache, "TTL", "a").output == "-1"


def test_an_answer_of_redis_that_comes_letter_by_letter_is_given_up(
    cache: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time held for each letter."""
    real = int(os.environ["CACHE_URL"].rpartition(":")[2].partition("/")[0])

    def serve(link: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", real)) as behind, suppress(OSError):
            while said := link.recv(65_536):
                if b"COMMAND" not in said and b"GET" in said:
                    link.sendall(b"$1000000\r\n")
                    while True:
                        link.sendall(b"x")
                        time.sleep(0.2)
                behind.sendall(said)
                link.sendall(behind.recv(1_000_000))

    with listening(serve) as port:
        monkeypatch.setenv("CACHE_URL", f"redis://:s3cret-word@127.0.0.1:{port}/0")
        assert redis(cache, "GET", "a", timeout=1).error == "redis: took longer than 1 s"
