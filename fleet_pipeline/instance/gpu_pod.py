"""An executor for clusters: the GPU op runs in a pod of its own, and all other ops in the run's process.

A pod that holds a GPU then ends with its last answer. Reports, checks and failures come after it, in the run's own pod, which
holds none. The engine's image is needed in that one pod only.

dagster-k8s makes a pod for each op (`k8s_job_executor`) or for a whole run (`K8sRunLauncher`). Neither fits: nine pods for a few
seconds of scoring, or a GPU that waits while a report is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import dagster as dg

# Not exported by `dagster`: what `k8s_job_executor` and `in_process_executor` make, to give each a part of a run.
from dagster._config import validate_config
from dagster._core.events import DagsterEvent
from dagster._core.execution.context.system import IStepContext, PlanOrchestrationContext
from dagster._core.execution.plan.objects import ErrorSource, StepRetryData
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

    def _pop_events(
        self, instance: dg.DagsterInstance, run_id: str, seen_storage_ids: set[int]
    ) -> Sequence[DagsterEvent]:
        """Without the failures of pods that were told to end. An evicted pod says so itself, and is then seen to be gone."""
        events = super()._pop_events(instance, run_id, seen_storage_ids)
        if not any(map(_was_interrupted, events)) or is_cancelled(instance, run_id):
            return events
        return [event for event in events if not _was_interrupted(event)]

    def log_failure_or_retry_event_after_error(
        self, step_context: IStepContext, err_info: SerializableErrorInfo, known_state: KnownExecutionState
    ) -> DagsterEvent:
        if known_state.get_retry_state().get_attempt_count(step_context.step.key) < MAX_RESTARTS:
            return DagsterEvent.step_retry_event(step_context, StepRetryData(err_info))  # type: ignore[no-untyped-call]
        return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)


def _was_interrupted(event: DagsterEvent) -> bool:
    return event.is_step_failure and event.step_failure_data.error_source is ErrorSource.INTERRUPT


def is_cancelled(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether somebody wants the run to end. A pod is told to end for other reasons as well."""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


class RunWatch:
    """In the pod with the GPU: stops the op when its run has ended without it, because the run's own pod was lost. Another run
    goes on then, and needs the GPU.
    """

    def __init__(self, instance: dg.DagsterInstance, run_id: str, seconds: float = HEALTH_SECONDS) -> None:
        self._instance = instance
        self._run_id = run_id
        self._seconds = seconds
        self._looked_at = time.monotonic()
        self._ended = False

    def look(self) -> None:
        """Raises `Failure` if the run has ended. Looks at most every so many seconds."""
        if time.monotonic() - self._looked_at < self._seconds:
            return
        self._looked_at = time.monotonic()
        run = self._instance.get_run_by_id(self._run_id)
        if run is None or run.is_finished:
            self._ended = True
            raise dg.Failure("the run has ended: its own pod is gone, and another run goes on", allow_retries=False)

    def goes_on_elsewhere(self, error: BaseException) -> bool:
        """Whether what ends this pod ends nothing else: it was told to end and nobody has cancelled the run, or its run has ended."""
        was_told = not isinstance(error, Exception)  # as Dagster raises interrupts
        return self._ended or (was_told and not is_cancelled(self._instance, self._run_id))


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
            # It would refuse a second pod after one that said itself that it was told to end, and exit as if all were well.
            # It is for pods that are started twice by their Job, and these Jobs never do (backoffLimit 0).
            should_verify_step=False,
        )
        return GpuPodExecutor(pods, InProcessExecutor(of_pods.retries))

    return dg.ExecutorDefinition(
        name="gpu_pod",
        config_schema=schema,
        # No other process could load the job of a run that is executed by hand.
        requirements=[dg.ExecutorRequirement.RECONSTRUCTABLE_JOB, dg.ExecutorRequirement.NON_EPHEMERAL_INSTANCE],
        executor_creation_fn=create,
    ).configured(dict(config), name="gpu_pod")
