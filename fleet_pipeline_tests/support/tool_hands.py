"""An agent's calls by hand: where it acts, and one call at a time."""

from pathlib import Path

from fleet_pipeline.deliberation.exchange import Action, Done, Place
from fleet_pipeline.tools.hands import Hands
from fleet_pipeline.tools.hands_process import HandsProcess


def place(source: Path | None, agent: str = "agent-dev-001", deliberation: str = "t.dev") -> Place:
    return Place(deliberation, agent, "DEV", folder=str(source) if source else None)


def do(hands: Hands | HandsProcess, action: Action) -> Done:
    """What came of the action, once it has been done."""
    hands.submit(action.name, action)
    found: list[tuple[str, Done]] = []
    while not found:
        found = hands.take(0.5)
    [(name, done)] = found
    assert name == action.name
    return done
