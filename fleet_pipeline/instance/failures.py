"""Our errors as Dagster's."""

from __future__ import annotations

import dagster as dg

from fleet_pipeline.common.errors import FleetError, InvalidInput, treatment


def failure(error: FleetError, where: str = "") -> dg.Failure:
    """The failure of an op, whose message a person reads in the UI. `where` is the field of the launchpad."""
    known = treatment(error)
    return dg.Failure(f"{where}{error}", allow_retries=known is None or known.retry)


def invalid(message: str) -> dg.Failure:
    """The failure of an op that was given what cannot be right."""
    return failure(InvalidInput(message))
