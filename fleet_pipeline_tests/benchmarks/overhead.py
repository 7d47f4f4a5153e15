"""What a deliberation costs beside the engine: milliseconds each, by part, with an engine that answers at once.

    python -m fleet_pipeline_tests.benchmarks.overhead 250 1000
    python -m fleet_pipeline_tests.benchmarks.overhead 250 --profile 40
    python -m fleet_pipeline_tests.benchmarks.overhead 250 1000 --postgres [--dagsters-own]

Deliberations of three agents and one round on a Dagster instance in SQLite, as `fleet run` sets it up, or in a Postgres server
that this starts (`postgres` and `initdb` must be installed). The engine is
scripted, so its own time (making prompts and answers of about 40 words) is in the figures. Each count has a process of its own:
a process's peak of memory never falls, and the report of a first run stood as the peak of the next.
"""

import argparse
import cProfile
import pstats
import random
import resource
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from fleet_pipeline.instance.in_process import create_run, execute
from fleet_pipeline.instance.partitions import register
from fleet_pipeline.services import run_report
from fleet_pipeline_tests.benchmarks.faults import QUIET, Forgetful
from fleet_pipeline_tests.benchmarks.figures import Line, publish, takes_json
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.deployment import instance_at
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.postgres import DAGSTERS_OWN, OURS, a_server

WORDS = 40
_SHOWN = ("tasks, partitions, run", "  transcripts", "  proposals.rank_proposals", "  deliberations", "report", "MiB")
_TEMPLATE = Path(__file__).parents[2] / "fleet_pipeline/dagster.yaml"


@contextmanager
def as_shipped(storage: dict[str, Any] | None = None) -> Iterator[tuple[dg.DagsterInstance, Path]]:
    """An instance as `fleet run` sets it up, in a folder of its own, or with another `storage`."""
    chosen = yaml.safe_load(_TEMPLATE.read_text())
    if storage is not None:
        del chosen["event_log_storage"]
        chosen["storage"] = storage
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "dagster.yaml").write_text(yaml.safe_dump(chosen))
        with instance_at(Path(name)) as instance:
            yield instance, Path(name)


def measure(count: int, storage: dict[str, Any] | None = None) -> dict[str, float]:
    """Milliseconds a deliberation, by part, and the process's peak memory in MiB until the run's end."""
    with as_shipped(storage) as (instance, folder):
        parts = _run(instance, folder, count)
    mib = parts.pop("MiB")
    return {"deliberations": count} | {part: seconds / count * 1_000 for part, seconds in parts.items()} | {"MiB": mib}


def _measure_warm(
    count: int, storage: dict[str, Any] | None, warm: dict[str, Any] | None, lines: int | None
) -> dict[str, float]:
    measure(10, warm)  # imports and caches
    profile = cProfile.Profile()
    if lines is None:
        return measure(count, storage)
    found = profile.runcall(measure, count, storage)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(lines)
    return found


def _run(instance: dg.DagsterInstance, folder: Path, count: int) -> dict[str, float]:
    chance = random.Random(0)
    vocabulary = [f"word{n}" for n in range(2_000)]

    def answer(_: Heard) -> Any:
        return said(" ".join(chance.choices(vocabulary, k=WORDS)))

    pipeline = Pipeline(instance, folder / "storage")
    pipeline.answer = answer
    pipeline.asked = Forgetful()
    parts, began = {}, time.monotonic()
    keys = pipeline.put(*(f"t{number:05d}" for number in range(count)))
    tags = register(instance, keys)
    job = pipeline.definitions.resolve_job_def("deliberate")
    run = create_run(instance, job, str(uuid.uuid4()), QUIET, tags)
    parts["tasks, partitions, run"] = time.monotonic() - began
    began = time.monotonic()
    broke = execute(job, run, instance)
    parts["run"] = time.monotonic() - began
    if broke:
        raise RuntimeError(broke)
    parts["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # before the whole report, which holds all
    for step in instance.get_run_step_stats(run.run_id):
        parts[f"  {step.step_key}"] = (step.end_time or 0) - (step.start_time or 0)
    began = time.monotonic()
    run_report.write_file(folder / "report.html", pipeline.store, "Benchmark", run_report.outcome_table(pipeline.store))
    parts["report"] = time.monotonic() - began
    parts["all but the report"] = parts["tasks, partitions, run"] + parts["run"]
    return parts


def lines_of(figures: Sequence[dict[str, float]]) -> list[Line]:
    lines = []
    for one in figures:
        count = f"{one['deliberations']:.0f}"
        lines.append(Line.one(f"ms a deliberation at {count}", one["all but the report"], "at most 60"))
        lines += [Line.one(f"{part} at {count}", value) for part, value in one.items() if part in _SHOWN]
    first, last = figures[0], figures[-1]
    return [
        *lines,
        Line.one("the same, last / first", last["all but the report"] / first["all but the report"], "at most 1.1"),
        Line.one("peak memory, last / first", last["MiB"] / first["MiB"], "at most 1.1"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="+")
    parser.add_argument("--profile", type=int, metavar="LINES", help="print where the time goes")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--dagsters-own", action="store_true", help="with Dagster's own class for Postgres")
    takes_json(parser)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(a_server()) if arguments.postgres else None

        def storage() -> dict[str, Any] | None:
            return server and server.storage(DAGSTERS_OWN if arguments.dagsters_own else OURS)

        alone = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1))
        found = [
            alone.submit(_measure_warm, count, storage(), storage(), arguments.profile).result()
            for count in arguments.count
        ]
    publish(f"scripted engine, {'Postgres' if arguments.postgres else 'SQLite'}", lines_of(found), arguments.json)


if __name__ == "__main__":
    main()
