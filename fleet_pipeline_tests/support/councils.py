"""Builds deliberations, and runs their protocols without an engine."""

from collections.abc import Callable, Iterable
from typing import Any

from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation, seat_council
from fleet_pipeline.deliberation.prompts import Phase, Prompt
from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.deliberation.transcript import AgentError, Completion, Transcript
from fleet_pipeline.inference.engine import Job

Answer = Callable[[Prompt], Completion]
OVERLONG = Completion(error=AgentError.OVERLONG, error_message="too long")


def a_task(task_id: str = "t1", **fields: Any) -> Task:
    return Task.model_validate({"task_id": task_id, "description": "Design a rate limiter", **fields})


def a_deliberation(task_id: str = "t1", *, defaults: CouncilDefaults | None = None, **fields: Any) -> Deliberation:
    task = a_task(task_id, **fields)
    return seat_council(task, BUILT_IN_ROLES[task.roles[0]], defaults or CouncilDefaults(model="m"))


def a_job(deliberation: Deliberation) -> Job:
    return Job(deliberation.id, deliberate(deliberation), deliberation.timeout_seconds)


def said(text: str = "fine", **fields: Any) -> Completion:
    return Completion(**{"text": text, "finish_reason": "stop", "completion_tokens": 1, **fields})


def speak(prompt: Prompt) -> Completion:
    """Answer with speaker, phase, round and subject, so that a text can be followed through the protocol."""
    return said(f"{prompt.seat.label} {prompt.phase} {prompt.round} on {prompt.about.label}")


def play(deliberation: Deliberation, answer: Answer = speak) -> tuple[Transcript, list[list[Prompt]]]:
    """Run a protocol to its end. Returns the transcript and every batch of prompts that it asked for."""
    dialogue = deliberate(deliberation)
    batches = [next(dialogue)]
    while True:
        try:
            batches.append(dialogue.send([answer(prompt) for prompt in batches[-1]]))
        except StopIteration as stop:
            return stop.value, batches


def texts(transcript: Transcript, phase: str) -> list[str]:
    return [u.text for u in transcript.utterances if u.prompt.phase == phase]


def ids(jobs: Iterable[Job]) -> list[str]:
    return [job.key for job in jobs]


def failing(label: str, phase: Phase, error: Completion, times: int = 99):
    """An answer function: one seat fails in one phase, `times` times. All other answers come from `speak`."""
    remaining = [times]

    def answer(prompt: Prompt) -> Completion:
        if prompt.seat.label == label and prompt.phase is phase and remaining[0] > 0:
            remaining[0] -= 1
            return error
        return speak(prompt)

    return answer
