"""Reward models: how good an answer is, as one number, by a model that was trained on preferences.

Any model that vLLM's pooling runner loads as a classifier with one class. Only differences of its numbers mean something:
such models are trained so that the logistic of a difference is the chance that a person prefers the one answer
(Bradley-Terry; Ouyang et al. 2022, arXiv:2203.02155, section 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

from fleet_pipeline.common.errors import EngineError
from fleet_pipeline.deliberation.exchange import Message
from fleet_pipeline.inference.chat_format import ChatFormat
from fleet_pipeline.inference.engine import Reward
from fleet_pipeline.inference.loading import free, load, shut_down
from fleet_pipeline.inference.options import VllmConfig


class VllmRewardModel:
    """A `RewardModel` that is loaded. Create it with `start`."""

    kind = "vllm"

    def __init__(self, llm: Any, config: VllmConfig) -> None:
        self._llm = llm
        self._format = ChatFormat(
            llm.get_tokenizer(), config.model, config.template, config.chat_template_kwargs, config.reasoning_parser
        )
        self._longest: int = llm.model_config.max_model_len

    @classmethod
    def start(cls, config: VllmConfig) -> VllmRewardModel:
        """Load the model. Raises `ModelUnavailable`, or `EngineError` if it is no reward model."""
        llm, _ = load(config, "pooling")
        try:
            classes = llm.model_config.hf_config.num_labels
            if "classify" not in llm.supported_tasks or classes != 1:
                raise EngineError(
                    f"{config.model} is no reward model: expected a classifier with one class, such as "
                    f"LlamaForSequenceClassification with num_labels 1 (it has {classes})"
                )
            return cls(llm, config)
        except BaseException:
            shut_down(llm.llm_engine)
            del llm
            free()
            raise

    def rate(self, chats: Sequence[Sequence[Message]]) -> list[Reward]:
        from vllm import PoolingParams

        prompts = [self._format.encode(chat, answer_follows=False) for chat in chats]
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= self._longest]
        try:
            outputs = self._llm.encode(
                [{"prompt_token_ids": prompts[index]} for index in fitting],
                pooling_params=PoolingParams(use_activation=False),  # else differences shrink near the ends
                pooling_task="classify",
                use_tqdm=False,
            )
        except Exception as error:
            raise EngineError(f"the reward model broke: {type(error).__name__}: {error}") from error
        values = {index: float(output.outputs.data[0]) for index, output in zip(fitting, outputs, strict=True)}
        if not all(map(math.isfinite, values.values())):
            raise EngineError("the reward model gave a number that is none (NaN or infinite): set its dtype to float32")
        return [Reward(values.get(index), len(prompt)) for index, prompt in enumerate(prompts)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        core, self._llm = self._llm.llm_engine, None
        shut_down(core)
        del core
        free()
