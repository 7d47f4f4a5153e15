import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.task import (
    Task,
    ToolUse,
    WorkspaceSource,
    checked_id,
    deliberation_id,
    is_deliberation_id,
)
from fleet_pipeline_tests.support.councils import a_task

pytestmark = pytest.mark.unit


def refusal(**fields) -> str:
    with pytest.raises(ValidationError) as caught:
        a_task(**fields)
    return describe(caught.value)


def test_a_task_needs_an_id_and_a_description_and_has_the_documented_defaults() -> None:
    task = Task(task_id="t", description="d")
    assert (task.roles, task.num_agents, task.rounds, task.diversity) == (("DEV",), 3, 1, True)
    assert task.constraints.timeout_seconds is None
    assert task.constraints.architect_rubric.k == 3


@pytest.mark.parametrize("task_id", ["a", "A-1_b.c", "task-00000000-0000-4000-8000-000000000000", "x" * 120])
def test_safe_ids_are_taken(task_id: str) -> None:
    assert a_task(task_id).task_id == task_id


@pytest.mark.parametrize(
    "task_id", ["", ".", "..", "a/b", "../x", ".hidden", "-x", "a..b", "a.", "a b", "é", "a\n", "x" * 121, "a*"]
)
def test_ids_that_are_not_safe_as_file_names_and_partition_keys_are_refused(task_id: str) -> None:
    if task_id.strip() != task_id and task_id.strip() == "a":
        assert a_task(task_id).task_id == "a"  # surrounding white space is no part of an id
    else:
        assert refusal(task_id=task_id).startswith("task_id: use 1 to 120 letters")


@given(st.text(max_size=30) | st.from_regex(r"[A-Za-z0-9._/-]{0,12}\.[a-z/.]{1,6}", fullmatch=True))
def test_a_key_is_safe_or_refused(key: str) -> None:
    if is_deliberation_id(key):
        assert checked_id(key) == key
        assert not set(key) & set("/\\\0 \n*?")
        assert ".." not in key
        assert not key.startswith(".")
    else:
        with pytest.raises(InvalidInput, match="no deliberation id"):
            checked_id(key)


def test_the_deliberation_id_is_the_task_id_and_the_role_in_lower_case() -> None:
    assert deliberation_id("Rate.Limiter", "DEVOPS") == "Rate.Limiter.devops"
    assert is_deliberation_id("Rate.Limiter.devops")


@pytest.mark.parametrize(
    ("rubric", "points"),
    [
        ("Clean code", ("Clean code",)),
        ("Clean\n- tested\n\n* fast", ("Clean", "tested", "fast")),
        ({"quality": "high", "tests": True}, ("quality: high", "tests: True")),
        (["a", "b"], ("a", "b")),
        (None, ()),
        ("", ()),
    ],
)
def test_a_rubric_is_text_a_list_or_a_mapping_and_loses_nothing(rubric, points) -> None:
    assert a_task(constraints={"rubric": rubric}).constraints.rubric == points


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"description": "  "}, "description: must not be empty"),
        ({"roles": ["WIZARD"]}, "roles: unknown role 'WIZARD'; known: DEV, QA"),
        ({"roles": []}, "roles: "),
        ({"roles": ["DEV", "dev"]}, "roles: each role at most once"),
        ({"num_agents": 0}, "num_agents: "),
        ({"num_agents": 65}, "num_agents: "),
        ({"rounds": 9}, "rounds: "),
        ({"rounds": -1}, "rounds: "),
        ({"quorum": 4}, "quorum: more than num_agents (3) can never answer"),
        ({"descripton": "x"}, "descripton: no such field; remove it or check its spelling"),
        ({"constraints": {"timeout_seconds": 0}}, "constraints.timeout_seconds: "),
        ({"constraints": {"requirements": ["ok", ""]}}, "constraints.requirements.1: must not be empty"),
        ({"constraints": {"metadata": {"a": "x" * 20_001}}}, "constraints.metadata: holds 20002 characters"),
        ({"sampling": {"temperature": 3}}, "sampling.temperature: "),
        ({"description": "a\x1b[31m"}, "description: holds the character '\\x1b'"),
        ({"task_id": "a\x00"}, "task_id: holds the character"),
        ({"model": "m\x9b"}, "model: holds the character"),
        ({"constraints": {"requirements": ["\ud800"]}}, "constraints: holds the character '\\ud800'"),
        ({"constraints": {"metadata": {"\x1b": 1}}}, "constraints: holds the character"),
    ],
)
def test_a_bad_field_is_named_with_its_remedy(fields: dict, message: str) -> None:
    assert message in refusal(**fields)


def test_a_refusal_does_not_repeat_what_was_given() -> None:
    assert "hunter2" not in refusal(num_agents="hunter2")


def test_roles_are_read_in_any_case_and_one_alone_needs_no_list() -> None:
    assert a_task(roles="qa").roles == ("QA",)


@pytest.mark.parametrize("levels", [20, 300, 600, 5_000])
@pytest.mark.parametrize("field", ["metadata", "cluster_spec", "rubric"])
def test_deep_nesting_is_refused_and_not_a_crash(field: str, levels: int) -> None:
    deep: dict = {}
    for _ in range(levels):
        deep = {"a": deep}
    assert "nested more than 16 levels deep" in refusal(constraints={field: deep})


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_stands_in_metadata_is_refused_or_can_be_stored(value) -> None:
    try:
        task = a_task(constraints={"metadata": {"a": value}})
    except ValidationError:
        return
    assert Task.model_validate_json(task.model_dump_json()).model_dump_json() == task.model_dump_json()


@pytest.mark.parametrize(
    ("fields", "use", "workspace"),
    [
        ({}, None, {}),
        ({"tools": False}, None, {}),
        ({"tools": True}, {}, {}),
        ({"tools": "yes", "workspace": "https://h/a.git"}, {}, {"url": "https://h/a.git"}),
        ({"tools": "", "workspace": "/srv/a"}, None, {"folder": "/srv/a"}),
        ({"tools": {"mode": "plan"}, "workspace": {"url": "ssh://h/a", "reference": "v1"}}, {"mode": "plan"}, {"url": "ssh://h/a", "reference": "v1"}),
    ],
)  # fmt: skip
def test_tools_are_a_yes_or_say_how_and_a_workspace_may_be_a_text(
    fields: dict, use: dict | None, workspace: dict
) -> None:
    task = a_task(**fields)
    assert task.tools == (None if use is None else ToolUse(**use))
    assert task.workspace == WorkspaceSource(**workspace)


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"tools": "maybe"}, "tools"), ({"tools": {"steps": 3}}, "steps"), ({"workspace": {"url": "https://h/a", "folder": "/a"}}, "url, or a folder"),
     ({"workspace": {"reference": "v1"}}, "of a url")],
)  # fmt: skip
def test_a_wrong_use_of_tools_is_refused_with_the_field(fields: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        a_task(**fields)
