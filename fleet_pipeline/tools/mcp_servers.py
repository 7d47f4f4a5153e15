"""Servers of the Model Context Protocol: their tools as operations, under the same checks and audit as the pipeline's own.

A server with a command is started in the sandbox for each call, on the workspace's tree and without network, and ends with it. It may
run what an agent has written, such as plug-ins of a linter. One that went on beside git and the look at a change put links before
git's writes into the repository, and changed tests between the diff and their run.

One with a URL runs elsewhere, outside of this sandbox: naming it in the settings allows it, and it sees what is sent to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fleet_pipeline.common.errors import Refused, SandboxUnavailable
from fleet_pipeline.tools.operation import Box, Changes, Family, Function, Operation, Output, absent
from fleet_pipeline.tools.options import McpOptions
from fleet_pipeline.tools.sandbox.sandbox import launch

_log = logging.getLogger(__name__)
# It logs a traceback, with the text, for each line of a server's output that is no message: what such a server ran of an agent's
# wrote 35 MB of them in one call.
logging.getLogger("mcp.client.stdio").setLevel(logging.CRITICAL)
_MOST_TOOLS = 200
# For a connection to end. A server may never answer a farewell: it is left to itself then, with its thread.
_CLOSES_SECONDS = 10.0
_OUTPUT_CHARS = 1_000_000


@dataclass(frozen=True)
class ServedOperation(Operation):
    """A tool of a server. Its schema is the server's, and so is the check of arguments."""

    served_help: str
    served_schema: Mapping[str, Any]

    @property
    def help(self) -> str:
        return self.served_help

    @cached_property
    def schema(self) -> dict[str, Any]:
        return dict(self.served_schema)

    def run(self, box: Box, arguments: Mapping[str, Any]) -> Output:
        return self.function(box, arguments)


@contextmanager
def connected(box: Box, role: str | None = None) -> Iterator[dict[str, Family]]:
    """The families of the servers that the settings name, for a role those that it may call. One that does not answer is there, and says why
    it cannot be called.
    """
    with ExitStack() as stack:
        families = {}
        for name, options in box.options.mcp.items():
            if role is not None and name not in box.options.families_of(role):
                continue
            try:
                families[name] = stack.enter_context(_connected(name, options, box))
            except (Refused, SandboxUnavailable) as error:
                families[name] = absent(name, "An MCP server.", str(error))
        yield families


@contextmanager
def _connected(name: str, options: McpOptions, box: Box) -> Iterator[Family]:
    connection = _Connection(name, _target(options, box), options.seconds)
    try:
        if options.command:
            connection.close()
        family = Family(name, f"Tools of the MCP server {name}.")
        for tool in connection.tools[:_MOST_TOOLS]:
            told = (tool.description or "").strip() or tool.name.strip() or "-"
            only_reads = bool(tool.annotations and tool.annotations.read_only_hint)
            family.operations[tool.name] = ServedOperation(
                *(
                    tool.name,
                    _started_for_each(name, options, tool.name, only_reads=only_reads)
                    if options.command
                    else connection.function(tool.name),
                    not only_reads,
                    bool(options.command),
                    Changes.NOTHING if only_reads else Changes.TREE if options.command else Changes.ELSEWHERE,
                    told,
                    tool.input_schema,
                )
            )
        yield family
    finally:
        connection.close()


def _started_for_each(name: str, options: McpOptions, tool: str, *, only_reads: bool) -> Function:
    def call(box: Box, arguments: Mapping[str, Any]) -> Output:
        target = _target(options, box, only_reads=only_reads)
        with closing(_Connection(name, target, options.seconds)) as connection:
            return connection.function(tool)(box, arguments)

    return call


