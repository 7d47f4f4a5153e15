"""Every error that this project raises for somebody to act on, and what each means to whoever is called.

    FleetError
    ├── InvalidInput               a person must correct what was given (a ValueError as well)
    │   └── RequestRejected          ... of a request that came as a message
    ├── InvalidRecord              one record of a file cannot be read; its neighbours can
    ├── StorageError               storage could not be read or written
    │   ├── CorruptFile              a file is there and is not what it should be
    │   └── StorageUnavailable       storage does not answer now; another try may succeed
    ├── EngineError                the engine cannot go on; what had finished has been handed over
    │   ├── EngineCrashed            it broke while generating; started again, it may go on
    │   └── ModelUnavailable         the model cannot be loaded
    ├── BrokerError                events and requests cannot pass
    │   ├── BrokerUnavailable        the broker cannot be reached, or did not acknowledge
    │   └── StreamMismatch           a stream on the server would lose what is sent to it
    ├── EmbeddingsUnavailable      the embedding model cannot be loaded
    └── ScriptedEngineRefused      production definitions would run a scripted engine

A message names the place (file, line, field, address) and the remedy, and holds no secret. `treatment` maps an error
to exit code, retries and the answer of a service, in one table; an error without a line has its parent's.
"""

from __future__ import annotations

from typing import NamedTuple


class FleetError(Exception):
    """The root of the tree."""


class InvalidInput(FleetError, ValueError):
    """Input that a person must correct."""


class RequestRejected(InvalidInput):
    """A request that cannot be taken."""


class InvalidRecord(FleetError):
    """A record that cannot be read. Not a `ValueError`, which JSON's and pydantic's readers catch and reword."""

    WHOLE = "(whole line)"

    def __init__(self, error: str, field: str = WHOLE) -> None:
        super().__init__(error)
        self.field = field


class StorageError(FleetError):
    """Storage could not be read or written."""


class CorruptFile(StorageError):
    """A file that is torn, foreign, or of another version."""


class StorageUnavailable(StorageError):
    """Storage that does not answer now."""


class EngineError(FleetError):
    """An engine that cannot go on."""


class EngineCrashed(EngineError):
    """An engine that broke while generating."""


class ModelUnavailable(EngineError):
    """A model that cannot be loaded. The message says how to choose another."""


class BrokerError(FleetError):
    """The broker, or a stream on it, does not do its part."""


class BrokerUnavailable(BrokerError):
    """A broker that cannot be reached or did not acknowledge. Sending again later is safe."""


class StreamMismatch(BrokerError):
    """A stream that would lose what is sent to it. The message says how to mend it."""


class EmbeddingsUnavailable(FleetError):
    """An embedding model that cannot be loaded."""


class ScriptedEngineRefused(FleetError):
    """Definitions that would run a scripted engine outside tests."""


COMPLETED, BROKE, INVALID, SOME_FAILED = 0, 1, 2, 3  # exit codes
INTERRUPTED = 130  # as shells have it for Ctrl-C


class Treatment(NamedTuple):
    """What an error means: to the shell, to Dagster, and to whoever asked a service."""

    exit_code: int
    retry: bool  # whether the same work may succeed when it is tried again
    service_code: str  # of an answer on NATS, as HTTP has them


_TREATMENTS: dict[type[BaseException], Treatment] = {
    InvalidInput: Treatment(INVALID, retry=False, service_code="400"),
    InvalidRecord: Treatment(INVALID, retry=False, service_code="400"),
    CorruptFile: Treatment(BROKE, retry=False, service_code="500"),
    StorageUnavailable: Treatment(BROKE, retry=True, service_code="503"),
    EngineError: Treatment(BROKE, retry=True, service_code="500"),
    ModelUnavailable: Treatment(BROKE, retry=False, service_code="500"),
    BrokerUnavailable: Treatment(BROKE, retry=True, service_code="503"),
    StreamMismatch: Treatment(BROKE, retry=False, service_code="500"),
    FleetError: Treatment(BROKE, retry=False, service_code="500"),
    # The operating system's own: a file of a person's that cannot be written, say.
    OSError: Treatment(BROKE, retry=False, service_code="500"),
}


def treatment(error: BaseException) -> Treatment | None:
    """The line of the nearest class of `error`; None for an error that is nobody's to act on but ours."""
    return next((_TREATMENTS[kind] for kind in type(error).__mro__ if kind in _TREATMENTS), None)
