"""An executor for clusters: the GPU op runs in a pod of its own, and all other ops in the run's process.

A pod that holds a GPU then ends with its last answer. Reports, checks and failures come after it, in the run's own pod, which
holds none. The engine's image is needed in that one pod only.

dagster-k8s makes a pod for each op (`k8s_job_executor`) or for a whole run (`K8sRunLauncher`). Neither fits: nine pods for a few
seconds of scoring, or a GPU that waits while a report is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import dagster as dg

# Not exported by `dagster`: what `k8s_job_executor` and `in_process_executor` make, to give each a part of a run.
from dagster._config import validate_config
from dagster._core.events import DagsterEvent
from dagster._core.execution.context.system import IStepContext, PlanOrchestrationContext
from dagster._core.execution.plan.objects import StepRetryData
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster_shared.error import SerializableErrorInfo

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.instance.names import TRANSCRIPTS
from fleet_pipeline.instance.run_processes import record_process

# How often a pod is started anew that was evicted, or lost with its node. It generates only what is missing.
MAX_RESTARTS = 5
# A pod is looked at this often, so one that has gone is noticed as soon.
HEALTH_SECONDS = 10


class GpuPods(StepDelegatingExecutor):
    """Starts the pod of an op anew when it has gone. What the op itself failed with is not tried again."""

    def log_failure_or_retry_event_after_error(
        self, step_context: IStepContext, err_info: SerializableErrorInfo, known_state: KnownExecutionState
    ) -> DagsterEvent:
        if known_state.get_retry_state().get_attempt_count(step_context.step.key) < MAX_RESTARTS:
            return DagsterEvent.step_retry_event(step_context, StepRetryData(err_info))  # type: ignore[no-untyped-call]
        return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)


class GpuPodExecutor(Executor):
    """Executes the op `transcripts` with `pods`, and then all others with `here`."""

    def __init__(self, pods: Executor, here: Executor) -> None:
        self._pods = pods
        self._here = here

    @property
    def retries(self) -> RetryMode:
        return self._here.retries

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        record_process(plan_context.instance, plan_context.run_id)
        keys = execution_plan.step_keys_to_execute
        in_pod = [key for key in keys if key == TRANSCRIPTS]
        left = list(in_pod)
        for event in self._execute(self._pods, in_pod, plan_context, execution_plan):
            if event.is_step_success and event.step_key in left:
                left.remove(event.step_key)
            yield event
        if not left:
            others = [key for key in keys if key not in in_pod]
            yield from self._execute(self._here, others, plan_context, execution_plan)

    def _execute(
        self, executor: Executor, keys: list[str], context: PlanOrchestrationContext, plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        if not keys:
            return
        job = context.job.get_definition()
        part = plan.build_subset_plan(keys, job, ResolvedRunConfig.build(job, context.run_config))
        of_part = PlanOrchestrationContext(
            context.plan_data._replace(execution_plan=part),
            context.log,
            executor,
            context.output_capture,
            context.resume_from_failure,
        )
        yield from executor.execute(of_part, part)


def gpu_pod_executor(config: Mapping[str, Any]) -> dg.ExecutorDefinition:
    """The executor. `config` is that of dagster-k8s' `k8s_job_executor`, for the pods of the GPU op.

    Raises `ImportError` without the extra `k8s`, and `InvalidInput` for a config that is none.
    """
    from dagster_k8s import k8s_job_executor

    schema = k8s_job_executor.config_schema.as_field()
    found = validate_config(schema.config_type, dict(config))
    if found.errors:
        raise InvalidInput("pods.gpu: " + "; ".join(error.message for error in found.errors))

    def create(context: dg.InitExecutorContext) -> Executor:
        of_pods = cast("Callable[[dg.InitExecutorContext], Any]", k8s_job_executor.executor_creation_fn)(context)
        pods = GpuPods(
            of_pods._step_handler,
            of_pods.retries,
            check_step_health_interval_seconds=HEALTH_SECONDS,
            should_verify_step=True,
        )
        return GpuPodExecutor(pods, InProcessExecutor(of_pods.retries))

    return dg.ExecutorDefinition(
        name="gpu_pod",
        config_schema=schema,
        # No other process could load the job of a run that is executed by hand.
        requirements=[dg.ExecutorRequirement.RECONSTRUCTABLE_JOB, dg.ExecutorRequirement.NON_EPHEMERAL_INSTANCE],
        executor_creation_fn=create,
    ).configured(dict(config), name="gpu_pod")
