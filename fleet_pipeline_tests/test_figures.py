"""The figures of benchmarks: medians, ratios and turns."""

import json

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline_tests.benchmarks.figures import Line, Spread, ratios, turns

pytestmark = pytest.mark.unit

FIGURES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9)


@given(FIGURES, st.floats(1e-3, 1e3))
def test_a_ratio_is_taken_repetition_by_repetition(below: list[float], factor: float) -> None:
    found = ratios([factor * one for one in below], below)
    assert found.low == pytest.approx(factor) == found.high


@given(st.integers(1, 5), st.integers(1, 6))
def test_ways_take_turns_and_each_comes_as_often(ways: int, repetitions: int) -> None:
    order = list(turns(range(ways), repetitions))
    assert [order.count(way) for way in range(ways)] == [repetitions] * ways
    assert order[ways : 2 * ways] in ([], order[:ways][::-1])


@given(FIGURES)
def test_a_figure_is_read_back_from_json_as_it_was(values: list[float]) -> None:
    line = Line("a figure", Spread.of(values), "at least 1")
    assert Line.read(json.loads(json.dumps(line.plain()))) == line
