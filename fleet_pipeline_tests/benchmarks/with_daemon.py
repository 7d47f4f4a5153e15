"""When outcomes arrive in a deployment: `python -m fleet_pipeline_tests.benchmarks.with_daemon 500`.

A real NATS server, webserver and daemon, and real vLLM with fleet-tiny. One deliberation is submitted through the broker, and once
it is done, so many more. Times are those at which Dagster's log and the broker have stored what they were sent.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import pandas as pd

from fleet_pipeline.api.client import Client
from fleet_pipeline.events.connection import connect
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import DELIBERATIONS
from fleet_pipeline_tests.benchmarks.arrivals import logged
from fleet_pipeline_tests.benchmarks.engine import description
from fleet_pipeline_tests.benchmarks.figures import Line, Spread, publish, takes_json
from fleet_pipeline_tests.support.deployment import Deployment, deployed, eventually

DEFINITIONS = "fleet_pipeline.definitions"
PATIENCE = 3_600.0


def published(url: str) -> pd.Series:
    """When the broker stored the first event of each deliberation, in seconds since the epoch."""

    from nats.js.errors import NotFoundError

    async def read() -> dict[str, float]:
        found: dict[str, float] = {}
        async with connect(NatsOptions(url=url)) as connection:
            jetstream = connection.jetstream()
            try:
                state = (await jetstream.stream_info(DELIBERATIONS.name)).state
            except NotFoundError:  # nothing has been published yet
                return found
            for number in range(1, state.messages + 1):
                message = await jetstream.get_msg(DELIBERATIONS.name, seq=number)
                assert message.time
                assert message.data
                key = json.loads(message.data)["payload"]["deliberation_id"]
                found.setdefault(key, message.time.timestamp())
        return found

    return pd.Series(asyncio.run(read()))


def submitted(deployment: Deployment, first: int, count: int) -> tuple[float, list[str]]:
    """Submit `count` deliberations and wait until all are published. Returns when the broker had them, and their keys."""
    tasks = [{"task_id": f"t{number}", "description": description(number)} for number in range(first, first + count)]
    with Client(deployment.nats_url) as fleet:
        answers = fleet.submit_all(tasks)
        at = time.time()
    keys = [key for answer in answers for key in answer.deliberation_ids]
    eventually(lambda: set(keys) <= set(published(deployment.nats_url).index), "every event", PATIENCE)
    return at, keys


def measure(folder: Path, councils: int) -> list[Line]:
    with (
        embedded_server() as nats_url,
        deployed(folder, nats_url, DEFINITIONS, FLEET_ENGINE__MODEL="fleet-tiny") as deployment,
    ):
        starts = []
        for number in range(3):
            at, _ = submitted(deployment, number, 1)
            (record,) = deployment.instance.get_run_records(limit=1)
            assert record.start_time
            starts.append(record.start_time - at)
        _, keys = submitted(deployment, len(starts), councils)
        outcomes = pd.read_parquet(deployment.storage / "deliberations").set_index("deliberation_id").loc[keys]
        finished = outcomes["finished_at"].map(lambda at: at.timestamp())
        lines = [Line("request to the start of its run, s", Spread.of(starts), "at most 3")]
        for name, at in (
            ("in Dagster's log", logged(deployment.instance, keys)),
            ("on the broker", published(nats_url)),
        ):
            lag = at.reindex(keys) - finished
            assert lag.notna().all()
            lines += [
                Line.one(f"outcome {name} after its last token, p50, s", lag.median()),
                Line.one("the same, p95", lag.quantile(0.95), "at most 10"),
                Line.one("the same, most", lag.max()),
            ]
        share = (published(nats_url).reindex(keys).min() - outcomes["started_at"].min().timestamp()) / (
            finished.max() - outcomes["started_at"].min().timestamp()
        )
        runs = deployment.instance.get_runs_count()
    return [*lines, Line.one("first outcome, share of the generation", share), Line.one("runs", runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("councils", type=int, nargs="?", default=500)
    takes_json(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = measure(Path(name), arguments.councils)
    publish(f"{arguments.councils} councils of fleet-tiny in a deployment", lines, arguments.json)


if __name__ == "__main__":
    main()
