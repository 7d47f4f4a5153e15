"""Builds deliberations, and runs their protocols without an engine."""

from collections.abc import Callable, Iterable
from typing import Any

from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation, seat_council
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Dialogue
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.protocol import deliberate, most_tokens
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.deliberation.transcript import Transcript
from fleet_pipeline.inference.engine import Job
from fleet_pipeline_tests.support.heard import Heard

Answer = Callable[[Heard], Completion]
OVERLONG = Completion(error=AgentError.OVERLONG, error_message="too long")


def a_task(task_id: str = "t1", **fields: Any) -> Task:
    return Task.model_validate({"task_id": task_id, "description": "Design a rate limiter", **fields})


def a_deliberation(task_id: str = "t1", *, defaults: CouncilDefaults | None = None, **fields: Any) -> Deliberation:
    task = a_task(task_id, **fields)
    return seat_council(task, BUILT_IN_ROLES[task.roles[0]], defaults or CouncilDefaults(model="m"))


def a_job(deliberation: Deliberation) -> Job:
    return Job(deliberation.id, deliberate(deliberation), deliberation.timeout_seconds, most_tokens(deliberation))


def said(text: str = "fine", **fields: Any) -> Completion:
    return Completion(**{"text": text, "finish_reason": "stop", "completion_tokens": 1, **fields})


def speak(prompt: Heard) -> Completion:
    """Answer with speaker, phase, round and subject, so that a text can be followed through the protocol."""
    return said(f"{prompt.seat.label} {prompt.phase} {prompt.round} on {prompt.about.label}")


def opening(dialogue: Dialogue) -> list[Heard]:
    """The first request of every exchange with which a dialogue begins."""
    return [Heard(next(exchange)) for exchange in next(dialogue)]


def play(deliberation: Deliberation, answer: Answer = speak) -> tuple[Transcript, list[list[Heard]]]:
    """Run a protocol to its end. Returns the transcript, and in batches every request that it made.

    The second attempts of a phase are a batch of their own, and so on.
    """
    dialogue = deliberate(deliberation)
    batches: list[list[Heard]] = []
    results: list[Any] | None = None
    while True:
        try:
            exchanges = next(dialogue) if results is None else dialogue.send(results)
        except StopIteration as stop:
            return stop.value, batches
        results = [None] * len(exchanges)
        open_requests = {index: next(exchange) for index, exchange in enumerate(exchanges)}
        while open_requests:
            batches.append([Heard(request) for request in open_requests.values()])
            for index, request in list(open_requests.items()):
                try:
                    open_requests[index] = exchanges[index].send(answer(Heard(request)))
                except StopIteration as stop:
                    results[index] = stop.value
                    del open_requests[index]


def texts(transcript: Transcript, phase: str) -> list[str]:
    return [u.text for u in transcript.utterances if u.turn.phase == phase]


def ids(jobs: Iterable[Job]) -> list[str]:
    return [job.key for job in jobs]


def failing(label: str, phase: Phase, error: Completion, times: int = 99):
    """An answer function: one seat fails in one phase, `times` times. All other answers come from `speak`."""
    remaining = [times]

    def answer(prompt: Heard) -> Completion:
        if prompt.seat.label == label and prompt.phase is phase and remaining[0] > 0:
            remaining[0] -= 1
            return error
        return speak(prompt)

    return answer
