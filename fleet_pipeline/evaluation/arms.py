"""What is compared: one agent, the best of three, and a council. Each may generate as many answers of a model on a task.

A council spends some of them on critiques and shares the rest among its turns; a single agent has them all. So a ceiling is equal, and
not what is spent: an agent that answers early leaves the rest. What was spent stands in the table.
"""

from dataclasses import dataclass
from pathlib import Path

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.task import Task, ToolUse, WorkspaceSource
from fleet_pipeline.evaluation.repositories import Repository

ROLE = "DEV"


@dataclass(frozen=True)
class Arm:
    """`agents` propose, and criticise and revise in each of `rounds`. The winner is the pipeline's, by tests and score."""

    name: str
    title: str
    agents: int
    rounds: int

    def steps(self, answers: int) -> int:
        """How many answers a seat has for one turn, of `answers` for all. Raises `InvalidInput` where none is left."""
        steps = (answers - self.agents * self.rounds) // (self.agents * (1 + self.rounds))
        if steps < 1:
            raise InvalidInput(f"{answers} answers are too few for a {self.title}; give {self.least} at least")
        return steps

    @property
    def least(self) -> int:
        """The fewest answers with which each turn has one."""
        return self.agents * (1 + 2 * self.rounds)


ONE = Arm("one", "single agent", 1, 0)
BEST = Arm("best", "best of three", 3, 0)
COUNCIL = Arm("council", "council of three", 3, 1)
ARMS = (ONE, BEST, COUNCIL)


@dataclass(frozen=True)
class Trial:
    """An arm on a repository, once more for each `repeat`, from 1. `folder` holds the repository."""

    arm: Arm
    repository: Repository
    folder: Path
    repeat: int

    @property
    def task_id(self) -> str:
        return f"{self.repository.name}-{self.arm.name}-{self.repeat}"

    def task(self, answers: int) -> Task:
        """Its seeds are its own, because they are made from the task's id."""
        return Task(
            task_id=self.task_id,
            description=self.repository.description,
            roles=(ROLE,),
            num_agents=self.arm.agents,
            rounds=self.arm.rounds,
            quorum=1,  # the best of those that answered
            tools=ToolUse(max_steps=self.arm.steps(answers)),
            workspace=WorkspaceSource(folder=str(self.folder)),
        )
