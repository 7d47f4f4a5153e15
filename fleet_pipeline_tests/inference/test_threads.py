"""Threads that give way to other processes, and take back what they leave."""

import os

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.inference import threads
from fleet_pipeline.inference.threads import Threads, are_chosen, fitting

pytestmark = pytest.mark.unit

CORES = st.integers(1, 64)


@given(CORES, st.data(), st.floats(0, 128))
def test_a_load_that_lasts_settles_on_one_number_of_threads_at_once(
    cores: int, data: st.DataObject, others: float
) -> None:
    count = fitting(data.draw(st.integers(1, cores)), cores, others)
    assert 1 <= count <= cores
    assert fitting(count, cores, others) == count


@given(CORES)
def test_a_quiet_machine_is_used_whole_from_any_number_of_threads(cores: int) -> None:
    assert {fitting(count, cores, 0.0) for count in range(1, cores + 1)} == {cores}


@given(CORES, st.integers(1, 64))
def test_every_busy_process_is_left_a_core_as_long_as_one_stays(cores: int, busy: int) -> None:
    assert fitting(cores, cores, float(busy)) == max(cores - busy, 1)


@pytest.mark.parametrize("others", [0.35, 0.5, 0.59])
def test_half_a_core_changes_nothing(others: float) -> None:
    assert [fitting(count, 2, others) for count in (1, 2)] == [1, 2]


def test_threads_follow_the_load_and_are_set_only_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "EVERY_SECONDS", 0.0)
    load, set_to = iter([0.1, 0.9, 1.0, 0.5, 0.1]), list[int]()
    own = Threads(2, lambda: next(load), set_to.append)
    for _ in range(5):
        own.look()
    assert set_to == [1, 2]
    assert own.count == 2


def test_the_load_is_not_looked_at_between_every_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "EVERY_SECONDS", 1e9)
    looks: list[int] = []
    own = Threads(2, lambda: looks.append(1) or 0.0, lambda _: None)
    for _ in range(100):
        own.look()
    assert len(looks) == 1


def test_an_engine_that_ends_leaves_all_threads_to_the_next_one() -> None:
    set_to: list[int] = []
    own = Threads(4, lambda: 2.0, set_to.append)
    own.look()
    own.take_back()
    own.take_back()
    assert set_to == [2, 4]


def test_threads_that_a_person_has_chosen_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert are_chosen() == (not hasattr(os, "sched_getaffinity"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert are_chosen()
