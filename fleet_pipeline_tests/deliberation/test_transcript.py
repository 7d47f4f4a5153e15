import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.reasoning import split_reasoning

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
        ("[THINK]a[/THINK]b", "a", "b"),
        ("<seed:think>a</seed:think>b", "a", "b"),
        ("◁think▷a◁/think▷b", "a", "b"),
        ("<thought>a</thought>b", "a", "b"),
        ("<thinking>a</thinking>\nb", "a", "b"),
        ("<think>a</think><think>b</think>c", "a\n\nb", "c"),
        ("<think>\na\n</think>\n<answer>\nb\n</answer>", "a", "b"),
        ("Here is my thought process: a\nHere is my response: b", "a", "b"),
        ("analysisWe need it.assistantfinalb", "We need it.", "b"),
        ("analysisWe.assistantcommentary to=x{}assistantfinalb", "We.", "b"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", "a", "b"),
        ("<|channel|>analysis<|message|>cut off in the mid", "cut off in the mid", ""),
        ("Say </think> as Qwen does.", "", "Say </think> as Qwen does."),
        ("It ends with '</think>', always.", "", "It ends with '</think>', always."),
        ("Split:\n```python\nEND = 1</think>2\n```\nDone.", "", "Split:\n```python\nEND = 1</think>2\n```\nDone."),
        ("Write `x</think>y`.", "", "Write `x</think>y`."),
        ("</think>b", "", "</think>b"),
    ],
)
def test_reasoning_is_split_off(raw: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(raw) == (reasoning, answer)


@pytest.mark.parametrize(
    ("raw", "reasoning", "answer"),
    [
        ("a</think>b", "a", "b"),
        ("</think>b", "", "b"),
        ("never closed", "never closed", ""),
        ("<think>a</think>b", "a", "b"),
    ],
)
def test_where_the_prompt_opened_the_reasoning_the_answer_begins_in_it(raw: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(raw, "<think>") == (reasoning, answer)


@given(st.text())
def test_whatever_is_said_nothing_of_it_is_lost(text: str) -> None:
    reasoning, answer = split_reasoning(text)
    assert answer in text
    assert all(part in text for part in reasoning.split("\n\n"))


@given(st.text())
def test_a_text_without_tags_is_all_answer(text: str) -> None:
    if not any(mark in text for mark in ("think", "THINK", "thought", "reasoning", "final", "response", "<|")):
        assert split_reasoning(text) == ("", text.strip())
