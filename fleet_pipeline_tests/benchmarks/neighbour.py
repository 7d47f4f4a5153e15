"""How fast the engine is beside a busy process, compared with alone, under some settings of its threads.

    python -m fleet_pipeline_tests.benchmarks.neighbour
    python -m fleet_pipeline_tests.benchmarks.neighbour "" GOMP_SPINCOUNT=10000 VLLM_CPU_OMP_THREADS_BIND=nobind,OMP_WAIT_POLICY=PASSIVE

Each argument is a variant: environment variables, with commas between; an empty one is the pipeline's own defaults. A
variant is a process with an engine, which replays the same councils (`benchmarks.engine`) alone and beside a busy process
in turns. The busy process runs one endless loop.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.models.registry import FLEET_TINY, resolve
from fleet_pipeline_tests.benchmarks.engine import CONTEXT, Replay, loop
from fleet_pipeline_tests.benchmarks.figures import Line, Spread, publish, ratios, takes_json, turns


@contextmanager
def busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def rates(councils: int, repetitions: int) -> dict[str, list[float]]:
    """Tokens a second, in this process."""
    found: dict[str, list[float]] = {"alone": [], "busy": []}
    with Replay.start(VllmConfig(model=resolve(FLEET_TINY), max_model_len=CONTEXT)) as engine:
        assert isinstance(engine, Replay)
        engine.record(councils)
        for way in turns(list(found), repetitions):
            if way == "alone":
                found[way].append(loop(engine, councils).tokens_per_second)
            else:
                with busy():
                    found[way].append(loop(engine, councils).tokens_per_second)
    return found


def measure(variant: str, councils: int, repetitions: int) -> list[Line]:
    environment = os.environ | dict(pair.split("=", 1) for pair in variant.split(",") if pair)
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        "--child",
        "--councils",
        str(councils),
        "--repetitions",
        str(repetitions),
    ]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    name = variant or "defaults"
    return [
        Line(f"tokens/s alone, {name}", Spread.of(found["alone"])),
        Line(f"beside one busy process / alone, {name}", ratios(found["busy"], found["alone"]), "at least 0.45"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=[""])
    parser.add_argument("--councils", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    takes_json(parser)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(rates(arguments.councils, arguments.repetitions)))
        return
    lines = [
        line for variant in arguments.variants for line in measure(variant, arguments.councils, arguments.repetitions)
    ]
    publish(f"{os.cpu_count()} cores, {arguments.councils} councils", lines, arguments.json)


if __name__ == "__main__":
    main()
