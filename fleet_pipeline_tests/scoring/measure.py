"""How good the scores are, on the cases written for the project: `python -m fleet_pipeline_tests.scoring.measure`.

The 70 cases of `building` served to build the scores. The 20 of `final` were written afterwards, by somebody
who had not seen the scores. The weight of `form` was chosen with both in sight (docs/scores.md).

    python -m fleet_pipeline_tests.scoring.measure --embeddings MODEL          # with lines for embeddings
    python -m fleet_pipeline_tests.scoring.measure --real real_answers.jsonl   # and against real models' answers
"""

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fleet_pipeline.scoring.cases import score_cases
from fleet_pipeline.scoring.diversity import vendi
from fleet_pipeline.scoring.embeddings import Encoder
from fleet_pipeline.scoring.similarity import similarities
from fleet_pipeline_tests.scoring import real_answers

Case = dict[str, Any]
FOLDER = Path(__file__).with_name("cases")
FILLER = {}
FILLER["building"] = [
    "It is important to keep an open mind throughout the process.",
    "Communication between all stakeholders is a key factor for success.",
    "We should always strive for excellence in everything we do.",
    "At the end of the day, quality is what matters most.",
    "There are many ways to look at this, and each has its merits.",
    "Needless to say, careful consideration is required at every step.",
    "A holistic view helps everybody involved to move forward.",
    "Let us therefore begin with a positive attitude.",
]
FILLER["final"] = [
    "Rome was not built in a day, as everybody knows.",
    "We are really looking forward to hearing what you think.",
    "This is a fascinating subject with many facets.",
    "First of all, thank you for giving us this opportunity.",
    "In today's fast-moving world, standing still is no option.",
    "Much could be said here, and some of it has been.",
    "With a bit of luck and a lot of passion, anything can succeed.",
    "Where there is a will, there is a way.",
]


@dataclass
class Figure:
    """A share (or an AUC) that should reach `bar`, and what fell short."""

    name: str
    bar: float
    value: float = 0.0
    count: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        return self.value >= self.bar


