"""Shared fixtures, each made on first use, and the layers that tests belong to.

Nothing here imports Dagster, vLLM, NATS or a browser at module level: the unit layer runs without them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    import dagster as dg
    from playwright.sync_api import Browser

    from fleet_pipeline.inference.vllm import VllmEngine
    from fleet_pipeline_tests.support.intakes import Intakes
    from fleet_pipeline_tests.support.pipeline import Pipeline

# A developer's own settings must not change what the tests see.
for name in [name for name in os.environ if name.startswith("FLEET_") or name == "DAGSTER_HOME"]:
    del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"
# Waiting threads sleep. OpenMP lets them spin, and then two busy processes on two cores wait for each other's threads:
# beside another process the engine fell from 778 tokens a second to 163.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SHIPPED_INSTANCE = Path(__file__).parents[1] / "fleet_pipeline/dagster.yaml"
LAYERS = ("unit", "instance", "engine", "broker", "daemon", "browser")
# No deadline and no check of the generator's speed: a machine with other work on it may take any time. How many drawn
# inputs a generator refuses is chance: a test that passed a hundred times failed once with 9 inputs kept of 59.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.filter_too_much,
        hypothesis.HealthCheck.data_too_large,
    ],
)
hypothesis.settings.load_profile("patient")

NOT_IN_UNIT_TESTS = {"dagster", "vllm", "torch", "playwright", "nats"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m unit` collect only modules of that layer: importing the others takes longer than running these."""
    if config.option.markexpr == "unit" and collection_path.name.startswith("test_"):
        return "pytestmark = pytest.mark.unit" not in collection_path.read_text(encoding="utf-8") or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the longest begins first, so that no worker is alone with it in the end."""

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        marked = {mark.name for mark in item.iter_markers()}
        return not _needs_engine(item.path), "engine" not in marked, "unit" in marked

    items.sort(key=place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One engine at a time: all modules that need one go to the same worker, and every other module stays whole.

    Not `--dist loadgroup`: pytest-xdist 3.8 says the group in a private attribute that pytest 9 has no more.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneEngine(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "engine" if _needs_engine(config.rootpath / module) else module

    config.option.loadscopereorder = False
    return OneEngine(config, log)


@cache
def _needs_engine(module: Path) -> bool:
    return "pytestmark = pytest.mark.engine" in module.read_text(encoding="utf-8")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail if the unit layer imported one of `NOT_IN_UNIT_TESTS`."""
    imported = NOT_IN_UNIT_TESTS & set(sys.modules)
    if session.config.option.markexpr == "unit" and imported:
        raise pytest.UsageError(f"tests of the unit layer imported {', '.join(sorted(imported))}")


@pytest.fixture(scope="session")
def random_model() -> str:
    """The folder of a model with random weights, for mechanics."""
    from fleet_pipeline_tests.support.random_tiny import random_tiny

    return random_tiny()


@pytest.fixture(scope="session")
def vllm_engine(random_model: str) -> Iterator[VllmEngine]:
    """Real vLLM on CPU with a random model, started once: a start takes 15 s."""
    from fleet_pipeline.inference.options import VllmConfig
    from fleet_pipeline.inference.vllm import VllmEngine
    from fleet_pipeline_tests.support.engine import CONTEXT

    with VllmEngine.start(VllmConfig(model=random_model, max_model_len=CONTEXT, max_num_seqs=32)) as engine:
        yield engine


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance on disk, for one test, with the event log that is shipped: Dagster's own takes four times as long."""
    import dagster as dg
    import yaml

    home = tmp_path / "dagster_home"
    home.mkdir()
    shipped = yaml.safe_load(SHIPPED_INSTANCE.read_text())
    event_log = {"event_log_storage": shipped["event_log_storage"]}
    with dg.instance_for_test(temp_dir=str(home), overrides=event_log) as instance:
        yield instance


@pytest.fixture
def nats_url() -> Iterator[str]:
    """A real nats-server with JetStream, for one test."""
    from fleet_pipeline.events.embedded import embedded_server

    with embedded_server() as url:
        yield url


@pytest.fixture
def another_nats_url() -> Iterator[str]:
    from fleet_pipeline.events.embedded import embedded_server

    with embedded_server() as url:
        yield url


@pytest.fixture
def pipeline(instance: dg.DagsterInstance, tmp_path: Path) -> Pipeline:
    from fleet_pipeline_tests.support.pipeline import Pipeline

    return Pipeline(instance, tmp_path / "storage")


@pytest.fixture
def judged(pipeline: Pipeline) -> Pipeline:
    from fleet_pipeline.deliberation.prompts import Phase
    from fleet_pipeline_tests.support.pipeline import verdict_of
    from fleet_pipeline_tests.support.scripted import echo

    pipeline.configure(judge={"enabled": True}, scoring={"method": "judge"})
    pipeline.answer = lambda prompt: verdict_of(prompt) if prompt.phase is Phase.JUDGE else echo(prompt)
    return pipeline


@pytest.fixture
def intakes(pipeline: Pipeline, nats_url: str) -> Intakes:
    from fleet_pipeline_tests.support.intakes import Intakes

    return Intakes(pipeline, nats_url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from fleet_pipeline_tests.support.browser import a_browser

    with a_browser() as chromium:
        yield chromium
