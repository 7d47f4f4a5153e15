"""Form: what tells a stronger answer from a weaker one, and what must not."""

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.deliberation.task import Constraints, Task
from fleet_pipeline.scoring.cases import score_cases
from fleet_pipeline.scoring.form import WEIGHTS, form
from fleet_pipeline_tests.scoring.gamed import ATTEMPTS, gamed
from fleet_pipeline_tests.scoring.measure import read_cases

pytestmark = pytest.mark.unit

TASK = Task(task_id="t", description="Design a rate limiter for the public API of a bank.")
PLAIN = (
    "Put a token bucket into Redis for each client. The gateway asks it before a request goes on. A Lua script takes a "
    "token and sets the expiry in one step, so that two gateways never spend the same one. Where Redis is away, let "
    "requests pass and count them."
)


def test_more_that_is_new_says_more_and_the_words_of_the_task_say_nothing() -> None:
    assert form(PLAIN, TASK).specificity > form(PLAIN[:120], TASK).specificity > 0
    assert form(TASK.description * 3, TASK).specificity == 0
    asked = Task(task_id="t", description="A limiter.", constraints=Constraints(requirements=(PLAIN,)))
    assert form(PLAIN, asked).specificity == 0


def test_what_is_laid_out_counts_no_further_than_there_is_something_said() -> None:
    laid_out = PLAIN.replace(". ", ".\n\n**Then** ")
    assert form(laid_out, TASK).marks > form(PLAIN, TASK).marks == 0
    assert form(laid_out, TASK).paragraphs > 0
    hollow = form("\n\n".join(["**Yes.**", "# Yes", "- Yes"] * 10), TASK)
    assert (hollow.marks, hollow.paragraphs) == (0, 0)
    assert form(f"{PLAIN}\n\n" + "**!**\n\n" * 50, TASK).marks == form(f"{PLAIN}\n\n" + "**!**\n\n" * 500, TASK).marks


def test_saying_it_again_adds_nothing() -> None:
    once, again = form(PLAIN, TASK), form(f"{PLAIN} " * 6, TASK)
    assert again.specificity == once.specificity
    assert again.value < once.value


def test_a_heap_of_rare_words_is_no_prose_and_a_task_without_function_words_expects_none() -> None:
    heap = "zymurgy quixotic bandicoot verdigris flummery ossify perihelion gossamer marzipan obsidian calliope"
    assert form(heap, TASK).naturalness == 0
    assert form(PLAIN, TASK).naturalness == 1
    for unknown in ("為銀行設計限流器", "为登录页面编写密码重置功能，并在 5 次失败后锁定账户 (A 方案)。"):  # noqa: RUF001
        assert form(heap, Task(task_id="t", description=unknown)).naturalness == 1


def test_code_is_no_heap_of_words_and_its_signs_are_no_headings() -> None:
    """An answer that was one block of code had a seventh of its form, and vague sentences won over it."""
    code = "```python\n# a comment\n# another\ndef slug(title: str) -> str:\n    return f(**a, **b) + '-'.join(title.split())\n```"
    assert form(code, TASK).naturalness == 1
    assert form(code, TASK).marks == form("```\nalpha beta gamma\n```", TASK).marks
    assert form(f"{PLAIN}\n\n{code}", TASK).naturalness == 1


@pytest.mark.parametrize("line", ["\n", " \n", "**\n", "|", "# ", "\t", "**a", "```\n"])
def test_a_hostile_text_of_a_million_characters_is_read_to_its_end(line: str) -> None:
    """Blank lines took the square of their number: 200,000 of them would have taken hours."""
    assert form(line * (1_000_000 // len(line)) + "x", TASK).value <= 1


@given(st.text(), st.text(min_size=1).filter(lambda text: text.strip()))
def test_every_text_has_a_form_between_0_and_1(text: str, asked: str) -> None:
    found = form(text, Task.model_construct(task_id="t", description=asked, constraints=Constraints()))
    assert all(0 <= sign <= 1 for sign in found)
    assert 0 <= found.value <= 1
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_of_twenty_attempts_to_win_without_an_answer_none_does() -> None:
    """Every attempt on every case of `final`, beside its three answers: 400 councils."""
    councils = [(number, case) for number in range(len(ATTEMPTS)) for case in read_cases("final")]
    found = score_cases(
        [
            {
                "task": case["task"],
                "requirements": case["requirements"],
                "rubric": case["rubric"],
                "proposals": [
                    {"agent_id": str(place), "content": text}
                    for place, text in enumerate([*case["answers"], gamed(ATTEMPTS[number], case)])
                ],
            }
            for number, case in councils
        ]
    ).proposals
    assert len(ATTEMPTS) == 20
    won = found[found["winner"] & (found["agent_id"] == "3")]
    assert [councils[int(key)][0] for key in won["deliberation_id"]] == []
