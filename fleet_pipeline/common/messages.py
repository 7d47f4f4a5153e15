"""Messages as a broker keeps them, before anybody has read what they say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

# The subjects on which work is asked for.
REQUESTED = "deliberation.requested"
PLAN_APPROVED = "planning.plan.approved"


@dataclass(frozen=True)
class Received:
    """A message as the broker keeps it. `id` is the sender's idempotency key, where there is one."""

    subject: str
    content: bytes
    id: str
    stream: str
    sequence: int
    sent_at: datetime
    deliveries: int
