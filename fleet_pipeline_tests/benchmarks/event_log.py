"""How long SQLite takes to store an asset's event: Dagster's own class beside the one with open connections.

    python -m fleet_pipeline_tests.benchmarks.event_log

One process; the two take turns (A B B A), each pass in a new instance; median, least and most of the passes.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import dagster as dg
from dagster._core.events import DagsterEvent, StepMaterializationData

from fleet_pipeline.instance.sqlite_event_log import SqliteEventLog
from fleet_pipeline_tests.benchmarks.figures import Line, Spread, publish, ratios, takes_json, turns

EVENTS = 150
ROUNDS = 4
_OPEN = f"event_log_storage: {{module: {SqliteEventLog.__module__}, class: {SqliteEventLog.__name__}}}\n"
CONFIGURATIONS = {"Dagster's own": "", "open connections": _OPEN}


def milliseconds(configuration: str, events: int = EVENTS) -> float:
    """Per event, the first left out."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["DAGSTER_HOME"] = home
        Path(home, "dagster.yaml").write_text("telemetry: {enabled: false}\n" + configuration)
        with dg.DagsterInstance.get() as instance:
            run_id = instance.create_run_for_job(dg.GraphDefinition(name="job").to_job()).run_id
            instance.report_dagster_event(_event(0), run_id)
            began = time.perf_counter()
            for number in range(1, events + 1):
                instance.report_dagster_event(_event(number), run_id)
            return (time.perf_counter() - began) / events * 1_000


def _event(number: int) -> DagsterEvent:
    made = dg.AssetMaterialization("asset", partition=str(number), metadata={"number": number})
    return DagsterEvent("ASSET_MATERIALIZATION", "job", event_specific_data=StepMaterializationData(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    takes_json(parser)
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    for name in turns(list(CONFIGURATIONS), 2 * arguments.rounds):
        figures[name].append(milliseconds(CONFIGURATIONS[name], arguments.events))
    lines = [Line(f"ms an event, {name}", Spread.of(passes)) for name, passes in figures.items()]
    own, opened = figures.values()
    publish("SQLite", [*lines, Line("open connections / Dagster's own", ratios(opened, own))], arguments.json)


if __name__ == "__main__":
    main()
