"""What the way in and the way out take, on a real nats-server and a real instance on SQLite.

    python -m fleet_pipeline_tests.benchmarks.events submit    # 10,000 requests by 8 processes, and their intake
    python -m fleet_pipeline_tests.benchmarks.events announce  # 10,000 finished deliberations caught up
    python -m fleet_pipeline_tests.benchmarks.events start     # request to run started, on an idle deployment

Prints one JSON document each. Broker, clients and pipeline share the machine.
"""

import asyncio
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from fleet_pipeline.api.client import AsyncClient, Client
from fleet_pipeline.common.messages import REQUESTED
from fleet_pipeline.defs import sensors
from fleet_pipeline.defs.resources import TickOptions
from fleet_pipeline.events.completions import deliberation_events
from fleet_pipeline.events.connection import connect, run_blocking
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.events.lookup import waiting
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.instance.metadata_keys import STORAGE
from fleet_pipeline.instance.names import OUTCOMES
from fleet_pipeline.instance.partitions import UNFINISHED
from fleet_pipeline.instance.tags import RANGE_END, RANGE_START
from fleet_pipeline.storage.outbox import put_events
from fleet_pipeline_tests.support.deployment import deployed, eventually
from fleet_pipeline_tests.support.intakes import Intakes
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.rows import a_seat, an_outcome

CLIENTS = 8
EACH = 1_250
SHARED = 100


def _submit(url: str, number: int, results: Any) -> None:
    """One client: its own requests and those that all clients send, in a random order; and one in twenty again, as
    another message, which the broker cannot tell from a new one."""
    names = [f"t{number}-{one}" for one in range(EACH - SHARED)] + [f"shared-{one}" for one in range(SHARED)]
    chance = random.Random(number)
    chance.shuffle(names)

    async def send() -> list[float]:
        seconds = []
        async with AsyncClient(url) as fleet, connect(NatsOptions(url=url)) as connection:
            for name in names:
                task = {"task_id": name, "description": f"Design a rate limiter for {name}. " * 10}
                began = time.perf_counter()
                await fleet.submit(task)
                seconds.append(time.perf_counter() - began)
                if chance.random() < 0.05:
                    await connection.jetstream().publish(REQUESTED, json.dumps(task).encode())
        return seconds

    results.put(asyncio.run(send()))


def submit(folder: Path, url: str) -> dict[str, Any]:
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        intakes = Intakes(Pipeline(instance, folder / "storage"), url)
        intakes.send()
        # Clients of their own processes, as they are of other services.
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        clients = [context.Process(target=_submit, args=(url, number, results)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        began = time.perf_counter()
        seconds = [second for _ in clients for second in results.get()]
        took = time.perf_counter() - began
        for client in clients:
            client.join()
        messages = run_blocking(NatsOptions(url=url), waiting)[REQUESTED]
        wanted = CLIENTS * (EACH - SHARED) + SHARED
        ticks: list[tuple[float, int]] = []
        asked_for: dict[str, int] = {}
        while run_blocking(NatsOptions(url=url), waiting)[REQUESTED]:
            began = time.perf_counter()
            tick = intakes.tick()
            ticks.append((round(time.perf_counter() - began, 2), len(tick.run_requests or [])))
            keys = intakes.partitions
            for request in tick.run_requests or []:
                start, end = (keys.index(request.tags[tag]) for tag in (RANGE_START, RANGE_END))
                asked_for[request.run_key] = end + 1 - start
        return {
            "requests": len(seconds),
            "messages that the broker kept": messages,
            "different requests": wanted,
            "submit to ack, ms": _spread(1_000 * second for second in seconds),
            "submitted a second, all clients, their start included": round(len(seconds) / took),
            "partitions": len(intakes.partitions),
            "deliberations in all runs that were asked for": sum(asked_for.values()),
            "refused": run_blocking(NatsOptions(url=url), waiting)["poison"],
            "ticks (s, runs asked for)": ticks,
        }


def announce(folder: Path, url: str, count: int = CLIENTS * EACH) -> dict[str, Any]:
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        pipeline = Pipeline(instance, folder / "storage")
        text = "Put a token bucket in front of the handler, with a key for each client. " * 20
        seats = [a_seat(number, text) for number in (1, 2, 3)]
        began = time.perf_counter()
        for number in range(count):
            key = f"t{number}.dev"
            events = deliberation_events(
                an_outcome(deliberation_id=key, task_id=f"t{number}"), seats, {}, "/s.parquet", 1 << 40
            )
            put_events(pipeline.store, key, (event.sealed() for event in events))
            metadata = {STORAGE: pipeline.store.url, "winner's proposal": text, "task": text}
            instance.report_runless_asset_event(dg.AssetMaterialization(OUTCOMES, partition=key, metadata=metadata))
        prepared = time.perf_counter() - began
        resources = {"nats": NatsOptions(url=url), "ticks": TickOptions()}
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            began = time.perf_counter()
            said = sensors.completions.evaluate_tick(context).skip_message
            took = time.perf_counter() - began
    return {"deliberations": count, "prepared in, s": round(prepared), "said": said, "caught up in, s": round(took, 2)}


def start(folder: Path, url: str, rounds: int = 15) -> dict[str, Any]:
    started, created = [], []
    with deployed(folder, url) as deployment, Client(url) as fleet:
        for number in range(rounds):
            # At another moment of the daemon's loops each time.
            time.sleep(random.uniform(3, 9))
            began = time.time()
            fleet.submit({"task_id": f"t{number}", "description": "do"})
            tag = {"dagster/asset_partition_range_start": f"t{number}.dev"}
            record = None
            while record is None or record.start_time is None:
                time.sleep(0.5)
                record = next(iter(deployment.instance.get_run_records(dg.RunsFilter(tags=tag))), None)
            created.append(record.create_timestamp.timestamp() - began)
            started.append(record.start_time - began)
            eventually(lambda: not deployment.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)), "the run's end")
    return {"request to run made, s": _spread(created), "request to run started, s": _spread(started)}


def _spread(values: Any) -> dict[str, float]:
    found = sorted(values)
    return {
        "p50": round(statistics.median(found), 2),
        "p95": round(found[int(0.95 * len(found))], 2),
        "max": round(found[-1], 2),
    }


def main(arguments: Sequence[str]) -> None:
    (name,) = arguments
    with tempfile.TemporaryDirectory() as scratch, embedded_server() as url:
        print(json.dumps({"submit": submit, "announce": announce, "start": start}[name](Path(scratch), url), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
