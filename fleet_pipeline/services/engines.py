"""Starts engines from their options."""

from collections.abc import Mapping

from fleet_pipeline.common.errors import ModelUnavailable
from fleet_pipeline.inference.engine import Engine, RewardModel
from fleet_pipeline.inference.options import ModelOptions, VllmConfig
from fleet_pipeline.inference.reward import VllmRewardModel
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline.models.identity import identity
from fleet_pipeline.models.registry import resolve


class ModelProvider:
    """Starts vLLM, offline, in the calling process, or connects to a model's servers. An `EngineProvider`."""

    synthetic = False

    def __init__(self, config: VllmConfig, models: Mapping[str, ModelOptions] | None = None) -> None:
        """`models` holds the options of models by name, as tasks and `config` name them."""
        self.config = config
        self.models = models or {}
        self.model = config.model

    def config_of(self, model: str) -> VllmConfig:
        """How `model` is loaded. It differs from the configured one if a task or role names its own."""
        return self.config.of(model, self.models.get(model, ModelOptions()))

    def max_tokens(self, model: str) -> int | None:
        return self.config_of(model).sampling.max_tokens

    def start(self, model: str) -> Engine:
        config = self.config_of(model)
        if config.server is None:
            return VllmEngine.start(_located(config))
        from fleet_pipeline.inference.openai import OpenAIEngine

        if config.server.tokenizer:
            tokenizer = resolve(config.server.tokenizer)
            config = config.model_copy(update={"server": config.server.model_copy(update={"tokenizer": tokenizer})})
        return OpenAIEngine.start(config)

    def start_reward(self, model: str) -> RewardModel:
        return VllmRewardModel.start(_located(self.config_of(model)))

    def identity(self, model: str) -> str:
        """Everything besides its name that decides the output of `model`: engine options, and weights or commit."""
        config = self.config_of(model)
        if config.server is not None:  # its weights cannot be looked at: a revision tells them apart
            return config.output_options + (config.revision or "")
        try:
            location = resolve(config.target)
        except ModelUnavailable:  # starting it says so
            return config.output_options
        return config.output_options + identity(location, config.revision)


def _located(config: VllmConfig) -> VllmConfig:
    """With the place of the model's files in place of its name."""
    return config.model_copy(update={"model": resolve(config.target)})
