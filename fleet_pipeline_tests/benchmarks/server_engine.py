"""What the engine for servers costs: seconds of this process for each request, against a server that answers at once.

    python -m fleet_pipeline_tests.benchmarks.server_engine 2000
    python -m fleet_pipeline_tests.benchmarks.server_engine 2000 --profile 30

The server is another process on this machine, and answers each request with a fixed stream of events. Councils of three agents and one
round. The lockstep figure is that of a client that sends the same requests one after another.
"""

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import pstats
import resource
import time
from typing import Any

import aiohttp
from aiohttp import web

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.inference.openai import OpenAIEngine
from fleet_pipeline.inference.options import ServerOptions, VllmConfig
from fleet_pipeline_tests.benchmarks.figures import Line, Spread, publish, takes_json
from fleet_pipeline_tests.support.councils import a_deliberation, a_job
from fleet_pipeline_tests.support.http import free_port

EVENTS = 40  # of an answer, a word each
REPETITIONS = 3


def serve(port: int) -> None:
    def event(document: dict[str, Any]) -> bytes:
        return (
            b"data: "
            + json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m"} | document).encode()
            + b"\n\n"
        )

    answer = b"".join(
        [
            event({"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]})
            for _ in range(EVENTS)
        ]
        + [event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})]
        + [event({"choices": [], "usage": {"prompt_tokens": 300, "completion_tokens": EVENTS}}), b"data: [DONE]\n\n"]
    )

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, content_type="text/event-stream")

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def measure(url: str, requests: int) -> tuple[float, float]:
    """(requests a second, milliseconds of this process's CPU for each)."""
    defaults = CouncilDefaults(model="m", sampling=Sampling(max_tokens=100))
    jobs = [a_job(a_deliberation(f"t{n:06d}", defaults=defaults)) for n in range(requests // 9)]
    with OpenAIEngine.start(VllmConfig(model="m", server=ServerOptions(urls=(url,)))) as engine:
        before, began = _cpu(), time.perf_counter()
        answered = sum(len(one.result.utterances) for one in engine.run(jobs) if one.result)
        seconds = time.perf_counter() - began
    return answered / seconds, (_cpu() - before) / answered * 1_000


async def one_after_another(url: str, requests: int) -> float:
    began = time.perf_counter()
    async with aiohttp.ClientSession() as session:
        for _ in range(requests):
            async with session.post(f"{url}/chat/completions", json={"messages": []}) as response:
                await response.read()
    return requests / (time.perf_counter() - began)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requests", type=int)
    parser.add_argument(
        "--profile", type=int, metavar="LINES", help="print where the time of the event loop's thread goes"
    )
    takes_json(parser)
    arguments = parser.parse_args()
    port = free_port()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port}/v1"
    try:
        measure(url, 90)  # waits for the server as well
        if arguments.profile:
            _profile(url, arguments.requests, arguments.profile)
        found = [measure(url, arguments.requests) for _ in range(REPETITIONS)]
        alone = [asyncio.run(one_after_another(url, arguments.requests // 4)) for _ in range(REPETITIONS)]
    finally:
        server.kill()
    rates, costs = zip(*found, strict=True)
    lines = [
        Line("requests a second", Spread.of(rates)),
        Line("ms of this process for a request", Spread.of(costs)),
        Line("requests a second, sent one after another", Spread.of(alone)),
    ]
    publish(f"engine for servers, an answer of {EVENTS} events", lines, arguments.json)


def _profile(url: str, requests: int, lines: int) -> None:
    """Of the thread that talks to servers."""
    profile = cProfile.Profile()
    own = OpenAIEngine.run

    def run(engine: OpenAIEngine, *arguments: Any) -> Any:
        engine._loop.call_soon_threadsafe(profile.enable)
        yield from own(engine, *arguments)
        engine._loop.call_soon_threadsafe(profile.disable)

    OpenAIEngine.run = run  # type: ignore[method-assign]
    try:
        measure(url, requests)
    finally:
        OpenAIEngine.run = own  # type: ignore[method-assign]
    pstats.Stats(profile).sort_stats("tottime").print_stats(lines)


if __name__ == "__main__":
    main()
