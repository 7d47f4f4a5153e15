"""Definitions with a scripted engine, to run whole jobs in tests that are not about inference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from fleet_pipeline.common.errors import ModelUnavailable
from fleet_pipeline.defs.build import build_definitions
from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.instance import in_process
from fleet_pipeline.instance.partitions import deliberation_partitions, register
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.councils import a_task, said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.scripted import ScriptedProvider, echo


class Pipeline:
    """Definitions with a scripted engine that records its prompts, and an instance to run them on."""

    def __init__(self, instance: dg.DagsterInstance, storage: Path) -> None:
        self.instance = instance
        self.storage = storage
        self.store = Store(str(storage))
        self.overrides: dict[str, Any] = {}
        self.asked: list[Heard] = []
        self.starts = 0
        self.unavailable: set[str] = set()
        self.answer: Callable[[Heard], Completion] = echo
        pipeline = self

        class Source(ScriptedProvider):
            def start(self, *models: str):
                for model in models:
                    if model in pipeline.unavailable:
                        raise ModelUnavailable(f"{model} is not here")
                pipeline.starts += 1
                return super().start(*models)

        self.source = Source(self._script)
        self.configure()

    @property
    def tasks(self) -> TaskStore:
        return TaskStore(self.store, BUILT_IN_ROLES)

    def configure(self, **settings) -> None:
        self.definitions = build_definitions(
            Settings(**{"storage": str(self.storage)} | settings),
            overrides={"engine": self.source} | self.overrides,
            allow_synthetic=True,
        )

    def _script(self, prompt: Heard) -> Completion:
        self.asked.append(prompt)
        return self.answer(prompt)

    def put(self, *task_ids: str, **fields) -> list[str]:
        return [key for task_id in task_ids for key in self.tasks.put(a_task(task_id, **fields))]

    def run(self, keys: list[str], **arguments) -> dg.ExecuteInProcessResult:
        tags = register(self.instance, keys)
        job = self.definitions.resolve_job_def("deliberate")
        return job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False, **arguments)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.storage / name)

    def partitions(self, asset: str) -> tuple[set[str], set[str]]:
        """Returns the (materialized, failed) partitions, as the UI counts them."""
        status = get_and_update_asset_status_cache_value(self.instance, dg.AssetKey(asset), deliberation_partitions)
        materialized = status.deserialize_materialized_partition_subsets(deliberation_partitions).get_partition_keys()
        failed = status.deserialize_failed_partition_subsets(deliberation_partitions).get_partition_keys()
        return set(materialized), set(failed) - set(materialized)

    def red(self, asset: str) -> set[str]:
        """The partitions that the UI shows as failed, materialized ones included."""
        keys = self.instance.get_dynamic_partitions(deliberation_partitions.name)
        found = self.instance.get_status_by_partition(dg.AssetKey(asset), keys, deliberation_partitions)
        return {key for key, status in (found or {}).items() if status and status.name == "FAILED"}


def why_broken(result: dg.ExecuteInProcessResult) -> str | None:
    return (
        None if result.success else in_process.why_broken(event for event in result.all_events if event.is_step_failure)
    )


def verdict_of(prompt: Heard) -> Completion:
    """The verdict of a judge that always prefers the proposal of seat B."""
    first, second = prompt.user.rsplit('<proposal label="first">', 1)[1].split('<proposal label="second">')
    better = "first" if "agent-dev-002" in first else "second" if "agent-dev-002" in second else "equal"
    marks = {"first": (5, 2), "second": (2, 5), "equal": (2, 2)}[better]
    criteria = json.loads(prompt.schema)["properties"]["first_marks"]["minItems"]
    first_marks, second_marks = ([mark] * criteria for mark in marks)
    answer = {"reason": "It names values.", "first_marks": first_marks, "second_marks": second_marks, "better": better}
    return said(json.dumps(answer))


def silent_for(*task_ids: str) -> Callable[[Heard], Completion]:
    def answer(prompt: Heard) -> Completion:
        return said("") if any(f"about {task_id}." in prompt.user for task_id in task_ids) else echo(prompt)

    return answer


def put_described(pipeline: Pipeline, *task_ids: str) -> list[str]:
    return [key for task_id in task_ids for key in pipeline.put(task_id, description=f"Write about {task_id}.")]
