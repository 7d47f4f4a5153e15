"""How long the Dagster UI's pages take to show what people look for, over many partitions on Postgres.

    python -m fleet_pipeline_tests.benchmarks.ui postgresql+psycopg2://user@host:port/dagster 20000

Fills an empty database: a materialization of each asset for every partition, with the metadata that a real outcome has,
and one run over 500 deliberations on the scripted engine. Then opens pages in a new browser, three times each, and takes the
middle one; then prunes to a tenth, and opens them again. Needs dagster-postgres.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import yaml
from playwright.sync_api import Page

from fleet_pipeline.instance.in_process import execute
from fleet_pipeline.instance.partitions import NAME, register
from fleet_pipeline_tests.benchmarks.faults import QUIET
from fleet_pipeline_tests.support.browser import a_browser
from fleet_pipeline_tests.support.deployment import SCRIPTED, environment, kill_tree, make_home
from fleet_pipeline_tests.support.http import free_port
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.postgres import OURS

OF_THE_RUN = 500
ASSETS = ("transcripts", "proposals", "deliberations")


def main(postgres: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        home, storage = make_home(Path(name)), Path(name) / "storage"
        chosen = yaml.safe_load((home / "dagster.yaml").read_text())
        del chosen["event_log_storage"]
        chosen["storage"] = {"custom": OURS | {"config": {"postgres_url": postgres}}}
        (home / "dagster.yaml").write_text(yaml.safe_dump(chosen))
        os.environ["DAGSTER_HOME"] = str(home)
        with dg.DagsterInstance.get() as instance:
            run_id = fill(instance, storage, count)
            keys = list(instance.get_dynamic_partitions(NAME))
            measure(home, storage, run_id, keys)
            print("pruning to a tenth", flush=True)
            for key in keys[: -len(keys) // 10]:
                instance.delete_dynamic_partition(NAME, key)
            measure(home, storage, run_id, keys[-len(keys) // 10 :])


def fill(instance: dg.DagsterInstance, storage: Path, count: int) -> str:
    pipeline = Pipeline(instance, storage)
    keys = pipeline.put(*(f"real-{n:04d}" for n in range(OF_THE_RUN)))
    run = instance.create_run_for_job(
        pipeline.definitions.resolve_job_def("deliberate"), run_config=QUIET, tags=register(instance, keys)
    )
    began = time.monotonic()
    execute(pipeline.definitions.resolve_job_def("deliberate"), run, instance)
    print(f"a run over {OF_THE_RUN}: {time.monotonic() - began:.0f} s", flush=True)
    last = {
        asset: instance.fetch_materializations(dg.AssetKey(asset), limit=1).records[0].asset_materialization
        for asset in ASSETS
    }
    others = [f"more-{n:06d}.dev" for n in range(count - OF_THE_RUN)]
    instance.add_dynamic_partitions(NAME, others)

    def report(key: str) -> None:
        for asset, one in last.items():
            assert one is not None
            event = dg.AssetMaterialization(asset, partition=key, metadata=one.metadata)
            instance.report_runless_asset_event(event)

    began = time.monotonic()
    with ThreadPoolExecutor(8) as several:
        list(several.map(report, others))
    print(f"{count} partitions filled in {time.monotonic() - began:.0f} s", flush=True)
    return run.run_id


def measure(home: Path, storage: Path, run_id: str, keys: Sequence[str]) -> None:
    port = free_port()
    program = [Path(sys.executable).with_name("dagster-webserver"), "-m", SCRIPTED, "-p", str(port)]
    with (home.parent / "webserver.log").open("a") as log:
        server = subprocess.Popen(program, env=environment(home, storage, ""), stdout=log, stderr=log)
    try:
        root = f"http://127.0.0.1:{port}"
        for _ in range(120):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        pages = {
            "asset, overview": ("/assets/deliberations?view=overview", "winner_agent_id"),
            "asset, partitions": ("/assets/deliberations?view=partitions", "Partitions Selected"),
            "one deliberation": (f"/assets/deliberations?view=partitions&partition={keys[-1]}", "winner's proposal"),
            f"a run over {OF_THE_RUN}": (f"/runs/{run_id}", "score_relevance"),
            "runs": ("/runs", run_id[:8]),
        }
        with a_browser() as browser:
            context = browser.new_context(viewport={"width": 1440, "height": 1000})
            page = context.new_page()
            page.set_default_timeout(120_000)
            seconds(page, root + "/assets", "deliberations")  # what a browser keeps, it has kept
            for what, (place, text) in pages.items():
                taken = [seconds(page, root + place, text) for _ in range(3)]
                print(f"{len(keys):>6} partitions, {what}: {statistics.median(taken):.1f} s", flush=True)
    finally:
        kill_tree(server)


def seconds(page: Page, url: str, text: str) -> float:
    began = time.monotonic()
    page.goto(url)
    page.get_by_text(text).first.wait_for(state="visible")
    return time.monotonic() - began


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
