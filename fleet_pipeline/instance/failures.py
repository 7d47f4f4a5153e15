"""Turns this project's errors into Dagster failures."""

import dagster as dg

from fleet_pipeline.common.errors import FleetError, InvalidInput, treatment


def failure(error: FleetError, where: str = "") -> dg.Failure:
    """The failure of an op, with a message for the UI. `where` is put before it: the field of the launchpad."""
    how_treated = treatment(error)
    return dg.Failure(f"{where}{error}", allow_retries=how_treated is None or how_treated.retry)


def invalid(message: str) -> dg.Failure:
    """The failure of an op with invalid input."""
    return failure(InvalidInput(message))
