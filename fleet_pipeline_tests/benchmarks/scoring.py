"""How long scores take: `python -m fleet_pipeline_tests.benchmarks.scoring [DELIBERATIONS] [--profile]`.

10,000 deliberations of 3 proposals of 300 words by default, lexically, in as many processes as there are cores;
then one council of 64. Proposals are made of answers of the cases, their code blocks as they are, lengthened with prose of
others, with 15 % of the words outside of code replaced, so that no two are alike; the task of each deliberation is one
of the cases' with a number.
"""

import argparse
import cProfile
import os
import pstats
import random
import resource
import time
from typing import Any

from fleet_pipeline.scoring.cases import score_cases
from fleet_pipeline_tests.benchmarks.figures import Line, publish, takes_json
from fleet_pipeline_tests.scoring import measure

WORDS = 300


def make(count: int, seats: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    cases = measure.read_cases("building")
    prose = [line for case in cases for answer in case["answers"] for line in _prose(answer)]
    words = [word for case in cases for answer in case["answers"] for line in _prose(answer) for word in line.split()]

    def text(answers: list[str]) -> str:
        lines, length, fenced = [], 0, False
        for line in [*rng.choice(answers).splitlines(), *rng.sample(prose, 12)]:
            code = fenced or line.lstrip().startswith("```")
            fenced ^= line.lstrip().startswith("```")
            if length >= WORDS and not code:
                break
            parts = line.split(" ")
            length += len(parts)
            lines.append(line if code else " ".join(w if rng.random() < 0.85 else rng.choice(words) for w in parts))
        return "\n".join(lines)

    return [
        {
            "task": f"{case['task']} Ticket {number}.",
            "requirements": case["requirements"],
            "rubric": case["rubric"],
            "proposals": [{"agent_id": f"a{seat}", "content": text(case["answers"])} for seat in range(seats)],
        }
        for number, case in ((number, cases[number % len(cases)]) for number in range(count))
    ]


def _prose(answer: str) -> list[str]:
    parts = answer.split("```")[::2]
    return [line for part in parts for line in part.splitlines() if len(line.split()) > 8]


def seconds(cases: list[dict[str, Any]], processes: int = 1) -> float:
    began = time.perf_counter()
    score_cases(cases, processes=processes)
    return time.perf_counter() - began


def peak() -> float:
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, children) / 1e6  # of the largest process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--profile", action="store_true", help="in one process, and print where the time goes")
    takes_json(parser)
    arguments = parser.parse_args()
    seconds(make(10, 3))  # imports and word lists
    cases = make(arguments.count, 3)
    before = peak()
    profile = cProfile.Profile() if arguments.profile else None
    if profile:
        profile.enable()
    took = seconds(cases, 1 if profile else os.cpu_count() or 1)
    if profile:
        profile.disable()
    large = seconds(make(1, 64))
    lines = [
        Line.one(f"seconds for {arguments.count}", took, "at most 30 for 10,000"),
        Line.one("ms a deliberation", 1e3 * took / arguments.count),
        Line.one("peak memory of the largest process, GB", peak()),
        Line.one("of it before scoring, the texts among it", before),
        Line.one("a proposal in a council of 64 / of 3", large / 64 / (took / arguments.count / 3)),
    ]
    publish(f"deliberations of 3 x {WORDS} words, {os.cpu_count()} cores", lines, arguments.json)
    if profile:
        pstats.Stats(profile).sort_stats("cumtime").print_stats("fleet_pipeline|sklearn", 25)


if __name__ == "__main__":
    main()
