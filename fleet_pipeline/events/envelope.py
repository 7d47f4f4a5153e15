"""The envelope of every event."""

from datetime import UTC, datetime

from pydantic import Field

from fleet_pipeline.common.json_input import JsonObject
from fleet_pipeline.common.strict_model import StrictModel

ENVELOPE_VERSION = 1
PRODUCER = "fleet-pipeline"
AGENT_RESULTS = "agent.results"

# An event ready to send: subject, idempotency key, and the envelope as UTF-8 JSON.
Sealed = tuple[str, str, bytes]


class Envelope(StrictModel):
    """One event. `event_type` is also its subject, but of `agent.results`, whose subject goes on with the task's id.

    Delivery is at least once. `idempotency_key` is the same whenever the same fact is sent again;
    inside the stream's duplicate window the broker drops the repeat, beyond it consumers can.
    """

    event_type: str
    schema_version: int = ENVELOPE_VERSION
    idempotency_key: str
    correlation_id: str = Field(description="The task id: events of one task's councils belong together.")
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC), description="When the event was made.")
    producer: str = PRODUCER
    payload: JsonObject

    def sealed(self) -> Sealed:
        return self.subject, self.idempotency_key, self.model_dump_json().encode()

    @property
    def subject(self) -> str:
        return f"{self.event_type}.{self.correlation_id}" if self.event_type == AGENT_RESULTS else self.event_type
