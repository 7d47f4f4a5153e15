"""What the demonstrator model is trained on: the product's prompts, and answers that keep the rules."""

import random
import re
from itertools import islice

import pytest

from fleet_pipeline.deliberation import prompts
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.training.corpus import pairs, play
from fleet_pipeline.training.evaluate import known_words, words
from fleet_pipeline.training.layout import prompt_layout
from fleet_pipeline.training.speakers import Speaker, points_of, sentences
from fleet_pipeline_tests.support.councils import a_deliberation, a_task

pytestmark = pytest.mark.engine

POINT = re.compile(r"^(\d+\.|[CR]\d+\.|Given:) (.+) — (.+)\.$", re.MULTILINE)
FULL = {
    "description": "Cache the report. It takes 9.5 s!\n- one line\n2. another",
    "context": "Redis 7.2 runs already. It is small.",
    "constraints": {"rubric": ["speed"], "requirements": ["Expire after 5 minutes."]},
}


def speak(seed: int, **fields):
    deliberation = a_deliberation(**(FULL | fields))
    return deliberation, play(deliberation, Speaker(deliberation, random.Random(seed)).answer)


def test_one_seed_makes_one_corpus() -> None:
    assert list(islice(pairs(5), 40)) == list(islice(pairs(5), 40))
    assert list(islice(pairs(5), 40)) != list(islice(pairs(6), 40))


def test_sentences_are_lines_and_what_ends_with_a_full_stop_without_list_marks() -> None:
    text = "# Title\nOne. Two at v1.2?  Three\n- four;\n\n3. five, six:"
    assert sentences(text) == ["Title", "One", "Two at v1.2", "Three", "four", "five, six"]


def test_a_proposal_has_a_line_for_everything_that_is_asked_in_the_order_of_the_prompt() -> None:
    about = list(points_of(a_task(**FULL)))
    assert about == [
        ("1.", "Cache the report"),
        ("2.", "It takes 9.5 s"),
        ("3.", "one line"),
        ("4.", "another"),
        ("Given:", "Redis 7.2 runs already"),
        ("C1.", "speed"),
        ("R1.", "Expire after 5 minutes"),
    ]
    _, said = speak(0)
    for pair in said:
        if pair.turn.phase is not Phase.CRITIQUE:
            assert [(match[1], match[2]) for match in POINT.finditer(pair.answer)] == about


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_agents", [1, 2, 5])
def test_critiques_quote_the_proposal_and_revisions_take_up_the_remedies_by_name(seed: int, num_agents: int) -> None:
    _, said = speak(seed, num_agents=num_agents, rounds=2)
    proposal: dict[int, str] = {}
    critique: dict[int, tuple[str, str]] = {}
    for turn, answer in said:
        author = turn.about.index
        if turn.phase is Phase.CRITIQUE:
            strong, *weak = [line for line in answer.splitlines() if re.match(r"\w+[.:] ", line)]
            assert f"\n{strong.rpartition(': ')[0]} — " in proposal[author]
            assert weak
            for mark, about, _ in POINT.findall("\n".join(weak)):
                assert f"\n{mark} {about} — " in proposal[author]
            critique[author] = (turn.seat.label, answer)
            continue
        if turn.phase is Phase.REVISE:
            critic, text = critique[author]
            who = "my critique" if num_agents == 1 else critic
            remedies = [plan.partition(", because ")[0] for _, _, plan in POINT.findall(text)]
            assert remedies
            assert all(f" — {remedy}, as {who} asked." in answer for remedy in remedies)
            assert ("my own critique" if num_agents == 1 else f"the critique by {critic}") in answer.splitlines()[0]
        proposal[author] = answer
    assert len(proposal) == num_agents


def test_an_answer_has_no_word_but_those_of_its_prompt_and_of_the_phrases() -> None:
    for turn, answer in islice(pairs(9), 300):
        allowed = known_words() | set(words(turn.messages[-1].content)) | {str(number) for number in range(60)}
        assert set(words(answer)) <= allowed | {f"{letter}{number}" for letter in "cr" for number in range(20)}


def test_the_layout_is_another_when_any_text_of_a_prompt_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = prompt_layout()
    assert prompt_layout() == before
    for name in (
        "SYSTEM",
        "PROPOSE_INSTRUCTION",
        "CRITIQUE_INSTRUCTION",
        "SELF_CRITIQUE_INSTRUCTION",
        "REVISE_INSTRUCTION",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(prompts, name, getattr(prompts, name) + " Be brief.")
            assert prompt_layout() != before
    with monkeypatch.context() as patch:
        patch.setattr(prompts, "bullets", lambda title, lines, mark="": f"{title}: {', '.join(lines)}")
        assert prompt_layout() != before
