"""What is too long for the suite: memory over many deliberations, and a thousand of which some are poisonous.

    python -m fleet_pipeline_tests.benchmarks.faults memory
    python -m fleet_pipeline_tests.benchmarks.faults poison

`memory` runs 500 and 5,000 deliberations on the scripted engine, each in a process of its own, and compares the
most memory that each held. `poison` runs 1,000 on real vLLM with the random model; one in twenty cannot be held.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd

from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.instance.in_process import execute
from fleet_pipeline.instance.partitions import NAME, register
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.councils import a_task
from fleet_pipeline_tests.support.pipeline import Pipeline

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def quarantined(
    target: Callable[[Path, int, multiprocessing.Queue[tuple[float, float]]], None], count: int
) -> tuple[float, float]:
    """(seconds, MiB at most) of `target` in a process and a folder of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=target, args=(Path(folder), count, results))
        process.start()
        found = results.get()
        process.join()
    return found


def run_scripted(folder: Path, count: int, results: multiprocessing.Queue[tuple[float, float]]) -> None:
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        pipeline = Pipeline(instance, folder / "storage")
        pipeline.asked = Forgetful()
        keys = []
        for number in range(count):
            about = f"Design limiter {number} for tenant {number * 7} and its seed"
            keys += pipeline.put(f"t{number:05d}", description=about, constraints={"requirements": [f"Name {number}"]})
        began = time.monotonic()
        job = pipeline.definitions.resolve_job_def("deliberate")
        run = instance.create_run_for_job(job, run_config=QUIET, tags=register(instance, keys))
        assert execute(job, run, instance) is None
        seconds = time.monotonic() - began
    results.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Forgetful(list):  # type: ignore[type-arg]
    """What the engine was asked is no part of the pipeline's memory."""

    def append(self, _: object) -> None:
        pass


def memory(*counts: int) -> None:
    found = []
    for count in counts or (500, 5_000):
        seconds, most = quarantined(run_scripted, count)
        found.append(most)
        print(f"{count:>6} deliberations: {seconds:.0f} s, {most:.0f} MiB at most", flush=True)
    print(f"ratio {found[-1] / found[0]:.2f} (bar 1.2)")


def poison(count: int = 1_000) -> None:
    from fleet_pipeline_tests.support.random_tiny import random_tiny

    with tempfile.TemporaryDirectory() as name, dg.instance_for_test(temp_dir=name) as instance:
        settings = Settings(
            storage=f"{name}/storage", engine={"model": random_tiny(), "max_model_len": 4_096},
            council={"sampling": {"max_tokens": 40}, "retries": 10},  # the random model often says nothing, or too much
        )  # fmt: skip
        store = Store(settings.storage)
        keys = []
        for number in range(count):
            kind = number // 20 % 5 if number % 20 == 7 else None
            keys += (
                POISON[kind](store, number)
                if kind is not None
                else TaskStore(store, BUILT_IN_ROLES).put(a_task(f"t{number}"))
            )
        tags = register(instance, keys)
        job = build_definitions(settings).resolve_job_def("deliberate")
        began = time.monotonic()
        job.execute_in_process(QUIET, instance, tags=tags, raise_on_error=False)
        print(f"{count} deliberations in {time.monotonic() - began:.0f} s", flush=True)
        rows = pd.read_parquet(f"{name}/storage/deliberations")
        seen = instance.fetch_observations(dg.AssetKey("deliberations"), limit=count).records
        events = [record for record in seen if record.partition_key]
        print("outcomes:", dict(Counter(rows["status"])), "; red in the event log:", len(events))
        print("not to be written anywhere:", [key for key in keys if key not in set(rows["deliberation_id"])][:3])
        reasons = rows.query("status != 'completed'")["error_message"].str.replace(r"\d+", "N", regex=True).str[:110]
        for reason, times in Counter(reasons).most_common():
            print(f"  {times:>3}  {reason}")
        assert len(instance.get_dynamic_partitions(NAME)) == count


def _with(**fields: object) -> Callable[[Store, int], list[str]]:
    return lambda store, number: TaskStore(store, BUILT_IN_ROLES).put(a_task(f"t{number}", **fields))


def _damaged(store: Store, number: int) -> list[str]:
    keys = TaskStore(store, BUILT_IN_ROLES).put(a_task(f"t{number}"))
    store.write(f"tasks/{keys[0]}.json", b'{"task_id": "../../etc", "description": "x", "roles": ["DEV"]}')
    return keys


POISON: list[Callable[[Store, int], list[str]]] = [
    _with(description="over-long " * 9_000),
    _with(constraints={"timeout_seconds": 0.001}),
    lambda _, number: [f"../../hostile-{number}.dev"],
    _damaged,
    _with(sampling={"max_tokens": 1}, quorum=3),
]

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    {"memory": memory, "poison": poison}[sys.argv[1]](*map(int, sys.argv[2:]))
