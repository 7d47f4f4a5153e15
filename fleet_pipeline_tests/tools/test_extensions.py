"""Tools of users' own: MCP servers and installed packages; and the pipeline's tools as an MCP server."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet_pipeline.tools.hands import toolset_of
from fleet_pipeline.tools.mcp_servers import connected
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import McpOptions, ToolOptions
from fleet_pipeline.tools.toolbox import Toolbox, prompt_text
from fleet_pipeline_tests.support.tool_world import MCP_SERVER, PATIENCE, SECRET, World, processes_in

pytestmark = pytest.mark.unit


def options(**more: Any) -> ToolOptions:
    return ToolOptions(
        limits={"seconds": PATIENCE},
        mcp={"own": {"command": [sys.executable, "server.py"], "seconds": PATIENCE, **more}},
    )


def box(world: World, given: ToolOptions, read_only: bool = False) -> Box:
    (world.workspace.tree_folder / "server.py").write_text(MCP_SERVER)
    return Box(world.workspace, world.box.sandbox, given, read_only)


def test_a_server_s_tools_are_a_family_in_the_sandbox_with_its_calls_in_the_audit(world: World) -> None:
    own = box(world, options())
    with connected(own) as servers:
        tools = Toolbox(own, world.audit, servers=servers)
        assert "own.shout" in tools.available()
        assert tools.find("own", "shout").schema["required"] == ["text"]
        assert {"own.keep"} == toolset_of(tools).changing & {"own.keep", "own.shout", "own.lie"}
        assert not processes_in(world.workspace.place)
        assert tools.call("own.shout", {"text": "ab", "times": 2}).output == "ABAB"
        assert not processes_in(world.workspace.place), "one that goes on could change what git and the look are at"
        wrong = tools.call("own.shout", {"text": 3})
        assert (wrong.outcome, "text" in wrong.error) == ("failed", True)
        peeked = tools.call("own.peek", {"path": str(world.outside / "secret.txt")})
        assert not peeked.ok
        assert tools.call("own.keep", {"path": "made.txt", "text": "x"}).ok
        assert (world.workspace.tree_folder / "made.txt").read_text() == "x"
        assert not tools.call("own.lie", {"path": "lie.txt"}).ok
        assert not (world.workspace.tree_folder / "lie.txt").exists(), "a tool that only reads is held to it"
        assert SECRET not in tools.call("own.environment", {}).output
        assert tools.call("own.none", {}).outcome == "refused"
        world_calls = world.audit.path.read_text()
        assert world_calls.count('"family": "own"') == 7
    world.unharmed(peeked.output, peeked.error)  # its daemon has ended as well


def test_a_server_is_not_started_for_a_role_that_may_not_call_it(world: World) -> None:
    own = box(world, options(command=["touch", "started"]))
    with connected(own, "QA") as servers:
        assert servers == {}
    assert not (world.workspace.tree_folder / "started").exists()


def test_a_server_where_nothing_may_be_changed_offers_what_only_reads(world: World) -> None:
    own = box(world, options(), read_only=True)
    with connected(own) as servers:
        tools = Toolbox(own, world.audit, servers=servers)
        assert tools.call("own.shout", {"text": "a"}).ok
        assert tools.call("own.keep", {"path": "made.txt", "text": "x"}).outcome == "refused"


HOSTILE = r"""
import json, sys
def send(**values): print(json.dumps({"jsonrpc": "2.0", **values}), flush=True)
tools = [{"name": "t", "description": " ", "inputSchema": {"type": "object", "properties": {"a": True, "b": {"enum": 1}}},
          "outputSchema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a|a)*b$"}}}},
         {"name": " ", "description": " ", "inputSchema": {"type": "object"}}]
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked: continue
    if asked["method"] == "initialize":
        send(id=asked["id"], result={"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}})
    elif asked["method"] == "tools/list": send(id=asked["id"], result={"tools": tools})
    elif asked["method"] == "tools/call" and asked["params"]["arguments"].get("chatty"):
        for _ in range(100): print("no message", flush=True)
        send(id=asked["id"], result={"content": []})
    elif asked["method"] == "tools/call" and not asked["params"]["arguments"].get("silent"):
        send(id=asked["id"], result={"content": [{"type": "text", "text": "x"}], "structuredContent": {"a": "a" * 40}})
    elif asked["method"] != "tools/call": send(id=asked["id"], error={"code": -32601, "message": "no"})
"""


def test_a_server_s_own_schemas_and_chatter_neither_hold_up_nor_break_the_pipeline(world: World, caplog) -> None:
    """Its pattern, matched in this process, would run until the end of the world."""
    world.workspace.tree.write("server.py", HOSTILE.encode())
    box = Box(world.workspace, world.box.sandbox, options())
    with connected(box) as servers:
        tools = Toolbox(box, world.audit, None, servers)
        assert not servers["own"].missing(box)
        assert "own.t(a?: any, b?: any): t" in prompt_text(tools.available())
        assert tools.call("own.t", {"box": 1, "self": 2}).output == "x"
        assert tools.call("own.t", {"chatty": True}).ok
        assert "no message" not in caplog.text, "what a program says is no line of the pipeline's log"


def test_a_call_that_takes_too_long_is_given_up(world: World) -> None:
    """Its server loads nothing, and so starts long before the bound, which is for starting as well."""
    world.workspace.tree.write("server.py", HOSTILE.encode())
    own = Box(world.workspace, world.box.sandbox, options(seconds=40))
    with connected(own) as servers:
        result = Toolbox(own, world.audit, servers=servers).call("own.t", {"silent": True})
    assert (result.outcome, result.error) == ("failed", "own.t: MCPError: Request 'tools/call' timed out")
    world.unharmed()


@pytest.mark.parametrize(
    ("command", "said"),
    [(["no-such-program"], "is not installed"), ([sys.executable, "-c", "print('hello')"], "does not answer"), ([sys.executable, "-c", "import time; time.sleep(99)"], "does not answer: not within 3 s; tools.mcp.own.seconds gives it more")],
)  # fmt: skip
def test_a_server_that_does_not_answer_is_named_with_the_reason_and_the_rest_goes_on(
    world: World, command: list[str], said: str
) -> None:
    own = box(world, options(command=command, seconds=3))
    with connected(own) as servers:
        tools = Toolbox(own, world.audit, servers=servers)
        assert said in servers["own"].missing(own)
        assert tools.call("files.list_files", {}).ok
    world.unharmed()


@pytest.mark.parametrize(
    "wrong", [{}, {"command": ["x"], "url": "http://x"}, {"url": "ftp://x"}, {"url": "https://u:p@x"}]
)
def test_a_server_has_a_command_or_an_address(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="command|URL"):
        McpOptions(**wrong)


def test_a_family_of_an_installed_package_is_there_and_a_broken_one_says_why(tmp_path: Path) -> None:
    (tmp_path / "own_tools.py").write_text(
        "from fleet_pipeline.tools.operation import Box, Family, Output\n"
        "FAMILY = Family('weather', 'The weather.')\n"
        "@FAMILY.operation()\ndef ask(box: Box, place: str) -> Output:\n    'Ask for it.'\n    return Output(f'sun in {place}')\n"
    )
    info = tmp_path / "own_tools-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-tools\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[fleet_pipeline.tools]\nweather = own_tools:FAMILY\nbroken = own_tools:ABSENT\nfiles = own_tools:FAMILY\n"
    )
    fleet = [str(Path(sys.executable).with_name("fleet")), "tools"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    listed = json.loads(
        subprocess.run(
            [*fleet, "list", "--json"], env=environment, cwd=tmp_path, capture_output=True, check=True
        ).stdout
    )
    missing = {one["name"]: one["missing"] for one in listed["families"]}
    assert missing["weather"] == ""
    assert "cannot be loaded: AttributeError" in missing["broken"]
    assert "files.read_file" in {one["name"] for one in listed["operations"]}
    called = subprocess.run([*fleet, "call", "weather.ask", '{"place": "Graz"}', "--workspace", "ws"], env=environment, cwd=tmp_path, capture_output=True, check=True)  # fmt: skip
    assert called.stdout == b"sun in Graz\n"


def test_the_tools_are_offered_to_any_client_of_the_protocol(tmp_path: Path) -> None:
    from mcp import Client, StdioServerParameters

    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.txt").write_text("content of a")
    arguments = ["tools", "serve", "--workspace", "ws", "--from", "source", "--role", "DEV"]
    target = StdioServerParameters(command=str(Path(sys.executable).with_name("fleet")), args=arguments, cwd=tmp_path)

    async def talk() -> tuple[set[str], Any, Any, Any]:
        async with Client(target) as client:
            tools = (await client.list_tools()).tools
            marked.update(tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint)
            return (
                {tool.name for tool in tools},
                await client.call_tool("files.read_file", {"path": "a.txt"}),
                await client.call_tool("files.read_file", {"path": "../x"}),
                await client.call_tool("http.get", {"url": "http://x/"}),
            )

    marked: set[str] = set()
    names, read, refused, others = asyncio.run(talk())
    assert {"files.read_file", "git.log"} <= marked
    assert not marked & {"files.write_file", "git.branch", "tests.pytest"}, (
        "clients may let these through without asking"
    )
    assert {"files.read_file", "git.commit", "tests.pytest"} <= names
    assert not [name for name in names if name.startswith(("http.", "db.", "docker."))]
    assert (read.is_error, read.content[0].text) == (False, "content of a")
    assert (refused.is_error, refused.content[0].text) == (True, "../x: leads out of the workspace")
    assert others.is_error
    assert list((tmp_path / ".fleet/storage/tool_calls").glob("*.parquet"))
