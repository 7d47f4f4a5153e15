"""The instrument that holds scores against answers of known strength."""

import json
from pathlib import Path

import numpy as np
import pytest

from fleet_pipeline_tests.scoring.real_answers import (
    Answer,
    bootstrap,
    calibration_error,
    pairs,
    report,
    verdicts,
    weak_winners,
)

pytestmark = pytest.mark.unit

STRONG, MIDDLE, WEAK = 50.0, 20.0, 2.0
COUNCIL = [
    Answer(0, STRONG, 100, {"score": 0.8}),
    Answer(0, MIDDLE, 130, {"score": 0.8}),
    Answer(0, WEAK, 90, {"score": 0.9}),
    Answer(1, STRONG, 1_000, {"score": 0.5}),
    Answer(1, WEAK, 100, {"score": 0.1}),
]


def test_the_stronger_answer_should_have_more_and_equals_count_half() -> None:
    assert sorted(pairs(COUNCIL, "score")) == [(0, 0.0), (0, 0.0), (0, 0.5), (1, 1.0)]
    assert sorted(pairs(COUNCIL, "score", like_length=True)) == [(0, 0.0), (0, 0.5)]
    assert weak_winners(COUNCIL, "score") == [(0, 1.0), (1, 0.0)]


def test_a_confidence_that_is_right_as_often_as_it_says_has_no_error() -> None:
    sure = np.repeat([0.55, 0.75, 0.95], 100)
    right = np.concatenate([np.arange(100) < 55, np.arange(100) < 75, np.arange(100) < 95]).astype(float)
    assert calibration_error(sure, right) == pytest.approx(0)
    assert calibration_error(sure, 1 - right) == pytest.approx((0.1 + 0.5 + 0.9) / 3)


def test_the_first_of_equals_is_as_good_as_a_lot() -> None:
    sure, right = verdicts(COUNCIL[:2], 2)
    assert (sure.tolist(), right.tolist()) == ([0.5], [0.5])


def test_an_interval_holds_its_share_and_is_one_over_instructions() -> None:
    row = bootstrap([(n, float(n % 2)) for n in range(100)])
    assert 0.35 < row.low < row.value == 0.5 < row.high < 0.65
    one_instruction = bootstrap([(0, float(n % 2)) for n in range(100)])
    assert one_instruction.low == one_instruction.high == 0.5


def test_the_report_is_made_of_a_file_of_answers(tmp_path: Path) -> None:
    answers = {"big": "Use **Redis**.\n\nA bucket of tokens is filled every second by a script.", "small": "Yes."}
    cases = [
        {"name": f"r00{n}", "task": f"Limit the rate of API {n}.", "proposals": [{"agent_id": m, "content": text} for m, text in answers.items()]}
        for n in range(3)
    ]  # fmt: skip
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, cases)))
    (tmp_path / "strengths.json").write_text('{"big": 50, "small": 2}')
    text = report(tmp_path / "answers.jsonl", tmp_path / "strengths.json", tmp_path / "plot.png")
    assert "| score | 1.000 (1.000 to 1.000) | - | 0.000 (0.000 to 0.000) |" in text
    assert "3 instructions with requirements" in text
    assert (tmp_path / "plot.png").stat().st_size > 1_000
