"""Figures for Prometheus: what is stored is what they say, and the dashboard asks for nothing else."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fleet_pipeline.deliberation.exchange import AgentError, Completion
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.services.metrics import FleetCollector
from fleet_pipeline.services.status import StatusService
from fleet_pipeline.services.tool_calls import store_calls
from fleet_pipeline.tools.audit import Audit
from fleet_pipeline_tests.support.deployment import environment, eventually, make_home
from fleet_pipeline_tests.support.http import ask, free_port
from fleet_pipeline_tests.support.pipeline import Pipeline
from fleet_pipeline_tests.support.scripted import echo

pytestmark = [pytest.mark.instance, pytest.mark.broker]

ROOT = Path(__file__).parents[2]
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def registry(pipeline: Pipeline) -> CollectorRegistry:
    return registry_of(pipeline, NatsOptions())


def registry_of(pipeline: Pipeline, nats: NatsOptions) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(StatusService(pipeline.instance, pipeline.tasks), nats))
    return registry


def figure(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return parsed(generate_latest(registry).decode()).get((name, frozenset(labels.items())))


def test_figures_are_those_of_the_results_and_count_each_result_once(pipeline: Pipeline, registry) -> None:
    broken = Completion(error=AgentError.ENGINE, error_message="it broke")
    pipeline.answer = lambda prompt: broken if "fails" in prompt.user else echo(prompt)
    pipeline.run(pipeline.put("t1", "t2") + pipeline.put("bad", description="This fails"))
    rows = pipeline.table("deliberations")
    for _ in range(2):  # asked twice, nothing is counted twice
        assert figure(registry, "fleet_deliberations", status="completed") == 2
        assert figure(registry, "fleet_deliberations", status="failed") == 1
        assert figure(registry, "fleet_stored_tokens", kind="completion") == rows["completion_tokens"].sum()
        assert figure(registry, "fleet_deliberation_seconds", role="DEV", quantile="0.95") is not None
        assert figure(registry, "fleet_runs", state="started") == 0
        assert figure(registry, "fleet_last_run_engine_start_seconds") is not None
    before = rows["completion_tokens"].sum()
    pipeline.run(pipeline.put("t3"))
    more = pipeline.table("deliberations").set_index("task_id").loc["t3", "completion_tokens"]
    assert figure(registry, "fleet_stored_tokens", kind="completion") == before + more
    # An outcome that is written anew, as by the job `rescore`, is no further result; a pruned one is none.
    pipeline.run(["t1.dev", "t2.dev"])
    assert figure(registry, "fleet_stored_tokens", kind="completion") == before + more
    (pipeline.storage / "deliberations/t3.dev.parquet").unlink()
    assert figure(registry, "fleet_stored_tokens", kind="completion") == before


def test_a_damaged_result_and_a_broker_that_is_away_cost_the_other_figures_nothing(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.put("t1", "t2"))
    kept = pipeline.table("deliberations").set_index("task_id").loc["t2", "completion_tokens"]
    (pipeline.storage / "deliberations/t1.dev.parquet").write_bytes(b"PAR1 torn")
    (pipeline.storage / "deliberations/summary.parquet").write_bytes(b"foreign")
    registry = registry_of(pipeline, NatsOptions(url="nats://127.0.0.1:9"))
    assert figure(registry, "fleet_broker_up") == 0
    assert figure(registry, "fleet_stored_tokens", kind="completion") == kept


def test_what_waits_at_the_broker_is_told(pipeline: Pipeline, nats_url: str) -> None:
    registry = registry_of(pipeline, NatsOptions(url=nats_url))
    assert figure(registry, "fleet_broker_up") == 1
    assert figure(registry, "fleet_requests", state="waiting") == 0
    assert figure(registry, "fleet_events_lag") == 0


def test_the_dashboard_asks_for_figures_that_there_are(pipeline: Pipeline, nats_url: str) -> None:
    pipeline.run(pipeline.put("t1"))
    there = {name for name, _ in parsed(generate_latest(registry_of(pipeline, NatsOptions(url=nats_url))).decode())}
    panels = json.loads((ROOT / "k8s/components/monitoring/grafana.json").read_text())["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"fleet_\w+", target["expr"])
    }
    assert asked <= there
    assert there <= asked


def test_the_endpoint_answers_until_it_is_told_to_stop(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    port = free_port()
    fleet = [str(Path(sys.executable).with_name("fleet")), "metrics", "--serve", f"127.0.0.1:{port}"]
    with subprocess.Popen(fleet, env=environment(home, tmp_path / "storage", ""), cwd=tmp_path) as process:

        def answer() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as found:
                    return found.read().decode()
            except OSError:
                return ""

        eventually(lambda: "fleet_deliberations" in answer(), "the endpoint")
        assert ask(port, "/healthz") == ask(port, "/readyz?verbose") == (200, "ok\n")
        assert ask(port, "/") == (404, "/healthz /readyz /metrics\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_calls_of_tools_are_counted_by_family_and_outcome_and_what_is_no_family_is_one_label(
    pipeline: Pipeline, registry: CollectorRegistry, tmp_path: Path
) -> None:
    for number in range(2):
        audit = Audit(tmp_path / "audit")
        for family, outcome in (("files", "ok"), ("files", "ok"), ("git", "refused"), (f"made-up-{number}", "refused")):
            audit.end(audit.begin("w", family, "x", {}, read_only=False, sandbox="none"), outcome, "", 0, 0.1)
        audit.begin("w", "tests", "pytest", {}, read_only=False, sandbox="none")
        audit.close()
        store_calls(pipeline.tasks.store, tmp_path / "audit")
        assert figure(registry, "fleet_tool_calls", family="files", outcome="ok") == 2 * (number + 1)
    assert figure(registry, "fleet_tool_calls", family="git", outcome="refused") == 2
    assert figure(registry, "fleet_tool_calls", family="tests", outcome="unfinished") == 2
    assert figure(registry, "fleet_tool_calls", family="other", outcome="refused") == 2
