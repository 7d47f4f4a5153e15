"""How long scores take: `python -m fleet_pipeline_tests.benchmarks.scoring [DELIBERATIONS] [--profile]`.

10,000 deliberations of 3 proposals of 300 words by default, lexically, in as many processes as there are cores;
then one council of 64. Proposals are made of answers of the cases, their code blocks as they are, lengthened with prose of
others, with 15 % of the words outside of code replaced, so that no two are alike; the task of each deliberation is one
of the cases' with a number.
"""

import cProfile
import os
import pstats
import random
import resource
import sys
import time
from typing import Any

from fleet_pipeline.scoring.cases import score_cases
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
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    count = numbers[0] if numbers else 10_000
    seconds(make(10, 3))  # imports and word lists
    cases = make(count, 3)
    before = peak()
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    if profile:
        profile.enable()
    processes = 1 if profile else os.cpu_count() or 1
    took = seconds(cases, processes)
    if profile:
        profile.disable()
    print(
        f"{count} deliberations of 3 x {WORDS} words, {processes} processes: {took:.1f} s, {1e3 * took / count:.2f} ms each"
    )
    print(f"peak memory {peak():.2f} GB, of which {before:.2f} GB before scoring (the texts among them)")
    large = seconds(make(1, 64))
    print(f"one council of 64: {large:.2f} s, {large / 64 / (took / count / 3):.1f} times as long a proposal")
    if profile:
        pstats.Stats(profile).sort_stats("cumtime").print_stats("fleet_pipeline|sklearn", 25)


if __name__ == "__main__":
    main()
