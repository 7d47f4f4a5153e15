"""Agents of real vLLM, held to calls by a grammar: random words in the right form, against a world that must stay unharmed."""

from dataclasses import replace
from pathlib import Path

import pytest

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.protocol import deliberate, most_tokens
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.deliberation.transcript import Status
from fleet_pipeline.inference.engine import Job
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline.tools.audit import Audit, read_calls
from fleet_pipeline.tools.hands import Hands, toolset_of
from fleet_pipeline.tools.toolbox import Toolbox
from fleet_pipeline_tests.support.councils import a_deliberation
from fleet_pipeline_tests.support.tool_world import a_world

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(("agents", "steps"), [(6, 4), pytest.param(200, 25, marks=pytest.mark.slow)])
def test_agents_of_random_words_harm_nothing_and_end_within_their_limits(
    vllm_engine: VllmEngine, tmp_path: Path, agents: int, steps: int
) -> None:
    defaults = CouncilDefaults(model="m", sampling=Sampling(max_tokens=120, temperature=1.3))
    with a_world(tmp_path / "world") as world:
        options = world.box.options.model_copy(
            update={"workspaces": str(tmp_path / "hands/workspaces"), "sources": (str(world.source),), "roles": {"DEV": ("files", "git", "tests", "db")}}
        )  # fmt: skip
        box = replace(world.box, options=options)
        toolset = toolset_of(Toolbox(box, world.audit, "DEV"))
        use = {"max_steps": steps, "max_calls": steps, "output_chars": 200}
        councils = [
            replace(a_deliberation(f"t{n}", defaults=defaults, tools=use, rounds=0, num_agents=2, workspace=str(world.source), description="Do."), toolset=toolset)
            for n in range(agents // 2)
        ]  # fmt: skip
        audit = Audit(tmp_path / "hands/audit")
        with Hands(options, audit, "run") as hands:
            for council in councils:
                hands.begin(council.id, council.task.tools)
            jobs = [Job(one.id, deliberate(one), None, most_tokens(one), 10_000.0) for one in councils]
            finished = {one.key: one for one in vllm_engine.run(jobs, hands=hands)}
            assert [one.error for one in finished.values()] == [None] * len(councils)
        assert list((tmp_path / "hands/workspaces").iterdir()) == []
        audit.close()
        world.unharmed()
    utterances = [u for one in finished.values() for u in one.result.utterances]
    assert len(utterances) == agents
    assert {one.result.status for one in finished.values()} <= {Status.COMPLETED, Status.FAILED}
    called = [step for u in utterances for step in u.acted.steps if step.action is not None]
    assert all(len({step.number for step in u.acted.steps}) <= steps for u in utterances)
    by_agents = [call for call in read_calls(audit.path) if "the pipeline" not in call.begun.arguments]
    assert len(by_agents) == len(called) > agents / 2
    assert all(call.begun.caller.agent_id for call in by_agents)
    assert not [call for call in by_agents if call.outcome in ("broke", "unfinished")]
