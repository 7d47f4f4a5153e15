"""Agents of real vLLM, held to calls by a grammar: random words in the right form, against a world that must stay unharmed."""

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet_pipeline.deliberation.council import CouncilDefaults
from fleet_pipeline.deliberation.exchange import Request
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


def bounded(schema: Any) -> Any:
    """The same with short texts and lists: random words do not come to an end by themselves."""
    if isinstance(schema, list):
        return [bounded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    own = {"string": {"maxLength": min(schema.get("maxLength", 12), 12)}, "array": {"maxItems": 2}, "number": {}, "integer": {}}.get(kind, {})  # fmt: skip
    if "enum" in schema or "const" in schema or "pattern" in schema:
        own = {}
    return {name: bounded(one) for name, one in schema.items()} | own


def calls_alone(schema: str) -> str:
    """Without the possibility to answer early, which most random words choose."""
    wanted = json.loads(schema)
    if "anyOf" in wanted:
        wanted["anyOf"] = [one for one in wanted["anyOf"] if "answer" not in one["properties"]]
    return json.dumps(bounded(wanted))


def eager(course: Any) -> Generator[list[Any], list[Any], Any]:
    """A dialogue whose agents call tools until they may not any more."""

    def exchange(own: Any) -> Generator[Any, Any, Any]:
        wanted = next(own)
        while True:
            if isinstance(wanted, Request) and wanted.schema:
                wanted = replace(wanted, schema=calls_alone(wanted.schema))
            told = yield wanted
            try:
                wanted = own.send(told)
            except StopIteration as stop:
                return stop.value

    exchanges = next(course)
    while True:
        results = yield [exchange(one) for one in exchanges]
        try:
            exchanges = course.send(results)
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize(
    ("agents", "steps", "calls"), [(6, 4, 15), pytest.param(200, 30, 5_000, marks=pytest.mark.slow)]
)
def test_agents_of_random_words_harm_nothing_and_end_within_their_limits(
    vllm_engine: VllmEngine, tmp_path: Path, agents: int, steps: int, calls: int
) -> None:
    defaults = CouncilDefaults(model="m", sampling=Sampling(max_tokens=160, temperature=1.3))
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
            jobs = [Job(one.id, eager(deliberate(one)), None, most_tokens(one), 10_000.0) for one in councils]
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
    assert len(by_agents) == len(called) >= calls
    assert all(call.begun.caller.agent_id for call in by_agents)
    assert not [call for call in by_agents if call.outcome in ("broke", "unfinished")]
