"""Errors of input in words that a person can act on."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from fleet_pipeline.common.validation import problems
from fleet_pipeline.deliberation.task import Task

pytestmark = pytest.mark.unit

GOOD = {"task_id": "a", "description": "d"}
PYDANTIC_S_WORDS = re.compile(r"(?i)\b(input|tuple|dictionary|pydantic|validation error|instance of|type=|str_type)\b")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=200) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def said_of(**fields: Any) -> list[str]:
    with pytest.raises(ValidationError) as error:
        Task.model_validate(GOOD | fields)
    return [f"{problem.field}: {problem.message}" for problem in problems(error.value)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"constraints": {"requirements": ["r"] * 101}}, "constraints.requirements: must have at most 100 items, not 101"),
        ({"num_agents": "many"}, "num_agents: must be a whole number"),
        ({"num_agents": 0}, "num_agents: must be greater than or equal to 1"),
        ({"num_agents": 2.5}, "num_agents: must be a whole number"),
        ({"sampling": {"temperature": "hot"}}, "sampling.temperature: must be a number"),
        ({"diversity": "perhaps"}, "diversity: must be true or false"),
        ({"description": "d" * 100_001}, "description: must have at most 100000 characters"),
        ({"roles": []}, "roles: must have at least 1 item, not 0"),
        ({"roles": 5}, "roles: must be a list"),
        ({"constraints": []}, "constraints: must be an object of names and values"),
        ({"color": 1}, "color: no such field; remove it or check its spelling"),
    ],
)  # fmt: skip
def test_a_problem_is_told_in_the_words_of_the_field(fields: dict, said: str) -> None:
    assert said in said_of(**fields)


@given(st.sampled_from(sorted(Task.model_fields)), ANYTHING)
def test_no_word_of_pydantic_reaches_a_person(name: str, value: Any) -> None:
    try:
        Task.model_validate(GOOD | {name: value})
    except ValidationError as error:
        for problem in problems(error):
            assert not PYDANTIC_S_WORDS.search(problem.message), (problem, json.dumps(value, default=str)[:80])
