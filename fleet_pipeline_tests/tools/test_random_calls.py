"""Thousands of well-formed random calls beside canaries: nothing outside is read or changed, and every call is in the audit."""

import pytest

from fleet_pipeline.tools.audit import read_calls
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline_tests.support.tool_calls import Caller
from fleet_pipeline_tests.support.tool_world import a_world

pytestmark = pytest.mark.unit

OPTIONS = ToolOptions(limits={"seconds": 5, "disk_mib": 64}, http={"hosts": ["127.0.0.1"], "seconds": 2})


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "executing"), [(1_500, 0.05), pytest.param(5_000, 0.2, marks=pytest.mark.slow, id="5000 calls")]
)  # fmt: skip
def test_random_calls_reach_nothing_outside_and_are_all_in_the_audit(tmp_path, count: int, executing: float) -> None:
    outcomes: dict[str, int] = {}
    with a_world(tmp_path / "world", options=OPTIONS) as world:
        caller = Caller(world, seed=count, executing=executing)
        for number in range(count):
            name, arguments = caller.next()
            result = world.tools.call(name, arguments)
            outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
            assert result.outcome != "broke", (name, arguments, result.error)
            if number % 50 == 0 or caller.random.random() < 0.02:
                world.unharmed(result.output, result.error)
        world.unharmed()
        calls = list(read_calls(world.audit.path))
        assert len(calls) == count
        assert not [call for call in calls if call.outcome == "unfinished"]
    assert outcomes["ok"] > count / 10
    assert outcomes["refused"] > count / 10
