"""The cases that scores are measured on: `cases/<role>.jsonl`, written for this project.

Each has a task with requirements and rubric, three different answers, two paraphrases of the first
answer, and a vague text without a solution. Answers to other tasks of the same role, echoes and
padded answers are made from these.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("cases")
CASES = {
    path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for path in sorted(FOLDER.glob("*.jsonl"))
}


def test_there_are_cases_of_all_five_roles_with_names_of_their_own() -> None:
    assert set(CASES) == {"architect", "data", "dev", "devops", "qa"}
    names = [case["name"] for cases in CASES.values() for case in cases]
    assert len(names) == len(set(names)) >= 60


@pytest.mark.parametrize("role", CASES)
def test_a_case_has_three_answers_that_differ_and_paraphrases_as_long_as_the_first(role: str) -> None:
    for case in CASES[role]:
        assert case["role"] == role.upper()
        assert 3 <= len(case["requirements"]) <= 5
        assert 1 <= len(case["rubric"]) <= 4
        texts = [*case["answers"], *case["paraphrases"], case["vague"]]
        assert len(set(texts)) == len(texts) == 6
        words = len(case["answers"][0].split())
        assert all(0.7 * words <= len(text.split()) <= 1.35 * words for text in case["paraphrases"])
