"""All errors of this project that somebody can act on, and how programs handle each.

    FleetError
    ├── InvalidInput               a person must correct the input (also a ValueError)
    │   └── RequestRejected          the input to correct is a request
    ├── InvalidRecord              one record of a file cannot be read; the others can
    ├── StorageError               storage could not be read or written
    │   ├── CorruptFile              a file exists but is torn, foreign or of another version
    │   └── StorageUnavailable       storage does not respond now; a retry may succeed
    ├── EngineError                the engine cannot continue; finished results have been delivered
    │   ├── EngineCrashed            it crashed while generating; after a restart it may continue
    │   └── ModelUnavailable         the model cannot be loaded
    ├── BrokerError                events and requests cannot be exchanged
    │   ├── BrokerUnavailable        the broker cannot be reached, or did not acknowledge
    │   └── StreamMismatch           a stream on the server would lose messages
    ├── EmbeddingsUnavailable      the embedding model cannot be loaded
    ├── Refused                    a tool's call is not carried out; the text goes back to who called
    ├── SandboxUnavailable         nothing confines a program here, so none is run
    ├── MissingExtra               a part of the installation that was left out is needed
    └── SyntheticEngineRefused     production definitions would run an engine without a model

The text of an error names the location (file, line, field, address) and the remedy, and contains no secret.
`treatment` maps an error to its exit code, retries and service answer. A class without an entry has its parent's.
"""

from typing import NamedTuple


class FleetError(Exception):
    """The root of the tree."""


class InvalidInput(FleetError, ValueError):
    """Input that a person must correct."""


class RequestRejected(InvalidInput):
    """A request that cannot be accepted."""


class InvalidRecord(FleetError):
    """A record that cannot be read. Not a `ValueError`: the JSON and pydantic parsers would catch and reword that."""

    WHOLE = "(whole line)"

    def __init__(self, error: str, field: str = WHOLE) -> None:
        super().__init__(error)
        self.field = field


class StorageError(FleetError):
    """Storage could not be read or written."""


class CorruptFile(StorageError):
    """A file that is torn, foreign, or of another version."""


class StorageUnavailable(StorageError):
    """Storage that does not respond now."""


class EngineError(FleetError):
    """An engine that cannot continue."""


class EngineCrashed(EngineError):
    """An engine that crashed while generating. `request_ids` are those it was at work on; None: all that there were."""

    request_ids: frozenset[str] | None = None


class ModelUnavailable(EngineError):
    """A model that cannot be loaded. The error text says how to choose another."""


class BrokerError(FleetError):
    """A failure of the broker, or of a stream on it."""


class BrokerUnavailable(BrokerError):
    """A broker that cannot be reached or did not acknowledge. Sending again later is safe."""


class StreamMismatch(BrokerError):
    """A stream that would lose messages. The error text says how to fix it."""


class EmbeddingsUnavailable(FleetError):
    """An embedding model that cannot be loaded."""


class Refused(FleetError):
    """A call of a tool that is not carried out. The text says why, and goes back to who called."""


class SandboxUnavailable(FleetError):
    """No layer works here, so nothing that executes can be run."""


class MissingExtra(FleetError):
    """A package of an extra that is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs packages that are not installed: pip install 'fleet-pipeline[{extra}]'")


class SyntheticEngineRefused(FleetError):
    """Definitions that would run a synthetic engine outside tests: one in which no model answers."""


COMPLETED, BROKE, INVALID, SOME_FAILED = 0, 1, 2, 3  # exit codes
INTERRUPTED = 130  # the exit code that shells use for Ctrl-C


class Treatment(NamedTuple):
    """How the command line, Dagster and a NATS service handle an error."""

    exit_code: int
    retry: bool  # whether the same work may succeed at another try
    service_code: str  # error code in a service's answer, with HTTP's meaning


_TREATMENTS: dict[type[BaseException], Treatment] = {
    InvalidInput: Treatment(INVALID, retry=False, service_code="400"),
    InvalidRecord: Treatment(INVALID, retry=False, service_code="400"),
    CorruptFile: Treatment(BROKE, retry=False, service_code="500"),
    StorageUnavailable: Treatment(BROKE, retry=True, service_code="503"),
    EngineError: Treatment(BROKE, retry=True, service_code="500"),
    ModelUnavailable: Treatment(BROKE, retry=False, service_code="500"),
    BrokerUnavailable: Treatment(BROKE, retry=True, service_code="503"),
    StreamMismatch: Treatment(BROKE, retry=False, service_code="500"),
    Refused: Treatment(INVALID, retry=False, service_code="400"),
    FleetError: Treatment(BROKE, retry=False, service_code="500"),
    # For example: the user's output file cannot be written.
    OSError: Treatment(BROKE, retry=False, service_code="500"),
}


def treatment(error: BaseException) -> Treatment | None:
    """The entry of the nearest class of `error`. None means that the error is a bug of this project."""
    return next((_TREATMENTS[kind] for kind in type(error).__mro__ if kind in _TREATMENTS), None)