def _target(options: McpOptions, box: Box, *, only_reads: bool = False) -> Any:
    """Where a connection leads. A tool that says it only reads is held to it: nobody looks for a change after its call."""
    if options.url is not None:
        return options.url
    from mcp import StdioServerParameters

    if not box.sandbox.works:
        raise SandboxUnavailable(box.sandbox.reason)
    own = box.workspace
    writable = [own.home] if box.read_only or only_reads else [own.tree_folder, own.home]
    try:
        box.make_ready()
        limits = box.limits()._replace(seconds=2 * options.seconds + _CLOSES_SECONDS)  # to start, and to answer
        policy = box.sandbox.policy(options.command, own.tree_folder, writable, limits, [own.tree_folder], own.home)
    except FileNotFoundError as error:
        raise Refused(str(error)) from None
    program, *arguments = launch(policy)
    return StdioServerParameters(command=program, args=arguments)


class _Connection:
    """A client in a thread of its own: the protocol's library is asynchronous, and operations are not."""

    def __init__(self, name: str, target: Any, seconds: float) -> None:
        self.name = name
        self.seconds = seconds
        self.tools: list[Any] = []
        self._stop: asyncio.Event | None = None
        self._ready: Future[None] = Future()
        self._client: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(target,), name=f"fleet-mcp-{name}", daemon=True)
        self._thread.start()
        try:
            self._ready.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, the server cannot be used
            self._thread.join(_CLOSES_SECONDS)
            raise Refused(f"the MCP server {name} does not answer: {error}") from None

    def _run(self, target: Any) -> None:
        try:
            with Path(os.devnull).open("w") as self._nowhere:  # what a confined program says must not reach a terminal
                self._loop.run_until_complete(self._serve(target))
        except TimeoutError:
            if not self._ready.done():
                remedy = f"not within {self.seconds:g} s; tools.mcp.{self.name}.seconds gives it more"
                self._ready.set_exception(RuntimeError(remedy))
        except BaseException as error:  # noqa: BLE001 - told to who waits
            if not self._ready.done():
                self._ready.set_exception(RuntimeError(_reason(error)))
        finally:
            self._loop.close()

    async def _serve(self, target: Any) -> None:
        from mcp import Client, StdioServerParameters, stdio_client

        self._stop = asyncio.Event()
        if isinstance(target, StdioServerParameters):
            target = stdio_client(target, errlog=self._nowhere)
        await self._speak(Client(target, read_timeout_seconds=self.seconds))

    async def _speak(self, connecting: Any) -> None:
        assert self._stop is not None
        async with asyncio.timeout(self.seconds) as starting:
            async with connecting as client:
                # What a tool answers is handed on as text. The library would check it against a schema of the server's own, whose
                # regular expressions run in this process, and can run without end.
                client.session.validate_tool_result = _unchecked
                self.tools = (await client.list_tools()).tools
                self._client = client
                starting.reschedule(None)
                self._ready.set_result(None)
                await self._stop.wait()

    def function(self, tool: str) -> Function:
        def call(box: Box, arguments: Mapping[str, Any]) -> Output:
            asked = asyncio.run_coroutine_threadsafe(self._client.call_tool(tool, dict(arguments)), self._loop)
            try:
                answer = asked.result(self.seconds + 1)
            except Exception as error:  # noqa: BLE001 - another's server
                asked.cancel()
                return Output("", ok=False, error=f"{self.name}.{tool}: {_reason(error)}")
            text = "\n".join(getattr(part, "text", f"[{part.type}]") for part in answer.content)[:_OUTPUT_CHARS]
            return Output(
                "" if answer.is_error else text, ok=not answer.is_error, error=text if answer.is_error else ""
            )

        return call

    def close(self) -> None:
        if self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_CLOSES_SECONDS)
        if self._thread.is_alive():
            _log.warning("the MCP server %s does not end, and is left to itself", self.name)


async def _unchecked(name: str, result: Any) -> None:
    """Do nothing."""


def _reason(error: BaseException) -> str:
    """The first error within groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:500] if str(error) else type(error).__name__
