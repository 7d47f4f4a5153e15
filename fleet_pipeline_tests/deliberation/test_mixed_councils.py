"""Which model speaks for which seat in which phase."""

from typing import Any

import pytest
from pydantic import ValidationError

from fleet_pipeline.deliberation.council import CouncilDefaults, Deliberation, seat_council
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES, ModelChoice
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline_tests.support.councils import a_task, play

pytestmark = pytest.mark.unit


def council(task: dict[str, Any] | None = None, role: dict[str, Any] | None = None) -> Deliberation:
    return seat_council(
        a_task(**(task or {})), BUILT_IN_ROLES["DEV"].model_copy(update=role or {}), CouncilDefaults(model="default")
    )


def choice(model: str) -> ModelChoice:
    return ModelChoice(model=model)


def spoken(deliberation: Deliberation) -> dict[tuple[str, str], str]:
    """The model of each (seat, phase)."""
    _, batches = play(deliberation)
    return {(one.seat.label, str(one.phase)): one.request.model for batch in batches for one in batch}


def test_seats_speak_with_their_own_models_in_every_phase() -> None:
    deliberation = council({"seats": [{"model": "a"}, {"model": "b"}]})
    assert len(deliberation.seats) == 2
    assert deliberation.models == ("a", "b")
    assert spoken(deliberation) == {
        (seat, phase): model for seat, model in (("A", "a"), ("B", "b")) for phase in ("propose", "critique", "revise")
    }


def test_a_phase_wins_over_seats_and_seats_over_the_model() -> None:
    fields = {"seats": [{"model": "a"}, {"model": "b"}], "phases": {"critique": {"model": "big"}}, "model": "m"}
    models = spoken(council(fields))
    assert {models[seat, "critique"] for seat in "AB"} == {"big"}
    assert (models["A", "revise"], models["B", "propose"]) == ("a", "b")


def test_what_a_task_says_wins_over_what_its_role_says() -> None:
    role = {"seats": (choice("r1"), choice("r2")), "phases": {"critique": choice("critic")}, "model": "r"}
    by_role = spoken(council(role=role))
    assert [by_role[seat, "propose"] for seat in "ABC"] == ["r1", "r2", "r1"]
    assert {by_role[seat, "critique"] for seat in "ABC"} == {"critic"}
    assert set(spoken(council({"model": "t"}, role)).values()) == {"t"}
    only_critic = spoken(council({"phases": {"critique": {"model": "t"}}}, role))
    assert only_critic["A", "critique"] == "t"
    assert only_critic["B", "propose"] == "r2"


def test_a_council_of_one_model_is_the_same_however_it_is_named() -> None:
    fingerprints = {
        council(fields, role).fingerprint
        for fields, role in (
            ({"model": "m"}, {}),
            ({}, {"model": "m"}),
            ({"seats": [{"model": "m"}] * 3}, {}),
            ({"phases": {phase: {"model": "m"} for phase in ("propose", "critique", "revise")}}, {}),
            ({}, {"seats": (choice("m"),)}),
        )
    }
    assert len(fingerprints) == 1


def test_without_rounds_no_critic_is_needed() -> None:
    assert council({"rounds": 0, "phases": {"critique": {"model": "never"}}}).models == ("default",)


def test_another_model_of_any_seat_or_phase_is_another_council() -> None:
    casts: list[dict[str, Any]] = [
        {},
        {"seats": [{"model": "default"}, {"model": "default"}, {"model": "b"}]},
        {"seats": [{"model": "default"}, {"model": "b"}, {"model": "default"}]},
        {"phases": {"critique": {"model": "b"}}},
        {"phases": {"revise": {"model": "b"}}},
    ]
    assert len({council(fields).fingerprint for fields in casts}) == len(casts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seats": [{"model": "a"}], "num_agents": 3}, "1 of them for num_agents 3; leave num_agents out"),
        ({"seats": [{"model": ""}]}, "at least 1 character"),
        ({"seats": [{"modle": "a"}]}, "modle"),
        ({"seats": "a"}, "tuple"),
        ({"phases": {"judge": {"model": "a"}}}, "critique"),
    ],
)
def test_wrong_seats_and_phases_are_refused_by_field(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Task.model_validate({"task_id": "t", "description": "d", **fields})
