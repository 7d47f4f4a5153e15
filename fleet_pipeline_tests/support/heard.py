"""A request as scripts of tests read it: who asks what. The name of a request says it; engines have no use for it."""

from dataclasses import dataclass
from functools import cached_property

from fleet_pipeline.deliberation.council import Seat
from fleet_pipeline.deliberation.exchange import Request
from fleet_pipeline.deliberation.judging import JUDGE
from fleet_pipeline.deliberation.prompts import Phase


@dataclass(frozen=True)
class Heard:
    request: Request

    @cached_property
    def _words(self) -> list[str]:
        return self.request.name.split()

    @property
    def deliberation_id(self) -> str:
        return self._words[0]

    @property
    def seat(self) -> Seat:
        return _seat(self._words[1])

    @property
    def phase(self) -> Phase:
        return Phase(self._words[2])

    @property
    def round(self) -> int:
        return int(self._words[3])

    @property
    def about(self) -> Seat:
        return _seat(self._words[4].partition(">")[0])

    @property
    def attempt(self) -> int:
        return int(self._words[5].partition(".")[0])

    @property
    def system(self) -> str:
        return self.request.messages[0].content

    @property
    def user(self) -> str:
        return self.request.messages[-1].content

    @property
    def seed(self) -> int:
        return self.request.seed

    @property
    def schema(self) -> str:
        return self.request.schema


def _seat(agent_id: str) -> Seat:
    if agent_id == JUDGE.agent_id:
        return JUDGE
    index = int(agent_id.rpartition("-")[2]) - 1
    label = chr(ord("A") + index) if index < 26 else "A" + chr(ord("A") + index - 26)
    return Seat(index=index, agent_id=agent_id, label=label)
