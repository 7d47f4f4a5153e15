"""The JSON Schemas of all events and requests, as `fleet events schema` prints them."""

from typing import Any, Literal

from pydantic import BaseModel

from fleet_pipeline.common.messages import EXECUTE, PLAN_APPROVED, REQUESTED
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.payloads import PAYLOADS
from fleet_pipeline.ingest.requests import AgentCommand, DeliberationRequested, PlanApproved

# Incoming messages, bare or in an envelope.
REQUESTS: dict[str, type[BaseModel]] = {
    REQUESTED: DeliberationRequested, PLAN_APPROVED: PlanApproved, EXECUTE: AgentCommand
}  # fmt: skip


def schemas() -> dict[str, Any]:
    """The JSON Schema (2020-12) of each event and request, by event type. Events are sent in whole envelopes; requests
    are accepted with or without one."""
    events = {event_type: _schema(event_type, payload, "serialization") for event_type, payload in PAYLOADS.items()}
    requests = {event_type: _schema(event_type, payload, "validation") for event_type, payload in REQUESTS.items()}
    return events | requests


def _schema(event_type: str, payload: type[BaseModel], mode: Literal["serialization", "validation"]) -> dict[str, Any]:
    envelope = Envelope.model_json_schema(mode=mode)
    inner = payload.model_json_schema(mode=mode, ref_template="#/$defs/{model}")
    definitions = inner.pop("$defs", {})
    properties = envelope["properties"] | {"event_type": {"const": event_type}, "payload": inner}
    document = envelope | {"title": event_type, "properties": properties, "additionalProperties": True}
    if mode == "serialization":
        document["required"] = list(properties)
    else:
        document = {"title": event_type, "anyOf": [document | {"required": ["event_type", "payload"]}, inner]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "$defs": definitions}
