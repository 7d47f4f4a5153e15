from dataclasses import replace

import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.council import CouncilDefaults, seat_council
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES, load_roles
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline_tests.support.councils import a_deliberation, a_task

pytestmark = pytest.mark.unit

DEFAULTS = CouncilDefaults(model="m", sampling=Sampling(temperature=0.5, top_p=0.9))


def test_the_five_roles_have_expertise_and_several_perspectives_each() -> None:
    assert set(BUILT_IN_ROLES) == {"DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"}
    assert all(len(role.expertise) > 100 and len(role.perspectives) >= 3 for role in BUILT_IN_ROLES.values())


def test_sampling_is_decided_by_task_then_role_then_run() -> None:
    role = BUILT_IN_ROLES["DEV"].model_copy(update={"sampling": Sampling(temperature=0.6, max_tokens=9)})
    task = a_task(sampling={"max_tokens": 5})
    sampling = seat_council(task, role, DEFAULTS).sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.6, 0.9, None)


def test_the_model_is_decided_by_task_then_role_then_run() -> None:
    role = BUILT_IN_ROLES["DEV"].model_copy(update={"model": "of role"})
    assert seat_council(a_task(), BUILT_IN_ROLES["DEV"], DEFAULTS).model == "m"
    assert seat_council(a_task(), role, DEFAULTS).model == "of role"
    assert seat_council(a_task(model="of task"), role, DEFAULTS).model == "of task"


@pytest.mark.parametrize(
    "change",
    [
        {"description": "another"},
        {"context": "more"},
        {"num_agents": 4},
        {"rounds": 2},
        {"diversity": False},
        {"constraints": {"requirements": ["r"]}},
        {"sampling": {"temperature": 0.1}},
        {"model": "other"},
        {"roles": ["QA"]},
        {"quorum": 3},
    ],
)
def test_the_fingerprint_changes_with_all_that_decides_what_is_said(change: dict) -> None:
    assert a_deliberation(**change).fingerprint != a_deliberation().fingerprint


@pytest.mark.parametrize("change", [{"seed": 1}, {"retries": 5}, {"model": "n"}])
def test_the_fingerprint_changes_with_what_the_run_decides(change: dict) -> None:
    defaults = CouncilDefaults(**{"model": "m", **change})
    assert a_deliberation(defaults=defaults).fingerprint != a_deliberation().fingerprint


def test_the_fingerprint_changes_with_the_model_s_weights_and_settings() -> None:
    assert replace(a_deliberation(), inference="thinking off").fingerprint != a_deliberation().fingerprint


def test_the_fingerprint_does_not_change_with_the_deadline_or_the_other_roles_of_the_task() -> None:
    same = a_deliberation(constraints={"timeout_seconds": 5}, quorum=2, roles=["DEV", "QA"])
    assert same.fingerprint == a_deliberation().fingerprint  # two of three is the majority that is the default


def test_a_roles_file_adds_and_replaces_roles() -> None:
    roles = load_roles(
        """
        [roles.SECURITY]
        title = "security engineer"
        expertise = "You find weaknesses."
        perspectives = [{name = "attacker", focus = "Break in."}]
        """,
        "roles.toml",
    )
    assert set(roles) == {*BUILT_IN_ROLES, "SECURITY"}
    assert seat_council(a_task(), roles["SECURITY"], DEFAULTS).id == "t1.security"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[roles.X]\ntitle='x'", "roles.toml: roles.X.expertise: add this field"),
        ("[roles.lower]\ntitle='x'\nexpertise='y'\nperspectives=[{name='a',focus='b'}]", "roles.lower.name"),
        ("[roles.X", "not valid TOML"),
        ("x = 1", "one table per role"),
        ("roles.X = 3", "roles.X must be a table"),
    ],
)
def test_a_bad_roles_file_is_refused_with_file_table_and_field(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message.replace(".", r"\.")):
        load_roles(text, "roles.toml")
