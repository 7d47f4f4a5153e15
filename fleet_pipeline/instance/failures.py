"""Turns this project's errors into Dagster failures."""

from collections.abc import Mapping

import dagster as dg

# Not exported by `dagster`: the only errors that it shows as they say, without the stack of who raised them.
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from fleet_pipeline.common.errors import FleetError, InvalidInput, treatment


def failure(error: FleetError, where: str = "") -> dg.Failure:
    """The failure of an op, with a message for the UI. `where` is put before it: the field of the launchpad."""
    how_treated = treatment(error)
    return dg.Failure(f"{where}{error}", allow_retries=how_treated is None or how_treated.retry)


class Told(dg.Failure, DagsterUserCodeProcessError):
    """The failure of an op that has done its work and says what came of it. A stack trace would tell of nothing that is wrong,
    and the page of the run shows it in red, twice. It is not retried: the same would come of it.
    """

    def __init__(self, message: str, metadata: Mapping[str, dg.MetadataValue]) -> None:
        shown = SerializableErrorInfo(f"{message}\n", stack=[], cls_name=dg.Failure.__name__)
        DagsterUserCodeProcessError.__init__(self, message, user_code_process_error_infos=[shown])  # type: ignore[no-untyped-call]
        self.description = message
        self.metadata = dict(metadata)
        self.allow_retries = False


def invalid(message: str) -> dg.Failure:
    """The failure of an op with invalid input."""
    return failure(InvalidInput(message))
