"""Servers of models on this machine: vLLM's own, one that is scripted, and a proxy that breaks what passes."""

import asyncio
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from fleet_pipeline_tests.support.engine import CONTEXT
from fleet_pipeline_tests.support.http import free_port

# As `VllmEngine` loads a model on CPU.
AS_THE_ENGINE = (
    *("--enforce-eager", "--no-enable-chunked-prefill", "--block-size=32", "--dtype=auto"),
    '--structured-outputs-config={"backend": "xgrammar", "disable_any_whitespace": true}',
)


@contextmanager
def vllm_server(model: str, name: str, log: Path, *, port: int | None = None) -> Iterator[str]:
    """The base URL of a real vLLM server. It is killed at exit, as a machine that is switched off is."""
    port = port or free_port()
    command = [
        *(
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            f"--model={model}",
            f"--served-model-name={name}",
        ),
        *(f"--port={port}", "--host=127.0.0.1", f"--max-model-len={CONTEXT}", "--max-num-seqs=32"),
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log", *AS_THE_ENGINE),
    ]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | quiet, start_new_session=True)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        while not _answers(f"{url}/models"):
            if process.poll() is not None:
                raise RuntimeError(f"vLLM's server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


class Served:
    """An aiohttp application in a thread of its own. `stop` cuts all connections; `start` listens on the same port."""

    def __init__(self, app_of: Callable[[], web.Application], certificate: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/v1"
        self._certificate = certificate
        self._app_of = app_of
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._socket: socket.socket
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()

    async def _start(self) -> None:
        self._runner = web.AppRunner(self._app_of(), shutdown_timeout=0.01, handler_cancellation=True)
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", self.port))
        await web.SockSite(self._runner, self._socket, ssl_context=self._certificate).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            # Python 3.11 forgets a connection that it has accepted just before its server closes, and leaves it open: the
            # client waited until its own deadline. So accepting ends first, and what is accepted becomes a connection.
            self._loop.remove_reader(self._socket)
            await asyncio.sleep(0.01)
            await self._runner.cleanup()
            self._runner = None

    def __enter__(self) -> "Served":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)


class ScriptedServer(Served):
    """Any OpenAI-compatible server but vLLM's: it has no /tokenize. `script` gets a request's JSON and gives the words of
    its answer, one an event, or a response of its own.
    """

    def __init__(
        self,
        script: Callable[[dict[str, Any]], Any],
        *,
        model: str = "served",
        key: str = "",
        certificate: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.model = model
        self.key = key
        self.requests: list[dict[str, Any]] = []
        self.arrived: list[float] = []
        self.given_up = threading.Event()  # a client has closed its connection in the midst of an answer
        super().__init__(self._app, certificate)

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    def _allowed(self, request: web.Request) -> bool:
        return not self.key or request.headers.get("Authorization") == f"Bearer {self.key}"

    async def _models(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "someone"}]}
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not self._allowed(request):
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        body = await request.json()
        self.requests.append(body)
        self.arrived.append(time.monotonic())
        words = self.script(body)
        if isinstance(words, web.StreamResponse):
            return words
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = 0
        try:
            async for word in _each(words):
                count += 1
                await response.write(_event({"choices": [{"index": 0, "delta": {"content": word}}]}))
            usage = {"prompt_tokens": 10, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 4}}
            await response.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
            await response.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        except (ConnectionResetError, asyncio.CancelledError):
            self.given_up.set()
            raise
        return response


async def _each(words: Any) -> AsyncIterator[str]:
    if hasattr(words, "__aiter__"):
        async for word in words:
            yield word
    else:
        for word in words:
            yield word


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk"} | document).encode() + b"\n\n"


FAULTS = ("drop", "delay", "truncate", "429", "500", "garbage")


class FaultyProxy(Served):
    """In front of a server. A `share` of all calls is dropped, delayed, cut in the middle, or answered with 429, 500 or garbage."""

    def __init__(self, upstream: str, share: float, seed: int = 0) -> None:
        self.upstream = upstream.removesuffix("/v1")
        self.share = share
        self.faults: Counter[str] = Counter()
        self._chance = random.Random(seed)
        super().__init__(self._app)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._pass)
        app.cleanup_ctx.append(self._session)
        return app

    async def _session(self, app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._client:
            yield

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        fault = self._chance.choice(FAULTS) if self._chance.random() < self.share else ""
        self.faults[fault] += 1
        if fault == "delay":
            await asyncio.sleep(self._chance.uniform(0.1, 1.0))
        elif fault == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.05"})
        elif fault == "500":
            return web.Response(status=500, text="<html>Internal Server Error</html>")
        elif fault == "garbage":
            return web.Response(
                text=self._chance.choice(["<html>It works</html>", 'data: {"choices": [{"delta"', "data: 7\n\n"])
            )
        elif fault == "drop":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return await self._forward(request, cut=fault == "truncate")

    async def _forward(self, request: web.Request, *, cut: bool) -> web.StreamResponse:
        body = await request.read()
        async with self._client.request(
            request.method, f"{self.upstream}{request.path_qs}", data=body, headers={"Content-Type": "application/json"}
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            response.enable_chunked_encoding()
            await response.prepare(request)
            left = self._chance.randrange(400) if cut else None
            async for chunk in answer.content.iter_any():
                if left is not None and len(chunk) >= left:
                    await response.write(chunk[:left])
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                left = left - len(chunk) if left is not None else None
                await response.write(chunk)
            return response
