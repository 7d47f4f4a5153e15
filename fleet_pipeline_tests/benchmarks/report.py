"""The run_report of a large run: how long it takes to write, how large it is, and how it opens in a browser.

    python -m fleet_pipeline_tests.benchmarks.report 1000

Deliberations of three agents and one round, scripted, whose answers have about 250 words.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

from fleet_pipeline.services import run_report
from fleet_pipeline_tests.benchmarks.faults import QUIET
from fleet_pipeline_tests.support.browser import a_browser
from fleet_pipeline_tests.support.councils import said
from fleet_pipeline_tests.support.pipeline import Pipeline

WORDS = 250


def main(count: int) -> None:
    chance = random.Random(0)
    vocabulary = [f"word{n}" for n in range(2_000)]
    with tempfile.TemporaryDirectory() as name, dg.instance_for_test(temp_dir=name) as instance:
        pipeline = Pipeline(instance, Path(name) / "storage")
        pipeline.answer = lambda _: said(" ".join(chance.choices(vocabulary, k=WORDS)))
        keys = pipeline.put(*(f"t{n:05d}" for n in range(count)))
        pipeline.run(keys, run_config=QUIET)
        began = time.monotonic()
        rows = run_report.outcome_table(pipeline.store)
        file = Path(name) / "report.html"
        run_report.write_file(file, pipeline.store, "Benchmark", rows)
        print(
            f"{len(rows)} deliberations: written in {time.monotonic() - began:.1f} s, {file.stat().st_size / 1e6:.1f} MB"
        )
        for width, label in ((1280, "desktop"), (360, "phone")):
            with a_browser() as browser:
                page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
                began = time.monotonic()
                page.goto(file.as_uri())
                loaded = time.monotonic() - began
                began = time.monotonic()
                page.locator("main section > details").last.locator("summary").first.click()
                page.locator("main section > details").last.locator("pre").first.wait_for(state="visible")
                print(f"{label}: loaded in {loaded:.2f} s, last one opened in {time.monotonic() - began:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
