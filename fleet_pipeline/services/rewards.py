"""Has final proposals rated by a reward model, once the engines that wrote them are released.

Rewards are stored in the table `rewards`. A council is not rated again while its proposals are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.deliberation.rows import RewardRow, RewardsFooter, TranscriptFooter
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.inference.engine import EngineProvider, Reward
from fleet_pipeline.scoring.proposals import final_proposals, texts
from fleet_pipeline.scoring.reward import chat, reward_fingerprint
from fleet_pipeline.storage.schemas import REWARDS, UTTERANCES
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_file, read_footer, write_rows
from fleet_pipeline.storage.task_store import TaskStore

# Councils that are handed to the model together. Those of a call that is cut short are rated again.
TOGETHER = 64


@dataclass(frozen=True)
class _Council:
    key: str
    task: Task
    transcript: TranscriptFooter
    proposals: dict[str, str]  # by agent id


class Rewards:
    """Rates councils by the reward model `model`, which `source` starts."""

    def __init__(self, tasks: TaskStore, model: str, source: EngineProvider, run_id: str) -> None:
        self.tasks = tasks
        self.store = tasks.store
        self.model = model
        self.source = source
        self.run_id = run_id

    def stand(self, key: str) -> bool:
        """Whether the stored rewards of `key` are of its proposals, by this model as it is now."""
        with suppress(CorruptFile, InvalidInput):
            footer = read_footer(self.store, REWARDS, key)
            if footer is None or footer.identity != self.identity:
                return False
            task = self.tasks.get(key)[0]
            return footer.rated == reward_fingerprint(task, final_texts(self.store, key), self.model)
        return False

    @cached_property
    def identity(self) -> str:
        return self.source.identity(self.model)

    def rate(self, keys: Sequence[str], on_rated: Callable[[str], None]) -> None:
        """Rate the councils of `keys` that completed. Calls `on_rated` with the key of each whose rewards are stored.

        Raises `EngineError` if the model cannot be started, or breaks; what has been rated is kept.
        """
        missing = []
        for key in keys:  # where only the judge was to be asked again, they are there
            if self.stand(key):
                on_rated(key)
            else:
                missing.append(key)
        if not missing:
            return
        with self.source.start_reward(self.model) as model:
            for start in range(0, len(missing), TOGETHER):
                councils = list(self._councils(missing[start : start + TOGETHER]))
                chats = [chat(council.task, text) for council in councils for text in council.proposals.values()]
                rewards = iter(model.rate(chats))
                for council in councils:
                    of_agents = {agent: next(rewards) for agent in council.proposals}
                    self._write(council, of_agents, model.kind)
                    on_rated(council.key)

    def _councils(self, keys: Sequence[str]) -> Iterator[_Council]:
        for key in keys:
            with suppress(CorruptFile, InvalidInput):  # its outcome says so
                footer = read_footer(self.store, UTTERANCES, key)
                if footer is not None and footer.status is Status.COMPLETED:
                    yield _Council(key, self.tasks.get(key)[0], footer, final_texts(self.store, key))

    def _write(self, council: _Council, rewards: dict[str, Reward], kind: str) -> None:
        task_id, _, role = council.key.rpartition(".")
        rows = [
            RewardRow(
                deliberation_id=council.key,
                task_id=task_id,
                role=role.upper(),
                agent_id=agent,
                reward=reward.value,
                prompt_tokens=reward.prompt_tokens,
                model=self.model,
                engine=kind,
                run_id=self.run_id,
                fingerprint=council.transcript.fingerprint,
            )
            for agent, reward in rewards.items()
        ]
        rated = reward_fingerprint(council.task, council.proposals, self.model)
        write_rows(self.store, REWARDS, council.key, rows, RewardsFooter(rated=rated, identity=self.identity))


def final_texts(store: Store, key: str) -> dict[str, str]:
    """Final proposals by agent id; none without a transcript. Raises `CorruptFile`."""
    file = read_file(store, UTTERANCES, key)
    return texts(final_proposals(file.content.to_pandas())) if file else {}
