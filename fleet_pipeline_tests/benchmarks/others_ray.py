"""Councils as plain Ray Data stages on one engine: `others.py` runs this in an environment with Ray and vLLM.

    python others_ray.py SEATS.json MODEL

The engine is an actor that all stages share. Every stage hands it all of its prompts at once.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Engine:
    """One `LLM`, started once."""

    def __init__(self, model: str, context: int) -> None:
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
        from vllm import LLM

        self.llm = LLM(
            model,
            max_model_len=context,
            max_num_seqs=128,
            enforce_eager=True,
            enable_chunked_prefill=False,
            block_size=32,  # as our engine on CPU
        )
        self.tokens = 0

    def generate(self, asked: list[dict[str, Any]]) -> list[str]:
        from vllm import SamplingParams

        prompts: Any = [{"prompt_token_ids": one["prompt"]} for one in asked]
        params = [
            SamplingParams(
                max_tokens=one["length"],
                seed=one["seed"],
                temperature=one["temperature"],
                top_p=one["top_p"],
                ignore_eos=True,
            )
            for one in asked
        ]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        self.tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
        return [output.outputs[0].text for output in outputs]

    def generated(self) -> tuple[int, int]:
        """(tokens, threads that it computed with)."""
        import torch

        return self.tokens, torch.get_num_threads()


def main() -> None:
    import ray

    seats = json.loads(Path(sys.argv[1]).read_text())
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    # Ray gives an actor so many threads as it has CPUs, one by default. The engine has all cores, as ours.
    threads = {"env_vars": {"OMP_NUM_THREADS": str(os.cpu_count())}}
    engine = ray.remote(num_cpus=1, runtime_env=threads)(Engine).remote(sys.argv[2], 4_096)

    def stage(phase: str) -> Any:
        def ask(batch: dict[str, Any]) -> dict[str, Any]:
            asked = [json.loads(row)[phase] for row in batch["row"]]
            batch[f"{phase}_text"] = ray.get(engine.generate.remote(asked))
            return batch

        return ask

    data = ray.data.from_items([{"row": json.dumps(seat)} for seat in seats], override_num_blocks=1)
    for phase in ("propose", "critique", "revise"):
        data = data.map_batches(stage(phase), batch_size=None)
    assert len(data.take_all()) == len(seats)
    ended = time.time()
    tokens, threads_used = ray.get(engine.generated.remote())
    print(json.dumps({"ended": ended, "tokens": tokens, "threads": threads_used}))


if __name__ == "__main__":
    main()
