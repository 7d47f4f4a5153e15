"""The meaning of `--model NAME_OR_PATH`. The package's own models resolve to local folders; vLLM gets all others as given."""

from pathlib import Path

FLEET_TINY = "fleet-tiny"


def resolve(model: str) -> str:
    """The folder of one of this package's models, or `model` unchanged. No model is ever taken in place of another."""
    return str(Path(__file__).with_name("fleet_tiny")) if model == FLEET_TINY else model
