"""What ties the checkpoint to the product: the prompts it was trained on, as a number."""

import hashlib
from typing import Any

from fleet_pipeline.deliberation.council import PROTOCOL_VERSION, CouncilDefaults, seat_council
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.training.corpus import play

_ALL = {
    "description": "d",
    "context": "c",
    "constraints": {"rubric": ["r"], "requirements": ["q"], "cluster_spec": {"e": "f"}, "metadata": {"m": "n"}},
}
# Every block, phase, number of agents and form of speaker that a prompt can have.
_TASKS: list[dict[str, Any]] = [
    _ALL | {"num_agents": 5, "rounds": 2},
    _ALL | {"num_agents": 1},
    {"description": "d", "diversity": False},
]


def prompt_layout() -> str:
    """16 hex digits over all prompts of fixed councils whose members all say the same."""
    digest = hashlib.sha256(str(PROTOCOL_VERSION).encode())
    for fields in _TASKS:
        for role in BUILT_IN_ROLES.values():
            council = seat_council(Task(task_id="T", **fields), role, CouncilDefaults(model="-"))
            for turn, _ in play(council, lambda _: "a"):
                system, user = (message.content for message in turn.messages)
                digest.update(f"{turn.phase}\n{system}\n{user}\n".encode())
    return digest.hexdigest()[:16]
