"""The real model of the tests: SmolLM2-135M-Instruct, converted once, in the user's cache."""

from fleet_pipeline.models.conversion import get

NAME = "smollm2-135m"


def smollm2() -> str:
    """Its folder. Fetched (93 MB) and converted (half a minute) where it is not here yet."""
    return str(get(NAME))
