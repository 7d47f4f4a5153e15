"""A whole `fleet run` with real vLLM, beside the time that it generates: `python -m fleet_pipeline_tests.benchmarks.whole_run 500`.

    python -m fleet_pipeline_tests.benchmarks.whole_run 500 --plot docs/arrivals.png

So many councils of fleet-tiny, with a NATS server of its own. With `--tokens` every answer has so many, as those of larger models
have; fleet-tiny's own are of about 80. With `--plot` the run is killed when a third of its outcomes
stand, and started again: the plot shows both.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleet_pipeline.deliberation.exchange import Completion, Request
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline_tests.benchmarks.arrivals import arrivals, draw
from fleet_pipeline_tests.benchmarks.engine import description
from fleet_pipeline_tests.benchmarks.figures import Line, publish, takes_json

ROLES = ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"]


def start(folder: Path, tokens: int = 0) -> subprocess.Popen[str]:
    code = f"from fleet_pipeline_tests.benchmarks.whole_run import lengthened; lengthened({tokens})\n" if tokens else ""
    code += "from fleet_pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(folder / "backlog.jsonl"), "--model", "fleet-tiny", "--json"]
    command += ["--nats", "embedded"]
    own = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    own["PYTHONPATH"] = str(Path(__file__).parents[2])
    log = (folder / "log").open("a")
    return subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=log, text=True)


def lengthened(tokens: int) -> None:
    """Have the engine of this process give answers of so many tokens, and say that they ended there by themselves."""
    real_params, real_step = VllmEngine._params, VllmEngine.step

    def params(engine: VllmEngine, request: Request, room: int) -> Any:
        chosen = real_params(engine, request, room)
        chosen.max_tokens, chosen.ignore_eos, chosen.repetition_detection = tokens, True, None
        return chosen

    def step(engine: VllmEngine, patience_seconds: float) -> list[tuple[str, Completion]]:
        return [(name, replace(one, finish_reason="stop")) for name, one in real_step(engine, patience_seconds)]

    VllmEngine._params, VllmEngine.step = params, step  # type: ignore[method-assign]


def finish(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    output, _ = process.communicate()
    if not output:
        raise RuntimeError((folder / "log").read_text()[-2_000:])
    summary: dict[str, Any] = json.loads(output)
    return summary


def kill_at(process: subprocess.Popen[str], folder: Path, outcomes: int) -> None:
    """Kill it once so many outcomes stand."""
    while (
        process.poll() is None
        and sum(1 for _ in (folder / ".fleet/storage/deliberations").glob("*.parquet")) < outcomes
    ):
        time.sleep(0.05)
    process.kill()
    process.communicate()


def measure(folder: Path, councils: int, plot: Path | None, tokens: int = 0) -> list[Line]:
    tasks = [
        {"task_id": f"t{number}", "description": description(number), "roles": ROLES[: councils - len(ROLES) * number]}
        for number in range(math.ceil(councils / len(ROLES)))
    ]
    (folder / "backlog.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    began = time.monotonic()
    if plot:
        kill_at(start(folder, tokens), folder, councils // 3)
    summary = finish(start(folder, tokens), folder)
    whole = time.monotonic() - began
    times = arrivals(folder / ".fleet/dagster", folder / ".fleet/storage")
    if plot:
        draw(times, plot)
    lag, last = times["announced"] - times["finished"], times["finished"].max()
    lines = [
        Line.one("first outcome, s after the first deliberation began", times["announced"].min()),
        Line.one("the same, share of the run", times["announced"].min() / last),
        Line.one("outcome after a deliberation's last token, p50, s", lag.median()),
        Line.one("the same, p95", lag.quantile(0.95), "at most 10"),
        Line.one("the same, most", lag.max()),
    ]
    if plot:  # the second run knows nothing of the first one's tokens
        return lines
    generating = summary["tokens"]["completion"] / summary["tokens_per_second"]
    return [
        Line.one("seconds, whole", whole),
        Line.one("of them generating", generating),
        Line.one("of them starting the engine", summary["engine_start_seconds"]),
        Line.one("whole / generating", whole / generating, "at most 1.05 for 1,000 of 300 tokens"),
        Line.one("tokens a second while generating", summary["tokens_per_second"]),
        Line.one("tokens", summary["tokens"]["completion"]),
        *lines,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("councils", type=int, nargs="?", default=500)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="kill it and start it again, and draw when outcomes came"
    )
    parser.add_argument("--tokens", type=int, default=0, help="of each answer")
    takes_json(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = measure(Path(name), arguments.councils, arguments.plot, arguments.tokens)
    publish(f"{arguments.councils} councils of fleet-tiny", lines, arguments.json)


if __name__ == "__main__":
    main()
