"""What tests share: one vLLM engine for the whole run, real brokers, real Dagster instances."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Browser

from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.events.embedded import embedded_server
from fleet_pipeline.inference.scripted import echo
from fleet_pipeline.inference.vllm import VllmConfig, VllmEngine
from fleet_pipeline.models.registry import RANDOM_TINY, resolve
from fleet_pipeline_tests.browser import a_browser
from fleet_pipeline_tests.intakes import Intakes
from fleet_pipeline_tests.pipeline import Pipeline, verdict_of

# Nothing a developer has set may change what the tests see.
for name in [name for name in os.environ if name.startswith("FLEET_") or name == "DAGSTER_HOME"]:
    del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"

# The engine's context in tests: room for ordinary prompts, small enough to overrun on purpose.
CONTEXT = 4_096


@pytest.fixture(scope="session")
def random_tiny() -> str:
    return resolve(RANDOM_TINY)


@pytest.fixture(scope="session")
def vllm_engine(random_tiny: str) -> Iterator[VllmEngine]:
    """Real vLLM on CPU with a random model, started once: a start takes 15 s."""
    with VllmEngine.start(VllmConfig(model=random_tiny, max_model_len=CONTEXT, max_num_seqs=32)) as engine:
        yield engine


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance on disk, of this test alone."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        yield instance


@pytest.fixture
def nats_url() -> Iterator[str]:
    """A real nats-server with JetStream, of this test alone."""
    with embedded_server() as url:
        yield url


@pytest.fixture
def another_nats_url() -> Iterator[str]:
    with embedded_server() as url:
        yield url


@pytest.fixture
def pipeline(instance: dg.DagsterInstance, tmp_path: Path) -> Pipeline:
    return Pipeline(instance, tmp_path / "storage")


@pytest.fixture
def judged(pipeline: Pipeline) -> Pipeline:
    pipeline.configure(judge={"enabled": True}, scoring={"method": "judge"})
    pipeline.answer = lambda prompt: verdict_of(prompt) if prompt.phase is Phase.JUDGE else echo(prompt)
    return pipeline


@pytest.fixture
def intakes(pipeline: Pipeline, nats_url: str) -> Intakes:
    return Intakes(pipeline, nats_url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as found:
        yield found
