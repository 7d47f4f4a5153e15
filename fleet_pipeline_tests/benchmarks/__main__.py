"""All benchmarks in one command: `make bench`, or

    python -m fleet_pipeline_tests.benchmarks --size quick --out bench

It writes `bench.md` and `bench.json`, and prints the tables. Sizes: `full` (under an hour on two cores), `quick` (under 8
minutes) and `tiny`, which only shows that everything runs. Each benchmark is a process of its own, so that none finds what
another has warmed, and its modules can be run alone with the arguments below. One that fails is named, and the others go on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet_pipeline_tests.benchmarks.figures import Line, markdown

SIZES: dict[str, dict[str, list[str]]] = {
    "full": {
        "engine": [],
        "engine at a real shape": [
            "--shape",
            "qwen3-0.6b",
            *["--councils", "8", "--few", "2", "--repetitions", "3", "--max-tokens", "40"],
        ],
        "neighbour": ["", "OMP_NUM_THREADS=2", "--councils", "40"],
        "whole_run": ["500"],
        "overhead": ["250", "1000", "4000"],
        "event_log": [],
        "scoring": ["10000"],
        "commands": ["10000"],
    },
    "quick": {
        "engine": ["--repetitions", "2", "--few", "4"],
        "neighbour": ["--repetitions", "2"],
        "whole_run": ["60"],
        "overhead": ["100", "250"],
        "event_log": [],
        "scoring": ["1000"],
        "commands": ["1000"],
    },
    "tiny": {
        "engine": ["--councils", "2", "--few", "1", "--repetitions", "1"],
        "neighbour": ["--councils", "2", "--repetitions", "1"],
        "whole_run": ["5"],
        "overhead": ["3", "6"],
        "event_log": ["--events", "20", "--rounds", "1"],
        "scoring": ["20"],
        "commands": ["20", "--times", "1"],
    },
}


def run(name: str, arguments: list[str]) -> list[Line]:
    """Raises `RuntimeError` with the end of what it printed, if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines.json"
        command = [sys.executable, "-m", f"{__package__}.{name.split(' ')[0]}", *arguments, "--json", str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout[-2_000:])
        return [Line.read(one) for one in json.loads(out.read_text())]


def _machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    models = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "commit": commit.stdout.strip() or None,
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "processor": models[0] if models else None,
    }


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="without .md and .json")
    parser.add_argument("--only", action="append", help="one benchmark; may be given more than once")
    arguments = parser.parse_args()
    machine, failed = _machine(), []
    text = [" · ".join(f"{name} {value}" for name, value in machine.items()) + f" · size {arguments.size}"]
    found: dict[str, Any] = {}
    for name, options in SIZES[arguments.size].items():
        if arguments.only and name not in arguments.only:
            continue
        began = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            lines = run(name, options)
        except RuntimeError as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed.append(name)
            continue
        found[name] = {"seconds": round(time.monotonic() - began, 1), "lines": [line.plain() for line in lines]}
        text.append(markdown(f"`{name}` {' '.join(option for option in options if option)}".strip(), lines))
        print(text[-1] + "\n", flush=True)
        arguments.out.with_suffix(".md").write_text("\n\n".join(text) + "\n")
        arguments.out.with_suffix(".json").write_text(
            json.dumps({**machine, "size": arguments.size, **found}, indent=2)
        )
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
