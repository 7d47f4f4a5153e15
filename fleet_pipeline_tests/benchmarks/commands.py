"""How long a person waits: `python -m fleet_pipeline_tests.benchmarks.commands [DELIBERATIONS]`.

`fleet --help`, the definitions' load (as the webserver and the daemon load them), and `fleet status` where so many
deliberations are registered and finished. Each is a process of its own, five times.
"""

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from fleet_pipeline.deliberation.rows import OutcomeFooter, OutcomeRow
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.instance.names import OUTCOMES
from fleet_pipeline.instance.partitions import register
from fleet_pipeline.storage.schemas import DELIBERATIONS
from fleet_pipeline.storage.tables import write_rows
from fleet_pipeline_tests.benchmarks.figures import Line, Spread, publish, takes_json
from fleet_pipeline_tests.benchmarks.overhead import as_shipped
from fleet_pipeline_tests.support.pipeline import Pipeline

TIMES = 5
_FLEET = "from fleet_pipeline.cli import main; main()"
_DEFINITIONS = "from fleet_pipeline.definitions import defs; defs.get_repository_def()"


def seconds(times: int, code: str, *arguments: str) -> Spread:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - began)
    return Spread.of(taken)


def fill(instance: dg.DagsterInstance, storage: Path, count: int) -> None:
    """Store so many finished deliberations, and let the instance know them."""
    now, pipeline = datetime.now(UTC), Pipeline(instance, storage)
    keys = pipeline.put(*(f"t{number:05d}" for number in range(count)))
    register(instance, keys)
    for key in keys:
        task_id, _, role = key.rpartition(".")
        row = OutcomeRow(
            deliberation_id=key, task_id=task_id, role=role.upper(), status=Status.COMPLETED, finished_at=now, run_id="r"
        )  # fmt: skip
        write_rows(pipeline.store, DELIBERATIONS, key, [row], OutcomeFooter(status=row.status, fingerprint=None))
        instance.report_runless_asset_event(dg.AssetMaterialization(OUTCOMES, partition=key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--times", type=int, default=TIMES)
    takes_json(parser)
    arguments = parser.parse_args()
    times = arguments.times
    with as_shipped() as (instance, folder):
        storage = folder / "storage"
        fill(instance, storage, arguments.count)
        lines = [
            Line("fleet --help, s", seconds(times, _FLEET, "--help"), "at most 0.3"),
            Line("definitions load, s", seconds(times, _DEFINITIONS), "at most 1"),
            Line(
                f"fleet status of {arguments.count}, s",
                seconds(times, _FLEET, "status", "--storage", str(storage), "--json"),
                "at most 1",
            ),
        ]
    publish("commands", lines, arguments.json)


if __name__ == "__main__":
    main()
