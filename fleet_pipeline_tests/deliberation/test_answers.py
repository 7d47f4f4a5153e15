"""What stands of an answer whose end a limit or a loop broke, or that repeats the tags of its prompt."""

import re

import pytest
from hypothesis import example, given, strategies as st

from fleet_pipeline.deliberation.answers import LEAST_LOOP, before_the_cut, before_the_loop, without_echoes
from fleet_pipeline.deliberation.prompts import material, task_brief
from fleet_pipeline_tests.support.councils import a_task

pytestmark = pytest.mark.unit

words = st.text(st.sampled_from("abc. \n-#`|:"), max_size=60)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<task>\nUse a queue.\n</task>", "Use a queue."),
        ('<proposal label="A">\n\nUse a queue.', "Use a queue."),
        ('Use a queue.\n</proposal>\n\n<critique by="B" of="A">\n', "Use a queue."),
        ("<proposal>Use a queue.</proposal>", "Use a queue."),
        ("## Requirements:\n\nUse a queue.", "Use a queue."),
        ("Use a queue.", "Use a queue."),
        ("# The approach\nUse a queue.\n# Requirements met\nAll.", "# The approach\nUse a queue.\n# Requirements met\nAll."),
        ("Write `<task>` and\n<task>\nin the midst.", "Write `<task>` and\n<task>\nin the midst."),
        ("<tasks><taskdef/></tasks>", "<tasks><taskdef/></tasks>"),
        ("<task>\n</task>", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_tags_and_titles_of_the_prompt_are_taken_off_both_ends(raw: str, text: str) -> None:
    assert without_echoes(raw) == text


def test_every_tag_and_title_of_a_prompt_is_known_as_an_echo() -> None:
    facts = {"rubric": "good", "requirements": ["fast"], "cluster_spec": {"a": 1}, "metadata": {"b": 2}}
    brief = task_brief(a_task(constraints=facts, context="c"))
    echoes = [line for line in brief.splitlines() if line.startswith(("# ", "<"))]
    assert len(echoes) == 8
    blocks = [material("proposal", "x", label="B"), material("critique", "x", by="yourself", of="AA")]
    echoes += [line for block in blocks for line in block.splitlines() if line != "x"]
    for echo in echoes:
        assert without_echoes(f"{echo}\nanswer\n{echo}") == "answer"


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ("One. Two. Thr", "One. Two."),
        ("One. Two.", "One. Two."),
        ("Version 1.2 is", ""),
        ('He said "stop." And th', 'He said "stop."'),
        ("- one\n- two\n- thr", "- one\n- two"),
        ("Text.\n\n## Risks\n", "Text."),
        ("Text.\n\nSteps:\n\n1. ", "Text."),
        ("Text.\n\n**Risks**\n\nThe ri", "Text."),
        ("| a | b |\n| c | d |\n| e", "| a | b |\n| c | d |"),
        ("Do:\n```python\na = 1\nb = ", "Do:\n```python\na = 1\n```"),
        ("Do:\n~~~~\na = 1\nb = ", "Do:\n~~~~\na = 1\n~~~~"),
        ("```python\na = 1\n```\nThen we", "```python\na = 1\n```"),
        ("Use this:\n\ndone.\n```py", "Use this:\n\ndone."),
        ("```python\na = 1\n```", "```python\na = 1\n```"),
        ("没有问题。然后", "没有问题。"),
        ("no end at all", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_a_text_that_was_cut_stands_up_to_its_last_whole_sentence_or_line(cut: str, kept: str) -> None:
    assert before_the_cut(cut) == kept


@given(words)
@example(":```.")
@example("a.\n```")
@example("a.\n```\nb.")
@example("````\n")
@example("```\nb\n```")
def test_what_stands_of_a_cut_text_is_its_beginning_and_cannot_be_shortened_again(text: str) -> None:
    kept = before_the_cut(text)
    without_fence = re.sub(r"\n(`{3,}|~{3,})$", "", kept)
    assert text.startswith((kept, without_fence))
    fences = [line for line in kept.splitlines() if re.match(r" {0,3}```", line)]  # elsewhere in a line they are text
    assert len(fences) % 2 == 0
    assert before_the_cut(kept + "\n") == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Begin. " + "Say it again and again. " * 3, "Begin. Say it again and again."),
        ("Begin. " + "Say it again. " * 7 + "Say it", "Begin. Say it again."),
        ("- Check the system.\n- Start the system.\n" + "- Stop the system.\n" * 5, "- Check the system.\n- Start the system.\n- Stop the system."),
        ("Begin.\n" + "".join(f"R{n}. You think about your customers.\n" for n in range(12)), "Begin.\nR0. You think about your customers."),
        ("Begin.\n" + "".join(f"{n}. Test it.\nB{n}. [lack]\n" for n in range(8)) + "8. Te", "Begin.\n0. Test it.\nB0. [lack]"),
        ("".join(f"{n}. Test part {chr(97 + n)} of it.\n" for n in range(12)), "".join(f"{n}. Test part {chr(97 + n)} of it.\n" for n in range(12))),
        ("a b c d", "a b c d"),
        ("Twice. Twice. ", "Twice. Twice. "),
        ("", ""),
    ],
)  # fmt: skip
def test_a_loop_stands_once(text: str, kept: str) -> None:
    assert before_the_loop(text) == kept


@given(before=words, passage=st.text("xyz.", min_size=20, max_size=60), times=st.integers(3, 9))
def test_of_a_passage_that_ends_a_text_by_standing_there_often_no_more_than_twice_its_length_is_left(
    before: str, passage: str, times: int
) -> None:
    text = before + passage * times
    kept = before_the_loop(text)
    assert text.startswith(kept)
    assert len(kept) <= len(before) + 2 * len(passage)


@given(st.text(st.sampled_from("ab. "), max_size=40), st.text(st.sampled_from("ab. "), max_size=9), st.integers(0, 40))
def test_only_a_long_passage_that_stands_three_times_at_the_end_is_a_loop(
    before: str, passage: str, times: int
) -> None:
    text = before + passage * times
    loops = any(
        text.endswith(text[-size:] * 3) and _repeated(text, size) >= LEAST_LOOP for size in range(1, len(text) // 3 + 1)
    )
    if text.count(".") + text.count("\n") < 9:  # shorter than a loop of sentences
        assert (before_the_loop(text) != text) == loops


def _repeated(text: str, size: int) -> int:
    """How many characters at the end have this period."""
    return next((n for n in range(size, len(text)) if text[-n - 1] != text[-n - 1 + size]), len(text))


@pytest.mark.parametrize(
    "end", ["it costs 1000", "5,000,000", "and so on...", "---", "```", "www", "| --- | --- | --- |", "a, b, c, c, c"]
)
def test_what_only_looks_like_a_loop_is_none(end: str) -> None:
    assert before_the_loop(f"Something that was said. {end}") == f"Something that was said. {end}"


def test_echoes_are_told_in_a_time_that_grows_with_the_text_alone() -> None:
    """16,000 line breaks within a text took 3.8 s; a small model in a loop writes nothing else."""
    text = "a" + "\n" * 400_000 + "b"
    assert without_echoes(text) == text
    assert without_echoes("<task>" * 2_000 + "a" + "</task>" * 2_000) == "a"
