"""Scores held against answers of models whose strength is known: `python -m fleet_pipeline_tests.scoring.measure --real FILE`.

The answers are those that AlpacaEval publishes (github.com/tatsu-lab/alpaca_eval, `results/*/model_outputs.json`, CC BY-NC 4.0: for
measuring, so they are not in this repository). FILE has a line for each instruction, as `fleet score` reads it: `name`, `task`, and
`proposals` with the model as `agent_id`. `STRENGTH` is the published win rate, length-controlled; a JSON object in a file of its own
(`--strengths`) takes its place for other models.

A model's strength is true of its answers on the whole, not of each: no score can be right in all pairs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fleet_pipeline.scoring import confidence
from fleet_pipeline.scoring.cases import score_cases
from fleet_pipeline.scoring.options import ScoringOptions

STRENGTH = {
    "gpt-4o-2024-05-13": 51.3,
    "Meta-Llama-3-70B-Instruct": 33.2,
    "Qwen1.5-7B-Chat": 11.8,
    "vicuna-13b-v1.5": 6.7,
    "text_davinci_001": 2.8,
    "oasst-sft-pythia-12b": 1.8,
}
# A model of less than this wins in no council that has a stronger one.
WEAK = 10.0
# Weak models write less. Pairs whose lengths differ by less than a third say what a score knows beside length.
LIKE_LENGTH = 4 / 3
SIGNALS = ("score", "form", "fit", "novelty", "consensus", "length")
REQUIREMENTS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("cases").joinpath("requirements.json").read_text()
)


class Answer(NamedTuple):
    instruction: int
    strength: float
    length: int
    values: Mapping[str, float]  # by signal


class Row(NamedTuple):
    """A share, with a 95 % bootstrap interval over instructions."""

    value: float
    low: float
    high: float


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def scored(cases: Sequence[Mapping[str, Any]], strength: Mapping[str, float], signals: Sequence[str]) -> list[Answer]:
    proposals = score_cases(cases).proposals.fillna({name: 0.0 for name in signals if name != "length"})
    texts = {(str(n), one["agent_id"]): one["content"] for n, case in enumerate(cases) for one in case["proposals"]}
    answers = []
    for row in proposals.to_dict("records"):
        length = len(texts[row["deliberation_id"], row["agent_id"]])
        values = {name: float(length if name == "length" else row[name]) for name in signals}
        answers.append(Answer(int(row["deliberation_id"]), strength[row["agent_id"]], length, values))
    return answers


def pairs(answers: Sequence[Answer], signal: str, like_length: bool = False) -> list[tuple[int, float]]:
    """(instruction, 1 where the stronger model's answer has the higher value, a half where both have the same)."""
    found = []
    for one, two in combinations(answers, 2):
        if one.instruction != two.instruction or one.strength == two.strength:
            continue
        if like_length and max(one.length, two.length) > LIKE_LENGTH * min(one.length, two.length):
            continue
        stronger, weaker = (one, two) if one.strength > two.strength else (two, one)
        lead = stronger.values[signal] - weaker.values[signal]
        found.append((one.instruction, 1.0 if lead > 0 else 0.5 if lead == 0 else 0.0))
    return found


def weak_winners(answers: Sequence[Answer], signal: str) -> list[tuple[int, float]]:
    """(instruction, 1 where a weak model has the best value of all)."""
    best = {one.instruction: max(of(answers, one.instruction), key=lambda a: a.values[signal]) for one in answers}
    return [(instruction, float(one.strength < WEAK)) for instruction, one in best.items()]


def of(answers: Sequence[Answer], instruction: int) -> list[Answer]:
    return [one for one in answers if one.instruction == instruction]


def verdicts(answers: Sequence[Answer], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all councils of so many models: the confidence in the winner, and whether it is the stronger of the two best."""
    sure, right = [], []
    for instruction in sorted({one.instruction for one in answers}):
        for council in combinations(of(answers, instruction), size):
            first, second = sorted(council, key=lambda one: -one.values["score"])[:2]
            lead = first.values["score"] - second.values["score"]
            sure.append(confidence.by_score(lead, size))
            right.append(float(first.strength > second.strength) if lead > 0 else 0.5)  # a lot decides between equals
    return np.array(sure), np.array(right, dtype=float)


def calibration_error(sure: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015) in ten bins of equal width."""
    bins = np.minimum((sure * 10).astype(int), 9)
    return float(
        sum((bins == n).mean() * abs(sure[bins == n].mean() - right[bins == n].mean()) for n in np.unique(bins))
    )


def bootstrap(found: Sequence[tuple[int, float]]) -> Row:
    by_instruction: dict[int, list[float]] = {}
    for instruction, value in found:
        by_instruction.setdefault(instruction, []).append(value)
    sums = np.array([[sum(values), len(values)] for values in by_instruction.values()])
    rng = np.random.default_rng(1)
    drawn = sums[rng.integers(0, len(sums), (1_000, len(sums)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return Row(float(sums[:, 0].sum() / sums[:, 1].sum()), float(low), float(high))


def report(file: Path, strengths: Path | None = None, plot: Path | None = None) -> str:
    strength = json.loads(strengths.read_text()) if strengths else STRENGTH
    cases = read(file)
    answers = scored(cases, strength, SIGNALS)
    lines = ["| signal | all pairs | of like length | a weak model wins |", "| --- | --- | --- | --- |"]
    measures: tuple[Callable[[str], list[tuple[int, float]]], ...] = (
        lambda signal: pairs(answers, signal),
        lambda signal: pairs(answers, signal, like_length=True),
        lambda signal: weak_winners(answers, signal),
    )
    lines += [f"| {name} | {' | '.join(_cell(measure(name)) for measure in measures)} |" for name in SIGNALS]
    asked = [case | {"requirements": REQUIREMENTS[case["name"]]} for case in cases if case["name"] in REQUIREMENTS]
    if asked:
        with_points = scored(asked, strength, ("score", "coverage", "form"))
        lines += ["", f"{len(asked)} instructions with requirements:", "", *lines[:2]]
        for name in ("score", "coverage", "form"):
            cells = (pairs(with_points, name), pairs(with_points, name, True), weak_winners(with_points, name))
            lines.append(f"| {name} | {' | '.join(map(_cell, cells))} |")
    lines += ["", "| models in a council | right | calibration error | no clear winner | right there |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for size in range(2, min(len(strength), 6) + 1):
        sure, right = verdicts(answers, size)
        unclear = sure < ScoringOptions().clear_from
        there = f"{right[unclear].mean():.2f}" if unclear.any() else "-"
        lines.append(
            f"| {size} | {right.mean():.3f} | {calibration_error(sure, right):.3f} | {unclear.mean():.2f} | {there} |"
        )
    if plot:
        draw(*verdicts(answers, confidence.COUNCIL), plot)
    return "\n".join(lines)


def _cell(found: Sequence[tuple[int, float]]) -> str:
    if not found:
        return "-"
    row = bootstrap(found)
    return f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"


def draw(sure: np.ndarray, right: np.ndarray, file: Path) -> None:
    """The reliability plot of councils of three."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    edges = np.linspace(0.5, 1, 11)
    places = np.digitize(sure, edges[1:-1])
    shown = [n for n in range(10) if (places == n).sum() >= 20]
    axes.plot([0.5, 1], [0.5, 1], color="#999999", linewidth=1, label="as said")
    axes.plot(
        [sure[places == n].mean() for n in shown],
        [right[places == n].mean() for n in shown],
        "o-",
        color="#1f6feb",
        label=f"{len(sure):,} councils of three",
    )
    axes.set(
        xlabel="confidence in the winner", ylabel="share in which it is the stronger one", xlim=(0.5, 1), ylim=(0.4, 1)
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
