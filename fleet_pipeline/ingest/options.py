"""Limits on requests (size, age, number), and the inbox folder that takes them besides the broker."""

from pydantic import Field

from fleet_pipeline.common.json_input import MAX_BYTES
from fleet_pipeline.common.strict_model import StrictModel


class RequestOptions(StrictModel):
    """What is asked for from outside: how much of it, how old, and where besides the broker."""

    inbox: str | None = Field(
        default=None, description="Folder (fsspec URL) where backlogs are put to be run; <storage>/inbox when absent."
    )
    max_age_seconds: float = Field(
        default=3 * 86_400, gt=0, description="A request that has waited longer is refused, not run."
    )
    max_bytes: int = Field(default=MAX_BYTES, ge=1_000, le=MAX_BYTES, description="Of one request.")
    most_per_run: int = Field(
        default=500, ge=1, le=5_000, description="Requests taken together; they share a run and an engine start."
    )

    def inbox_url(self, storage: str) -> str:
        return self.inbox or f"{storage.rstrip('/')}/inbox"
