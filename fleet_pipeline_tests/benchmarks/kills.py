"""Four long deliberations of a real model, killed with SIGKILL again and again: what does it cost in tokens?

    python -m fleet_pipeline_tests.benchmarks.kills 20

Each attempt is a process of its own with real vLLM. It writes after every step of the engine how many tokens vLLM has put
out, and how many of them belong to answers that are not finished, into a file that outlives it. It is killed at a random
token. The last attempt is left alone. Then what all attempts have generated is compared with what stands in the results.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import struct
import sys
import tempfile
import time
from mmap import mmap
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline.instance.partitions import register
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.benchmarks.faults import QUIET
from fleet_pipeline_tests.support.councils import a_task
from fleet_pipeline_tests.support.smollm2 import smollm2

TASKS = {
    "limiter": "Design a rate limiter for an HTTP API that serves 200 tenants.",
    "queue": "Design a queue for jobs that may take from a second to a day.",
    "backup": "Plan how a database of 2 TB is backed up, and how a restore is tried out.",
    "search": "Make the search of a shop answer in 100 ms at 50 requests a second.",
}
# Long ones: eight rounds of answers that end within a few hundred steps of the engine.
MAX_TOKENS = 150
ROUNDS = 8
_COUNTS = struct.Struct("qq")  # tokens put out, tokens of answers that are not finished


def _counts(folder: Path) -> mmap:
    with (folder / "counts").open("r+b") as file:
        return mmap(file.fileno(), _COUNTS.size)


def attempt(folder: Path, model: str) -> None:
    """One run, to its end."""
    counts = _counts(folder)
    load = VllmEngine._load

    def counting(engine: VllmEngine) -> None:
        load(engine)
        client, states, tokens = engine.core.engine_core, engine.core.output_processor, 0
        real = type(client).get_output

        def get_output() -> Any:
            nonlocal tokens
            # Before this step's outputs are handed out: the answers of the step before have been delivered.
            outputs = real(client)
            tokens += sum(len(output.new_token_ids) for output in outputs.outputs)
            open_ = sum(state.detokenizer.num_output_tokens() for state in states.request_states.values())
            new = sum(len(output.new_token_ids) for output in outputs.outputs)
            counts[:] = _COUNTS.pack(tokens, open_ + new)
            return outputs

        client.get_output = get_output

    VllmEngine._load = counting  # type: ignore[method-assign]
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        settings = Settings(
            storage=str(folder / "storage"), engine={"model": model, "max_model_len": 4_096},
            council={"sampling": {"max_tokens": MAX_TOKENS}},
        )  # fmt: skip
        job = build_definitions(settings).resolve_job_def("deliberate")
        tags = register(instance, [f"{task}.dev" for task in TASKS])
        job.execute_in_process(QUIET, instance, tags=tags, raise_on_error=False)
    os._exit(0)


def kills(count: int = 20, seed: int = 19) -> None:
    model, moments = smollm2(), random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "home").mkdir()
        (folder / "home/dagster.yaml").write_text("telemetry: {enabled: false}\n")
        (folder / "counts").write_bytes(_COUNTS.pack(0, 0))
        store = Store(str(folder / "storage"))
        for task, description in TASKS.items():
            TaskStore(store, BUILT_IN_ROLES).put(a_task(task, description=description, rounds=ROUNDS))
        counts = _counts(folder)
        context = multiprocessing.get_context("spawn")
        generated = lost = done = 0
        while True:
            counts[:] = _COUNTS.pack(0, 0)
            process = context.Process(target=attempt, args=(folder, model))
            process.start()
            # From the first steps, when nothing has been answered, to the middle of a second wave of answers.
            until = moments.randrange(20, 2_500) if done < count else None
            while process.is_alive() and (until is None or _COUNTS.unpack(counts[:])[0] < until):
                time.sleep(0.002)
            killed = process.is_alive() and process.pid is not None
            if killed:
                os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            tokens, under_way = _COUNTS.unpack(counts[:])
            generated += tokens
            lost += under_way if killed else 0
            done += killed
            print(f"{'killed' if killed else 'ended'} after {tokens:,} tokens, {under_way:,} under way", flush=True)
            if not killed:
                break
        said = pd.read_parquet(folder / "storage/utterances")
        stands = int(said["completion_tokens"].sum())
        outcomes = pd.read_parquet(folder / "storage/deliberations")
        print(f"{done} kills; outcomes {outcomes['status'].value_counts().to_dict()}, {len(said)} answers")
        print(f"generated in all {generated:,} tokens, of which {stands:,} stand in the results")
        print(f"under way in single answers at the kills {lost:,}; lost beyond that {generated - stands - lost:,}")
        print("answer logs left:", store.names("answers", ""))


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    kills(*map(int, sys.argv[1:]))
