"""The measures of the model card find what they are there to find."""

import random

import pytest

from fleet_pipeline.deliberation.council import CouncilDefaults, seat_council
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.training.corpus import play
from fleet_pipeline.training.evaluate import Figure, evaluate, table
from fleet_pipeline.training.speakers import Speaker
from fleet_pipeline_tests.support.councils import a_task

pytestmark = pytest.mark.engine

TASKS = [
    a_task(
        f"t{n}",
        roles=["DEV", "QA"],
        description=f"Wibble{'abcd'[n]} the frobnicator. Keep the quux.",
        constraints={"requirements": ["Zorble every blat"]},
    )
    for n in range(4)
]
TRAINED = {"keep", "every"}


def rows():
    """The rows of a run in which everyone speaks as trained."""
    utterances, proposals = [], []
    for task in TASKS:
        for role in task.roles:
            council = seat_council(task, BUILT_IN_ROLES[role], CouncilDefaults(model="m"))
            final = {}
            for turn, answer in play(council, Speaker(council, random.Random(council.id)).answer):
                seat = turn.seat
                common = {
                    "deliberation_id": council.id, "task_id": task.task_id, "role": role, "agent_id": seat.agent_id,
                    "label": seat.label, "perspective": seat.perspective.name if seat.perspective else None,
                }  # fmt: skip
                utterances.append(
                    common
                    | {
                        "phase": str(turn.phase),
                        "round": turn.round,
                        "about_agent_id": turn.about.agent_id,
                        "self_critique": seat == turn.about,
                        "text": answer,
                        "error_type": None,
                    }
                )
                if turn.phase is not Phase.CRITIQUE:
                    row = final.setdefault(seat.agent_id, common | {"initial_text": answer})
                    row["text"] = answer
            proposals += final.values()
    return utterances, proposals


def figure(figures: list[Figure], words: str) -> Figure:
    (found,) = (figure for figure in figures if words in figure.name)
    return found


def test_who_speaks_as_trained_reaches_every_bar_that_its_tasks_allow() -> None:
    figures = evaluate(TASKS, *rows(), TRAINED)
    # Four of the five unseen words are in every task, so that they are in proposals for others too.
    foreign = figure(figures, "for other tasks")
    assert foreign.value == pytest.approx(4 / 5)
    assert [figure for figure in figures if not figure.reached] == [foreign], table(figures)
    assert figure(figures, "never met").value == 1


@pytest.mark.parametrize(
    ("measure", "phase", "old", "new"),
    [
        ("broken word", "propose", "frobnicator", "frobnicnic"),
        ("broken word", "propose", "\nRisk:", "\n4. Keep the quux — try it empty.\nRisk:"),
        ("name a point", "critique", "weak here:\n", "weak here:\n9"),
        ("name their critic", "revise", "the critique by", "the opinion of"),
        ("name their critic", "revise", "asked", "said"),
    ],
)
def test_a_fault_is_found_and_shown(measure: str, phase: str, old: str, new: str) -> None:
    utterances, proposals = rows()
    spoiled = next(row for row in utterances if row["phase"] == phase)
    spoiled["text"] = spoiled["text"].replace(old, new)
    found = figure(evaluate(TASKS, utterances, proposals, TRAINED), measure)
    assert len(found.failures) == 1
    assert found.failures[0].startswith(f"{spoiled['deliberation_id']} {spoiled['label']}: ")
    assert found.value == pytest.approx(1 - 1 / found.count)


def test_words_requirements_and_points_that_are_missing_are_found_in_final_proposals() -> None:
    utterances, proposals = rows()
    proposals[0]["text"] = "Zorble nothing."
    figures = evaluate(TASKS, utterances, proposals, TRAINED)
    assert "missing blat, frobnicator, quux, wibblea" in figure(figures, "never met").failures[0]
    assert len(figure(figures, "requirements mentioned").failures) == 1
    assert len(figure(figures, "word for word").failures) == 1


def test_an_answer_that_was_cut_off_is_no_proposal_that_ended_by_itself() -> None:
    utterances, proposals = rows()
    utterances.append(utterances[0] | {"error_type": "cut_off", "text": ""})
    found = figure(evaluate(TASKS, utterances, proposals, TRAINED), "end by themselves")
    assert not found.reached
    assert found.failures[0].endswith("cut_off")


def test_the_role_of_proposals_that_all_say_the_same_cannot_be_told() -> None:
    utterances, proposals = rows()
    for row in proposals:
        row["text"] = row["initial_text"] = "As a someone.\n1. Nothing — do nothing."
    assert figure(evaluate(TASKS, utterances, proposals, TRAINED), "role told").value < 0.6
