"""Starts engines from their options."""

from collections.abc import Mapping

from fleet_pipeline.common.errors import ModelUnavailable
from fleet_pipeline.inference.engine import Engine, RewardModel
from fleet_pipeline.inference.options import ModelOptions, VllmConfig
from fleet_pipeline.inference.reward import VllmRewardModel
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline.models.identity import identity
from fleet_pipeline.models.registry import resolve


class VllmProvider:
    """Starts vLLM, offline, in the calling process. An `EngineProvider`."""

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
        return VllmEngine.start(self.config_of(model).model_copy(update={"model": resolve(model)}))

    def start_reward(self, model: str) -> RewardModel:
        return VllmRewardModel.start(self.config_of(model).model_copy(update={"model": resolve(model)}))

    def identity(self, model: str) -> str:
        """Everything besides its name that decides the output of `model`: engine options, and weights or commit."""
        config = self.config_of(model)
        try:
            location = resolve(model)
        except ModelUnavailable:  # starting it says so
            return config.output_options
        return config.output_options + identity(location, config.revision)
