"""A process that transcribes councils whose agents use tools, with a scripted model; it may be killed at any moment.

    python -m fleet_pipeline_tests.support.acting_run FOLDER RUN_ID DELIBERATIONS AGENTS PORT

Each agent writes a file, posts its name to the server at PORT, runs its tests, commits, and answers.
"""

import json
import sys
import time
from pathlib import Path

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.exchange import Completion
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.services.transcribe import Transcription
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline_tests.support.councils import a_task, said
from fleet_pipeline_tests.support.heard import Heard
from fleet_pipeline_tests.support.scripted import ScriptedProvider

TEST = "from own import name\n\n\ndef test_name():\n    assert name()\n"


def speak(prompt: Heard) -> Completion:
    name = f"{prompt.deliberation_id}/{prompt.seat.agent_id}"
    steps = [
        ("files.write_file", {"path": "own.py", "content": f"def name():\n    return {name!r}\n"}),
        ("http.post", {"url": f"http://127.0.0.1:{sys.argv[5]}/done", "data": name}),
        ("files.write_file", {"path": "test_own.py", "content": TEST}),
        ("tests.pytest", {}),
        ("git.add", {}),
        ("git.commit", {"message": "Say the name"}),
    ]
    done = sum(message.role == "assistant" for message in prompt.request.messages)
    time.sleep(0.02)
    if done < len(steps):
        return said(json.dumps({"tool": steps[done][0], "arguments": steps[done][1]}))
    return said(json.dumps({"answer": f"I am {name}."}))


def main(folder: Path, run_id: str, deliberations: int, agents: int) -> None:
    options = ToolOptions(
        workspaces=str(folder / "fleet/workspaces"),
        http={"hosts": [f"127.0.0.1:{sys.argv[5]}"], "private_networks": ["127.0.0.0/8"]},
        roles={"DEV": ["files", "git", "tests", "http"]},
    )
    tasks = TaskStore(Store(str(folder / "storage")), BUILT_IN_ROLES)
    keys = [
        key for n in range(deliberations) for key in tasks.put(a_task(f"t{n}", tools=True, rounds=0, num_agents=agents))
    ]
    defaults = CouncilDefaults(model="scripted")
    Transcription(tasks, defaults, ScriptedProvider(speak), run_id, lambda _: None, tools=options).run(keys)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
