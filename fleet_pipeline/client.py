"""The public client: submit tasks, ask for their status.

from fleet_pipeline.client import Client

with Client("nats://broker:4222") as fleet:
    submitted = fleet.submit({"task_id": "rate-limiter", "description": "...", "roles": ["DEV", "QA"]})
    result = fleet.wait(submitted.deliberation_ids[0], submitted.request_id)
"""

from fleet_pipeline.api.client import AsyncClient, Client, Submitted
from fleet_pipeline.common.errors import BrokerUnavailable, InvalidInput, StreamMismatch
from fleet_pipeline.events.payloads import DeliberationStatus, Status

__all__ = [
    "AsyncClient",
    "BrokerUnavailable",
    "Client",
    "DeliberationStatus",
    "InvalidInput",
    "Status",
    "StreamMismatch",
    "Submitted",
]
