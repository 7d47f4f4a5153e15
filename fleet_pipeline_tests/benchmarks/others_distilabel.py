"""Councils as a distilabel pipeline on a vLLM server: `others.py` runs this in an environment with distilabel.

    python others_distilabel.py SEATS.json URL

Three `ChatGeneration` steps, one after another. distilabel has one seed and one length for all prompts of a step, so its client is
extended by a table of those of each prompt.
"""

import json
import os
import sys
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import ChatGeneration

PHASES = ("propose", "critique", "revise")
BATCH = 64


def _generated(url: str) -> int:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as response:
        lines = response.read().decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total")))


class Seeded(OpenAILLM):
    """Gives each prompt its own seed and length."""

    async def agenerate(self, input: Any, num_generations: int = 1) -> Any:
        one = _table()[json.dumps([{"role": m["role"], "content": m["content"]} for m in input])]
        return await super().agenerate(
            input=input,
            max_new_tokens=one["length"],
            temperature=one["temperature"],
            top_p=one["top_p"],
            extra_body={"seed": one["seed"], "ignore_eos": True},
        )


@cache
def _table() -> dict[str, dict[str, Any]]:
    # Steps are processes of their own, and find the file in the environment.
    seats = json.loads(Path(os.environ["SEATS"]).read_text())
    return {json.dumps(seat[phase]["messages"]): seat[phase] for seat in seats for phase in PHASES}


def main() -> None:
    file, url = sys.argv[1:]
    os.environ["SEATS"] = file
    seats = json.loads(Path(file).read_text())
    before = _generated(url)
    with tempfile.TemporaryDirectory() as cache, Pipeline(name="councils", cache_dir=cache) as pipeline:
        data = [{phase: seat[phase]["messages"] for phase in PHASES} for seat in seats]
        step: Any = LoadDataFromDicts(data=data, batch_size=BATCH)
        for phase in PHASES:
            asked = ChatGeneration(
                name=phase,
                llm=Seeded(model="m", base_url=url, api_key="none", timeout=3_600),
                input_mappings={"messages": phase},
                output_mappings={"generation": f"{phase}_text", "model_name": f"{phase}_model"},
                input_batch_size=BATCH,
                add_raw_output=False,
                add_raw_input=False,
            )
            step >> asked  # the pipeline's own syntax for edges
            step = asked
        said = pipeline.run(use_cache=False)
        ended = time.time()
        assert len(said["default"]["train"]) == len(seats)
    print(json.dumps({"ended": ended, "tokens": _generated(url) - before}))


if __name__ == "__main__":
    main()
