"""The operations as a server of the Model Context Protocol."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fleet_pipeline.tools.toolbox import Toolbox


def serve_stdio(toolbox: Toolbox) -> None:
    """Answer on standard input and output until the input ends. Calls are made one after another."""
    import anyio
    from mcp import stdio_server, types
    from mcp.server.lowlevel.server import Server

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    description=operation.help,
                    input_schema=operation.schema,
                    annotations=types.ToolAnnotations(read_only_hint=toolbox.box.read_only or not operation.changes),
                )
                for name, operation in toolbox.available().items()
            ]
        )

    one_at_a_time = anyio.Lock()

    async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        async with one_at_a_time:
            result = await anyio.to_thread.run_sync(toolbox.call, params.name, params.arguments or {})
        text = result.output if result.ok else "\n".join(filter(None, (result.output, result.error)))
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=not result.ok)

    server: Server[Any] = Server(
        "fleet-tools", version=version("fleet-pipeline"), on_list_tools=list_tools, on_call_tool=call_tool
    )

    async def answer() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(answer)
