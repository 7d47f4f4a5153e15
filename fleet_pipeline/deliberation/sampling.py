"""Sampling parameters of an agent's answers."""

from __future__ import annotations

from pydantic import Field

from fleet_pipeline.common.strict_model import StrictModel


class Sampling(StrictModel):
    """Sampling parameters; an absent one is decided by the next layer.

    Layers, the first that says something wins: the task, the role, the run's settings, and last
    the model's own `generation_config.json`.
    """

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, description="-1 or 0: no limit.")
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    max_tokens: int | None = Field(
        default=None, ge=1, le=131_072, description="Longest answer, in tokens, reasoning included."
    )

    stop: list[str] | None = Field(
        default=None, max_length=16, description="Texts at which an answer ends; they are no part of it."
    )

    def over(self, base: Sampling) -> Sampling:
        """These parameters, with absent ones taken from `base`."""
        return base.model_copy(update=self.model_dump(exclude_none=True))

    def set_names(self) -> set[str]:
        """The names of those that are not absent."""
        return set(self.model_dump(exclude_none=True))