def read_cases(part: str) -> list[Case]:
    """`part` is building or final."""
    files = sorted((FOLDER / part).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def diversity_figures(cases: Sequence[Case], encoder: Encoder | None = None) -> list[Figure]:
    compare = encoder.similarities if encoder else similarities
    name = "embeddings" if encoder else "lexical"
    order, pairs = [], []
    for case in cases:
        matrix = compare([*case["answers"], *case["paraphrases"]])
        copies = vendi(np.ones((3, 3)))
        paraphrased, different = (vendi(matrix[np.ix_(of, of)]) for of in ([0, 3, 4], [0, 1, 2]))
        order.append((copies + 1e-9 < paraphrased < different, case, f"{paraphrased:.2f}, {different:.2f}"))
        family, strangers = [(0, 3), (0, 4), (3, 4)], [(a, b) for a in (0, 3, 4) for b in (1, 2)] + [(1, 2)]
        least, most = min(matrix[pair] for pair in family), max(matrix[pair] for pair in strangers)
        pairs.append((least > most, case, f"{least:.2f}, {most:.2f}"))
    return [
        _share(f"Vendi: copies < paraphrases < different ({name})", 0.95, order),
        _share(f"each paraphrase pair closer than every other pair ({name})", 0.95 if encoder else 0.9, pairs),
    ]


def relevance_figures(cases: Sequence[Case], filler: Sequence[str]) -> list[Figure]:
    """One batch: the cases' tasks are each other's wrong tasks."""
    rng = random.Random(1)
    councils: list[tuple[Case, str, list[str]]] = []
    for case in cases:
        field_ = [other for other in cases if other is not case and other["role"] == case["role"]]
        echo = "\n".join([case["task"], *case["requirements"], *case["rubric"]])
        lines = [f"{line} {rng.choice(filler)}" for line in echo.splitlines()]
        foreign = rng.choice(rng.choice(field_)["answers"])
        variants = {
            "echo": echo,
            "echo with filler": f"{echo}\n\n{' '.join(rng.sample(filler, 5))}",
            "echo with filler in every line": "\n".join(lines),
            "echo with a foreign answer": f"{echo}\n\n{foreign}",
            "vague": case["vague"],
        }
        councils += [(case, kind, [*case["answers"], text]) for kind, text in variants.items()]
        answer = rng.choice(case["answers"])
        councils.append((case, "padding", [answer, _padded(answer, filler, rng)]))
        councils.append((case, "foreign", [answer for other in field_ for answer in other["answers"]]))
    scored = score_cases([_case(case, texts) for case, _, texts in councils]).proposals
    by_council = {int(str(key)): part.sort_values("agent_id") for key, part in scored.groupby("deliberation_id")}
    below: dict[str, list[tuple[bool, Case, str]]] = {}
    own, other, padding = [], [], []
    for place, (case, kind, _) in enumerate(councils):
        part: pd.DataFrame = by_council[place]
        if kind == "foreign":
            other += part["relevance"].tolist()
        elif kind == "padding":
            bare, padded = part["relevance"]
            padding.append((abs(padded - bare) <= 0.1 * bare, case, f"{bare:.3f} to {padded:.3f}"))
        else:
            *answers, variant = part["score"]
            below.setdefault(kind, []).append((variant < min(answers), case, f"{variant:.3f}, {min(answers):.3f}"))
            if kind == "echo":
                own += part["relevance"].tolist()[:-1]
    bars = {"echo": 0.97, "echo with filler": 0.95, "echo with filler in every line": 0.95, "vague": 0.8}
    return [
        Figure("answers to the own task against answers to others of the field, AUC", 0.97, _auc(own, other), len(own)),
        *(_share(f"{kind} ranks below every answer", bars.get(kind, 0.9), found) for kind, found in below.items()),
        _share("padding moves relevance by at most 10 %", 0.95, padding),
    ]


def table(figures: Iterable[Figure]) -> str:
    lines = ["| measure | bar | figure | of |", "| --- | --- | --- | --- |"]
    lines += [f"| {f.name} | {f.bar:.2f} | {f.value:.3f} | {f.count} |" for f in figures]
    return "\n".join(lines)


def _case(case: Case, texts: Sequence[str]) -> Case:
    proposals = [{"agent_id": f"{number:03d}", "content": text} for number, text in enumerate(texts)]
    return {
        "task": case["task"],
        "requirements": case["requirements"],
        "rubric": case["rubric"],
        "proposals": proposals,
    }


def _padded(answer: str, filler: Sequence[str], rng: random.Random) -> str:
    """With empty phrases before, inside and after."""
    paragraphs = answer.split("\n\n")
    middle = len(paragraphs) // 2
    before, inside, after = (" ".join(rng.sample(filler, count)) for count in (3, 2, 3))
    return "\n\n".join([before, *paragraphs[:middle], inside, *paragraphs[middle:], after])


def _auc(own: Sequence[float], other: Sequence[float]) -> float:
    mine, theirs = np.array(own)[:, None], np.array(other)[None, :]
    return float((mine > theirs).mean() + 0.5 * (mine == theirs).mean())


def _share(name: str, bar: float, found: Sequence[tuple[Any, Case, str]]) -> Figure:
    failures = [f"{case['name']}: {values}" for good, case, values in found if not good]
    return Figure(name, bar, 1 - len(failures) / len(found), len(found), failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", metavar="MODEL", help="of sentence-transformers")
    parser.add_argument(
        "--real", type=Path, metavar="FILE", help=f"answers of known strength; see {real_answers.__name__}"
    )
    parser.add_argument("--strengths", type=Path, metavar="FILE", help="JSON: the strength of each model in --real")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the reliability of the confidence")
    arguments = parser.parse_args()
    encoder = Encoder(arguments.embeddings) if arguments.embeddings else None
    for part in ("building", "final"):
        cases = read_cases(part)
        figures = [*diversity_figures(cases), *relevance_figures(cases, FILLER[part])]
        figures += diversity_figures(cases, encoder) if encoder else []
        print(f"\n## {part}: {len(cases)} cases\n\n{table(figures)}")
        for figure in figures:
            for failure in figure.failures:
                print(f"  {figure.name}: {failure}")
    if arguments.real:
        print(f"\n## real answers\n\n{real_answers.report(arguments.real, arguments.strengths, arguments.plot)}")


if __name__ == "__main__":
    main()
