"""Connections to the broker. Without a broker they fail within seconds, and the error says what to do."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from fleet_pipeline.common.errors import BrokerUnavailable, InvalidInput
from fleet_pipeline.events.options import NatsOptions, without_secrets
from fleet_pipeline.events.remedies import NO_TLS, remedy

T = TypeVar("T")
CLOSE_SECONDS = 0.5  # to close a connection that was never made


class Refused(TimeoutError):
    """The broker refused an operation, which then got no answer: no permission, or no room."""


def run_blocking(options: NatsOptions, conversation: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Connect, hold the conversation on that connection, and return its result: the one way in from blocking code.

    Raises `BrokerUnavailable`; its text holds no secrets.
    """

    async def connected() -> T:
        async with connect(options) as connection:
            return await conversation(connection)

    with unavailable(options):
        return asyncio.run(connected())


@contextmanager
def unavailable(options: NatsOptions, refused: Sequence[str] = ()) -> Iterator[None]:
    """Turn the block's network and NATS errors into `BrokerUnavailable`. Its text holds no secrets."""
    try:
        yield
    except (OSError, TimeoutError, _nats_error()) as error:
        denied = isinstance(error, TimeoutError) and refused
        detail = refused[-1] if denied else str(error) or "no answer"
        what_to_do = remedy(error, detail, options)
        # The error text of a server or library may repeat the credentials it was given.
        for secret in _secrets(options):
            detail = detail.replace(secret, "***")
        servers = without_secrets(options.url or "")
        told = f"NATS at {servers}: {type(error).__name__}: {detail}"
        raise BrokerUnavailable(f"{told}; {what_to_do}" if what_to_do else told) from None


@asynccontextmanager
async def connect(
    options: NatsOptions, *, lasting: bool = False, refused: list[str] | None = None
) -> AsyncIterator[Any]:
    """Connect to the broker while the block runs. Without a broker this fails within seconds.

    `lasting`: after the first connection, reconnect after every break for as long as the block runs.
    `refused` collects the broker's messages about what it refuses. The operation itself gets no answer and
    times out. Raises `Refused` for such a timeout.
    """
    from nats.errors import NoServersError
    from nats.js.errors import APIError

    refusals = refused if refused is not None else []
    failures: list[Exception] = []  # of the way to the broker

    async def record(error: Exception) -> None:
        """Replaces the callback of nats-py, which would log the error."""
        if "permissions violation" in str(error).lower():
            refusals.append(str(error))
        elif isinstance(error, APIError):
            # nats-py 2.16 raises a refused event's error where it should give it to whoever waits for the ack.
            refusals.append(error.description or str(error))
        else:
            failures.append(error)

    _check_seed(options)
    connection = _client(options, refusals)
    try:
        await connection.connect(
            options.servers,
            name="fleet-pipeline",
            connect_timeout=5,
            allow_reconnect=lasting,
            # The first connection counts as an attempt. The default is 60 attempts, 2 s apart.
            max_reconnect_attempts=1,
            reconnect_time_wait=0.1,
            error_cb=record,
            inbox_prefix=options.inbox_prefix.encode(),
            **_credentials(options),
        )
    except BaseException as error:
        # nats-py leaves the socket of a failed handshake open, and waits for ever for the end of a failed TLS handshake.
        with suppress(Exception):
            await asyncio.wait_for(connection.close(), CLOSE_SECONDS)
        if isinstance(error, NoServersError) and failures:  # why there is none
            raise failures[-1] from None
        raise
    if lasting:
        # Set only now: with -1, the first connection would be tried forever.
        connection.options["max_reconnect_attempts"] = -1
    try:
        yield connection
    except TimeoutError as error:
        if refusals:
            raise Refused(refusals[-1]) from error
        raise
    finally:
        await connection.close()


def _client(options: NatsOptions, refusals: list[str]) -> Any:
    """A client that sends no credentials before the connection is encrypted, where the options ask for that.

    nats-py encrypts if the *broker* says so: to one that does not, or to somebody in its place, it sent user and
    password in clear, with tls:// in the URL and certificates in the settings (nats.py issue 912). There is no public
    way in between the broker's greeting and the login, so this overrides the method that makes the login.
    """
    from nats.aio.client import Client
    from nats.errors import Error

    class EncryptedFirst(Client):  # type: ignore[misc]
        def _connect_command(self) -> bytes:
            scheme = self._current_server.uri.scheme if self._current_server else ""
            encrypted = scheme == "wss" or (scheme != "ws" and bool(self._server_info.get("tls_required")))
            if options.wants_tls and not encrypted:
                raise Error(NO_TLS)
            command: bytes = super()._connect_command()
            return command

    client = EncryptedFirst()
    client.refusals = refusals  # so that whoever waits for an ack need not wait for one that never comes
    return client


def _check_seed(options: NatsOptions) -> None:
    """Raise `InvalidInput` for an invalid seed: nats-py raises an error of its own type, without a message."""
    import nkeys

    for setting, file in (("nkey_seed_file", options.nkey_seed_file), ("credentials_file", options.credentials_file)):
        if file is None:
            continue
        content = Path(file).read_bytes()
        match = (
            re.search(rb"SEED-----\s+(\S+)", content)
            if setting == "credentials_file"
            else re.match(rb"\s*(\S+)", content)
        )
        try:
            nkeys.from_seed(bytearray(match[1] if match else b"")).wipe()
        except Exception:  # noqa: BLE001 - of several types; never shown, as the text may hold the seed
            raise InvalidInput(f"nats.{setting}: {file} holds no NKey seed (SU...); is it the right file?") from None


def _credentials(options: NatsOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "user": options.user,
        "password": options.password.get_secret_value() if options.password else None,
        "token": options.token.get_secret_value() if options.token else None,
        "user_credentials": options.credentials_file,
        "nkeys_seed": options.nkey_seed_file,
        "tls": _tls(options),
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _tls(options: NatsOptions) -> ssl.SSLContext | None:
    """None without TLS files: nats-py then trusts what the system trusts."""
    if not (options.tls_ca_file or options.tls_cert_file):
        return None
    settings = "nats.tls_ca_file"
    try:
        context = ssl.create_default_context(cafile=options.tls_ca_file)
        settings = "nats.tls_cert_file and nats.tls_key_file"
        if options.tls_cert_file:
            context.load_cert_chain(options.tls_cert_file, options.tls_key_file)
    except ssl.SSLError as error:
        raise InvalidInput(
            f"{settings}: not the PEM files of certificates and keys that they should be: {error}"
        ) from None
    return context


def _secrets(options: NatsOptions) -> list[str]:
    secrets = [secret.get_secret_value() for secret in (options.password, options.token) if secret]
    for server in options.servers:
        secrets += server.partition("://")[2].rpartition("@")[0].split(":")
    return [secret for secret in secrets if secret]


def _nats_error() -> type[Exception]:
    import nats.errors

    error: type[Exception] = nats.errors.Error
    return error
