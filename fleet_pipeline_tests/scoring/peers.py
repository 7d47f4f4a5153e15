"""What it tells, and costs, how likely an answer is to another seat of the council: `prompt_logprobs` in one prefill.

    python -m fleet_pipeline_tests.scoring.peers MODEL --real FILE [--instructions 80]

Another seat is asked to propose, and this answer is put into its mouth: the mean log-probability of the answer's tokens after
that seat's prompt. FILE has answers of models whose strength is known (`real_answers`); it is not in this repository.
It is a measurement and no part of the product: docs/scores.md says why.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fleet_pipeline.deliberation.protocol import deliberate
from fleet_pipeline.inference.chat_format import ChatFormat
from fleet_pipeline.inference.loading import free, load, shut_down
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.models.registry import resolve
from fleet_pipeline_tests.scoring import real_answers
from fleet_pipeline_tests.scoring.real_answers import Answer
from fleet_pipeline_tests.support.councils import a_deliberation, opening

CONTEXT = 8_192


def likelihoods(llm: Any, format_: ChatFormat, cases: list[dict[str, Any]]) -> tuple[list[float], int, float]:
    """(mean log-probability of each answer to a neighbour, prompt tokens, seconds), in the order of the cases' proposals."""
    from vllm import SamplingParams

    prompts, answers = [], []
    for number, case in enumerate(cases):
        _, neighbour, *_ = opening(deliberate(a_deliberation(f"t{number}", description=case["task"])))
        prompt = format_.encode(neighbour.request.messages)
        for proposal in case["proposals"]:
            answer = format_.tokenizer.encode(proposal["content"], add_special_tokens=False) or [0]
            prompts.append({"prompt_token_ids": [*prompt, *answer][: CONTEXT - 1]})
            answers.append(len(prompts[-1]["prompt_token_ids"]) - len(prompt))
    began = time.monotonic()
    outputs = llm.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    seconds = time.monotonic() - began
    means = []
    for output, length in zip(outputs, answers, strict=True):
        tokens = zip(output.prompt_token_ids[-length:], output.prompt_logprobs[-length:], strict=True)
        means.append(float(np.mean([known[token].logprob for token, known in tokens])))
    return means, sum(len(one["prompt_token_ids"]) for one in prompts), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--real", type=Path, required=True, metavar="FILE")
    parser.add_argument("--instructions", type=int, default=80)
    arguments = parser.parse_args()
    cases = real_answers.read(arguments.real)[: arguments.instructions]
    config = VllmConfig(model=resolve(arguments.model), max_model_len=CONTEXT, max_num_seqs=16)
    llm, _ = load(config)
    found, tokens, seconds = likelihoods(llm, ChatFormat(llm.get_tokenizer(), config.model), cases)
    shut_down(llm.llm_engine)
    del llm
    free()
    known = real_answers.scored(cases, real_answers.STRENGTH, real_answers.SIGNALS)
    likely = iter(found)
    by_name = {(n, one["agent_id"]): next(likely) for n, case in enumerate(cases) for one in case["proposals"]}
    names = {strength: name for name, strength in real_answers.STRENGTH.items()}
    answers = [
        Answer(
            one.instruction,
            one.strength,
            one.length,
            {**one.values, "likely": by_name[one.instruction, names[one.strength]]},
        )
        for one in known
    ]
    print(f"{len(found)} answers, {tokens:,} tokens in {seconds:.0f} s")
    for like_length in (False, True):
        row = real_answers.bootstrap(real_answers.pairs(answers, "likely", like_length))
        print(f"pairs{' of like length' if like_length else ''}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    print(f"a weak model wins: {real_answers.bootstrap(real_answers.weak_winners(answers, 'likely')).value:.3f}")
    ranks = pd.DataFrame([one.values for one in answers]).corr(method="spearman")["likely"].drop("likely")
    print("rank correlation with", ", ".join(f"{name} {value:.2f}" for name, value in ranks.items()))


if __name__ == "__main__":
    main()
