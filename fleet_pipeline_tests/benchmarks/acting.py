"""Sixty agents that act in one run: how much of the time in which the engine has work does it work, while tools run beside it?

    python -m fleet_pipeline_tests.benchmarks.acting [AGENTS] [TOKENS]

A scripted engine takes 10 ms a step for one token of every request in it, and 100 tokens an answer, as a GPU may: a call that writes a
small file has as many. Tools are real:
files, git, pytest, in the sandbox. The share is the time within `step`, divided by the time in which at least one request was in
the engine. What is missing is what the loop and the threads of the hands keep the engine waiting.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.exchange import Completion, Request
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.services.transcribe import Transcription
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline_tests.support.councils import a_task, said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.scripted import ScriptedEngine, ScriptedProvider

STEP_SECONDS = 0.01
STEPS = [
    ("files.write_file", {"path": "own.py", "content": "def two():\n    return 2\n"}),
    ("files.write_file", {"path": "test_own.py", "content": "from own import two\n\n\ndef test_two():\n    assert two() == 2\n"}),
    ("files.list_files", {}),
    ("tests.pytest", {}),
    ("git.add", {}),
    ("git.commit", {"message": "Add two"}),
]  # fmt: skip


def speak(prompt: Heard) -> Completion:
    done = sum(message.role == "assistant" for message in prompt.request.messages)
    if done < len(STEPS):
        return said(json.dumps({"tool": STEPS[done][0], "arguments": STEPS[done][1]}))
    return said(json.dumps({"answer": "I added two."}))


class Measured(ScriptedEngine):
    """Counts the time in which it has work, and the time in which it works."""

    has_work = works = 0.0
    tokens = 100  # of an answer
    since: float | None = None
    left: ClassVar[dict[str, int]] = {}  # tokens, by request

    def submit(self, request_id: str, request: Request) -> Completion | None:
        if self.since is None:
            self.since = time.monotonic()
        self.left[request_id] = self.tokens
        return super().submit(request_id, request)

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        began = time.monotonic()
        time.sleep(STEP_SECONDS)
        for request_id in self.queue:
            self.left[request_id] -= 1
        answers = [(one, self.script(prompt)) for one, prompt in self.queue.items() if self.left[one] <= 0]
        for request_id, _ in answers:
            del self.queue[request_id]
        ended = time.monotonic()
        self.works += ended - began
        if not self.queue and self.since is not None:
            self.has_work += ended - self.since
            self.since = None
        return answers


def main(agents: int, tokens: int) -> None:
    engine = Measured(speak)
    engine.tokens = tokens

    class Provider(ScriptedProvider):
        def start(self, *models: str) -> ScriptedEngine:
            return engine

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = TaskStore(Store(str(folder / "storage")), BUILT_IN_ROLES)
        keys = [key for n in range(agents // 3) for key in tasks.put(a_task(f"t{n}", tools=True, rounds=0))]
        options = ToolOptions(workspaces=str(folder / "fleet/workspaces"))
        began = time.monotonic()
        progress = Transcription(
            tasks, CouncilDefaults(model="m"), Provider(), "run", lambda _: None, tools=options
        ).run(keys)
        seconds = time.monotonic() - began
        left = len(list((folder / "fleet/workspaces").iterdir()))
    print(
        json.dumps(
            {
                "agents": agents,
                "tokens_an_answer": tokens,
                "completed": progress.completed,
                "share": round(engine.works / engine.has_work, 4),
                "engine_has_work_s": round(engine.has_work, 2),
                "run_s": round(seconds, 1),
                "workspaces_left": left,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, int(sys.argv[2]) if len(sys.argv) > 2 else 100)
