"""What a reward model is asked about a proposal, and what its numbers say of a council."""

import hashlib
import json
import math
from collections.abc import Mapping

from fleet_pipeline.deliberation.exchange import Message
from fleet_pipeline.deliberation.prompts import task_brief
from fleet_pipeline.deliberation.task import Task

REWARD_VERSION = "1"


def chat(task: Task, proposal: str) -> list[Message]:
    """The task as a person would ask it, and the proposal as the answer."""
    return [Message("user", task_brief(task)), Message("assistant", proposal)]


def reward_fingerprint(task: Task, proposals: Mapping[str, str], model: str) -> str:
    """A hash (16 hex digits) of the chats that are rated, and of the name of the model."""
    content = [REWARD_VERSION, task_brief(task), sorted(proposals.items()), model]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def chance(one: float, other: float) -> float:
    """That a person prefers the one answer to the other, as reward models are trained: the logistic of the difference."""
    return 1 / (1 + math.exp(min(max(other - one, -700.0), 700.0)))


def chances(rewards: Mapping[str, float]) -> dict[str, float]:
    """By agent id, the mean chance to be preferred to another proposal of the council; 0.5 where there is none."""
    return {
        agent: sum(against) / len(against)
        if (against := [chance(one, other) for peer, other in rewards.items() if peer != agent])
        else 0.5
        for agent, one in rewards.items()
    }
