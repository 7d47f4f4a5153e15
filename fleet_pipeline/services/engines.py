"""Starts engines from their options."""

from fleet_pipeline.inference.engine import Engine
from fleet_pipeline.inference.vllm import VllmConfig, VllmEngine
from fleet_pipeline.models.identity import identity
from fleet_pipeline.models.registry import resolve


class VllmProvider:
    """Starts vLLM, offline, in the calling process. An `EngineProvider`."""

    def __init__(self, config: VllmConfig) -> None:
        self.config = config
        self.model = config.model

    def start(self, model: str) -> Engine:
        """Load `model`. It differs from the configured one if a task names its own."""
        return VllmEngine.start(self.config.model_copy(update={"model": resolve(model)}))

    def identity(self, model: str) -> str:
        """Everything besides its name that decides the output of `model`: engine options, and weights or commit."""
        return self.config.output_options + identity(resolve(model), self.config.revision)
