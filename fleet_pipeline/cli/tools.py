"""`fleet tools`: the operations that agents call, by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleet_pipeline.cli.common import console, json_option
from fleet_pipeline.common.errors import INVALID, SOME_FAILED, InvalidInput
from fleet_pipeline.common.text import printable
from fleet_pipeline.settings import load_settings

if TYPE_CHECKING:
    from fleet_pipeline.tools.toolbox import Toolbox

role_option = click.option("--role", metavar="NAME", help="As an agent of this role: its families alone.")
read_only_option = click.option("--read-only", is_flag=True, help="Nothing may be changed.")
workspace_option = click.option(
    "--workspace",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="A workspace; made if there is none.",
)
from_option = click.option(
    "--from", "source", metavar="FOLDER|URL", help="What a new workspace starts from: a folder, or a git URL."
)


@click.group()
def tools() -> None:
    """The operations that agents call on a workspace, by hand: the same checks, sandbox and audit.

    \b
    fleet tools list
    fleet tools show files.edit_file
    fleet tools call files.list_files '{"recursive": true}' --workspace ws --from ~/project
    """


@tools.command("list")
@role_option
@read_only_option
@json_option
def list_tools(role: str | None, read_only: bool, as_json: bool) -> None:
    """List all operations, and say which can be called here.

    \b
    fleet tools list
    fleet tools list --role QA --read-only
    fleet tools list --json | jq -r '.operations[] | select(.available) | .name'
    """
    from rich.text import Text

    from fleet_pipeline.services.tool_calls import scratch

    with scratch(load_settings({}).tools, role, read_only) as toolbox:
        available = toolbox.available()
        families = toolbox.known
        missing = {name: family.missing(toolbox.box) for name, family in families.items()}
        sandbox = toolbox.box.sandbox
    document: dict[str, Any] = {
        "sandbox": sandbox.level,
        "reason": sandbox.reason,
        "families": [
            {"name": name, "help": family.help, "missing": missing[name]} for name, family in families.items()
        ],
        "operations": [
            {"name": f"{family.name}.{one.name}", "help": one.help.splitlines()[0], "writes": one.writes, "executes": one.executes,
             "available": f"{family.name}.{one.name}" in available}
            for family in families.values() for one in family.operations.values()
        ],
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    out = console()
    out.print(f"sandbox: {sandbox.level}" + (f" ({sandbox.reason})" if sandbox.reason else ""))
    for name, family in families.items():
        why = missing[name] or ("" if name in toolbox.families else f"not for the role {role}")
        out.print(Text(f"\n{name}: {family.help}", style="bold"), Text(f"  {why}", style="yellow") if why else "")
        for one in family.operations.values():
            mark = " " if f"{name}.{one.name}" in available else "-"
            out.print(Text(f" {mark} {name}.{one.name:<18} {one.help.splitlines()[0]}"))
    out.print("\n- cannot be called here", style="dim")


@tools.command()
@click.argument("name", metavar="FAMILY.OPERATION")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one operation with its arguments.

    \b
    fleet tools show git.commit
    fleet tools show git.commit --json | jq .arguments
    """
    from fleet_pipeline.services.tool_calls import scratch
    from fleet_pipeline.tools.toolbox import prompt_text

    family, _, operation = name.partition(".")
    with scratch(load_settings({}).tools, None, False) as toolbox:
        one = toolbox.find(family, operation)
    if as_json:
        click.echo(json.dumps({"name": name, "help": one.help, "writes": one.writes, "executes": one.executes, "arguments": one.schema}, indent=2))  # fmt: skip
        return
    click.echo(prompt_text({name: one}))
    required = one.schema.get("required", [])
    for argument, facts in one.schema.get("properties", {}).items():
        said = facts.get("description", "")
        default = "" if argument in required else f" (default: {json.dumps(facts.get('default'))})"
        click.echo(f"  {argument}: {said}{default}")
    kinds = [
        word
        for word, holds in (("changes something", one.writes), ("runs a program in the sandbox", one.executes))
        if holds
    ]
    if kinds:
        click.echo(f"It {' and '.join(kinds)}.")


@tools.command()
@click.argument("name", metavar="FAMILY.OPERATION")
@click.argument("arguments", metavar="JSON", default="{}")
@workspace_option
@from_option
@role_option
@read_only_option
@json_option
def call(
    name: str, arguments: str, workspace: Path, source: str | None, role: str | None, read_only: bool, as_json: bool
) -> None:
    """Call one operation on a workspace, in the sandbox, with its record in the audit.

    A workspace is a folder of its own with the files in DIR/tree; it is made on the first call and stays. JSON is an object, or - for
    standard input. Exit codes: 0 it succeeded, 2 it was refused, 3 it failed.

    \b
    fleet tools call files.list_files --workspace ws --from ~/project
    fleet tools call tests.pytest '{"path": "tests"}' --workspace ws
    fleet tools call git.diff --workspace ws --read-only --json | jq -r .output
    """
    text = sys.stdin.read() if arguments == "-" else arguments
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f'arguments: no JSON ({error}); give an object, such as {{"path": "a.py"}}') from None
    if not isinstance(values, dict):
        raise InvalidInput('arguments: expected a JSON object, such as {"path": "a.py"}')
    with _toolbox(workspace, source, role, read_only) as toolbox:
        result = toolbox.call(name, values)
    if as_json:
        click.echo(json.dumps({"ok": result.ok, "output": result.output, "error": result.error, "sandbox": result.sandbox, "outcome": result.outcome, "facts": dict(result.facts)}, indent=2, default=str))  # fmt: skip
    else:
        if result.output:
            click.echo(result.output)
        if result.error:
            click.echo(f"fleet: {printable(result.error)}", err=True)
    if not result.ok:
        sys.exit(INVALID if result.outcome == "refused" else SOME_FAILED)


@tools.command()
@workspace_option
@from_option
@role_option
@read_only_option
def serve(workspace: Path, source: str | None, role: str | None, read_only: bool) -> None:
    """Offer the operations as an MCP server on standard input and output, on one workspace.

    \b
    fleet tools serve --workspace ws --from ~/project --role DEV
    In a client's settings: {"command": "fleet", "args": ["tools", "serve", "--workspace", "ws"]}
    """
    from fleet_pipeline.services.tool_server import serve_stdio

    with _toolbox(workspace, source, role, read_only) as toolbox:
        serve_stdio(toolbox)


@tools.command()
@json_option
def sweep(as_json: bool) -> None:
    """Remove workspaces that killed processes have left, and end what still runs in them.

    Every run does the same when it begins.
    """
    from fleet_pipeline.tools.workspace import Workspaces

    root = Path(load_settings({}).tools.workspaces)
    found = Workspaces(root).swept if root.is_dir() else []
    click.echo(json.dumps(found) if as_json else "\n".join(found) or "nothing was left")


@contextmanager
def _toolbox(place: Path, source: str | None, role: str | None, read_only: bool) -> Iterator[Toolbox]:
    from fleet_pipeline.services.tool_calls import by_hand

    with by_hand(load_settings({}), place, source, role, read_only) as toolbox:
        yield toolbox
