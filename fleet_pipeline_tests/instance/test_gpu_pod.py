"""The executor for clusters: its config, and what a cluster asks of the other settings. That it works is in test_on_a_cluster."""

from __future__ import annotations

import builtins
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.defs import assets
from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.defs.resources import RunProcess
from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.instance.gpu_pod import RunWatch
from fleet_pipeline.settings import load_settings
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.pipeline import Pipeline, why_broken
from fleet_pipeline_tests.support.scripted import echo

pytestmark = pytest.mark.instance

GPU = {
    "job_image": "engine:1",
    "step_k8s_config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
}


def settings(**more: Any) -> Any:
    return load_settings({"storage": "s3://bucket/fleet", "pods": {"gpu": GPU}} | more)


def test_without_pods_everything_is_in_one_process() -> None:
    assert build_definitions(load_settings()).resolve_job_def("deliberate").executor_def is dg.in_process_executor


def test_with_pods_every_job_has_the_executor_of_pods() -> None:
    definitions = build_definitions(settings())
    for job in ("deliberate", "rescore", "prune"):
        assert definitions.resolve_job_def(job).executor_def.name == "gpu_pod"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"job_imag": "engine:1"}, 'pods.gpu: Received unexpected config entry "job_imag"'),
        ({"job_image": 3}, "pods.gpu: .*job_image"),
        ({"step_k8s_config": {"container": {}}}, 'pods.gpu: .*"container"'),
    ],
)
def test_a_config_that_dagster_k8s_does_not_know_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        build_definitions(settings(pods={"gpu": wrong}))


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"storage": "results"}, "storage .*/results is a folder of one pod.*file:///"),
        ({"storage": "/data"}, "write file:///data if all pods mount a volume there"),
        ({"requests": {"inbox": "/in"}}, "requests.inbox /in is a folder of one pod"),
    ],
)
def test_a_local_folder_is_refused_where_pods_share_none(places: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        settings(**places)


def test_a_mounted_volume_can_be_named() -> None:
    assert settings(storage="file:///data").storage == "file:///data"


def test_without_dagster_k8s_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "dagster_k8s":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InvalidInput, match=r"pip install 'fleet-pipeline\[k8s\]'"):
        build_definitions(settings())


def test_the_op_stops_when_its_run_has_ended_without_it_and_not_before(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = instance.create_run_for_job(build_definitions(load_settings()).resolve_job_def("deliberate"))
        seldom, often = RunWatch(instance, run.run_id), RunWatch(instance, run.run_id, seconds=0)
        often.look()
        assert not often.goes_on_elsewhere(RuntimeError("of the op itself"))
        assert often.goes_on_elsewhere(KeyboardInterrupt()), "an eviction"
        instance.report_run_failed(run)
        seldom.look()
        with pytest.raises(dg.Failure, match="another run goes on"):
            often.look()
        assert often.goes_on_elsewhere(RuntimeError())


def test_a_cancelled_run_goes_on_nowhere(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = instance.create_run_for_job(build_definitions(load_settings()).resolve_job_def("deliberate"))
        instance.report_run_canceling(run)
        assert not RunWatch(instance, run.run_id).goes_on_elsewhere(KeyboardInterrupt())


def test_an_engine_whose_run_has_ended_stops(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "RunWatch", partial(RunWatch, seconds=0))
    pipeline.overrides["process"] = RunProcess(one_process=False)
    pipeline.configure()
    keys = pipeline.put(*(f"t{n}" for n in range(40)))

    def answer(prompt: Heard) -> Completion:
        if len(pipeline.asked) == 30:
            [run] = pipeline.instance.get_runs()
            pipeline.instance.report_run_failed(run)
        return echo(prompt)

    pipeline.answer = answer
    result = pipeline.run(keys)
    assert "another run goes on" in str(why_broken(result))
    assert len(pipeline.asked) < 9 * len(keys), "it stopped"
