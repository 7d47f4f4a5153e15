"""The base of options, roles and envelopes: values that never change, under names that are all known."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
