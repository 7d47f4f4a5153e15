"""A backend of the batching loop whose every step is visible."""

from collections.abc import Callable

from fleet_pipeline.deliberation.exchange import AgentError, Completion, Request
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.inference.engine import Finished, Job
from fleet_pipeline.inference.loop import drive
from fleet_pipeline_tests.support.councils import a_deliberation, a_job, said, speak
from fleet_pipeline_tests.support.heard import Heard


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Backend:
    """Answers a request after as many steps as `length` says; records what it saw."""

    down_seconds = 0.0

    def __init__(self, length: Callable[[Heard], int] = lambda _: 1, clock: Clock | None = None) -> None:
        self.length = length
        self.clock = clock or Clock()
        self.left: dict[str, int] = {}
        self.prompts: dict[str, Heard] = {}
        self.aborted: list[str] = []
        self.batches: list[set[tuple[str, Phase]]] = []
        self.most = 0

    def submit(self, request_id: str, request: Request) -> Completion | None:
        prompt = Heard(request)
        if "refuse me" in prompt.user:
            return Completion(error=AgentError.OVERLONG, error_message="too long")
        self.left[request_id] = self.length(prompt)
        self.prompts[request_id] = prompt
        self.most = max(self.most, len(self.left))
        return None

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        self.clock.now += 1
        self.batches.append({(self.prompts[r].user.split("\n")[1], self.prompts[r].phase) for r in self.left})
        done = []
        for request_id in list(self.left):
            self.left[request_id] -= 1
            if self.left[request_id] <= 0:
                del self.left[request_id]
                done.append((request_id, speak(self.prompts[request_id])))
        return done

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        """Of each, a word for every step that has been made."""
        self.aborted += request_ids
        partials = {}
        for request_id in request_ids:
            left = self.left.pop(request_id, 0)
            done = self.length(self.prompts[request_id]) - left
            partials[request_id] = said("word " * done, completion_tokens=done)
        return partials


def run(backend: Backend, jobs, max_in_flight: int = 8) -> list[Finished]:
    return list(drive(jobs, backend, max_in_flight=max_in_flight, monotonic=backend.clock))


def jobs(count: int, **fields) -> list[Job]:
    return [a_job(a_deliberation(f"t{n}", description=f"task {n}", **fields)) for n in range(count)]
