"""Starts engines from their options."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from fleet_pipeline.common.errors import ModelUnavailable
from fleet_pipeline.inference.engine import ALL_CHECKS, Engine, RewardModel, origin_of
from fleet_pipeline.inference.options import ModelOptions, Price, ServerOptions, VllmConfig
from fleet_pipeline.inference.reward import VllmRewardModel
from fleet_pipeline.inference.router import LocalModel, Router, Speaker, fit_together
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline.models.identity import folder_digest, identity
from fleet_pipeline.models.registry import resolve
from fleet_pipeline.services.memory import share_of_memory


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

    def price_of(self, model: str) -> Price | None:
        return self.config_of(model).price

    def start(self, *models: str) -> Engine:
        if len(models) == 1:
            return self._speaker(models[0])
        configs = {model: self.config_of(model) for model in models}
        served, local = {}, {}
        for model, config in configs.items():
            if config.server is None:
                folder = Path(resolve(config.target))  # one that is missing is found before hours of work
                local[model] = LocalModel(partial(self._speaker, model), share_of_memory(config, folder))
        with ExitStack() as connected:
            for model in configs.keys() - local.keys():
                served[model] = connected.enter_context(self._speaker(model))
            connected.pop_all()
        together = len(local) if fit_together(one.share for one in local.values()) else 1
        limit = self.config.max_num_seqs * together + sum(_limit(one.server) for one in configs.values() if one.server)
        return Router(served, local, origin_of("vllm", ALL_CHECKS), limit, self.config.max_restarts)

    def _speaker(self, model: str) -> Speaker:
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
        adapter = folder_digest(Path(config.lora)) if config.lora else ""
        return config.output_options + identity(location, config.revision) + adapter


def _limit(server: ServerOptions) -> int:
    return server.max_in_flight * len(server.urls)


def _located(config: VllmConfig) -> VllmConfig:
    """With the place of the model's files in place of its name."""
    return config.model_copy(update={"model": resolve(config.target)})
