import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.transcript import split_reasoning

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("raw", "reasoning", "answer"),
    [
        ("<think>a</think>b", "a", "b"),
        ("\n<think>\na\n</think>\n\nb\n", "a", "b"),
        ("b", "", "b"),
        ("a</think>b", "a", "b"),  # the template put the opening tag into the prompt
        ("<think>never closed", "never closed", ""),
        ("<think></think>b", "", "b"),
        ("", "", ""),
        ("b <think>quoted</think> c", "", "b <think>quoted</think> c"),
        ("<think>a</think>b </think> c", "a", "b </think> c"),
    ],
)
def test_reasoning_is_split_off(raw: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(raw) == (reasoning, answer)


@given(st.text())
def test_a_text_without_tags_is_all_answer(text: str) -> None:
    if "think>" not in text:
        assert split_reasoning(text) == ("", text.strip())
