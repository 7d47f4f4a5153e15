"""How answers are sampled: what engines of all kinds have in common."""

from collections.abc import Mapping
from typing import Any

from fleet_pipeline.deliberation.exchange import Request

DEFAULT_TEMPERATURE = 0.7
# An answer ends when a passage of so many tokens stands LOOP_COUNT times in a row. A passage of up to 32 tokens that
# repeats is also one of a length in this range. vLLM compares every length at every token, so the range is as narrow as
# that allows: 33 lengths take 11 us a token, 81 (16 to 96) took 26, and 128 requests make that 3 ms a step. Of 59 loops of
# SmolLM2-135M, 55 had a period of up to 64 tokens; the others end at their token limit, and are told from a cut then.
LOOP_TOKENS = range(32, 64 + 1)
# Minimum room for an answer, in tokens. With less, an answer is not worth starting.
LEAST_ROOM = 64


def parameters(request: Request, model_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters of a request. Its own win over those of the model."""
    chosen = {
        "temperature": DEFAULT_TEMPERATURE,
        "max_tokens": request.default_max_tokens,
        **model_defaults,
        **request.sampling.model_dump(exclude_none=True),
    }
    chosen["temperature"] *= request.temperature_scale
    if request.least_repetition_penalty is not None:
        own = chosen.get("repetition_penalty", 1.0)
        chosen["repetition_penalty"] = max(own, request.least_repetition_penalty)
    return chosen


def too_long(prompt_tokens: int, context: int) -> str:
    """Why a prompt is refused that leaves less than `LEAST_ROOM`."""
    return (
        f"the prompt has {prompt_tokens} tokens; the model's context is {context} "
        f"and an answer needs {LEAST_ROOM}: shorten the task or raise max_model_len"
    )
