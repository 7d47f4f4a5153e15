"""Messages as the broker stores them, with unparsed content."""

from dataclasses import dataclass
from datetime import datetime

# The subjects of requests.
REQUESTED = "deliberation.requested"
PLAN_APPROVED = "planning.plan.approved"
EXECUTE = "agent.cmd.execute"


@dataclass(frozen=True)
class Received:
    """A message as the broker stores it. `id` is the sender's idempotency key if set, else `stream:sequence`."""

    subject: str
    content: bytes
    id: str
    stream: str
    sequence: int
    sent_at: datetime
    deliveries: int
