"""A connection to the broker: one that fails in seconds where there is none, and says what to do."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fleet_pipeline.common.errors import BrokerUnavailable, InvalidInput
from fleet_pipeline.events.options import NatsOptions, without_secrets

T = TypeVar("T")


class NotPermitted(TimeoutError):
    """The broker does not let this user do that."""


def run_blocking(options: NatsOptions, conversation: Coroutine[Any, Any, T]) -> T:
    """Hold a conversation to its end. Raises `BrokerUnavailable`, without anything secret in it."""
    with unavailable(options):
        return asyncio.run(conversation)


@contextmanager
def unavailable(options: NatsOptions, refused: Sequence[str] = ()) -> Iterator[None]:
    """Raises `BrokerUnavailable`, without anything secret in it, for what goes wrong with the broker."""
    try:
        yield
    except (OSError, TimeoutError, _nats_error()) as error:
        silent = isinstance(error, TimeoutError) and refused
        detail = refused[-1] if silent else str(error) or "no answer"
        # What a server or library says may repeat what it was given.
        for secret in _secrets(options):
            detail = detail.replace(secret, "***")
        where = without_secrets(options.url or "")
        raise BrokerUnavailable(f"NATS at {where}: {type(error).__name__}: {detail}") from None


@asynccontextmanager
async def connect(
    options: NatsOptions, *, lasting: bool = False, refused: list[str] | None = None
) -> AsyncIterator[Any]:
    """A connection that fails in seconds when there is no broker, and is always closed.

    `lasting`: once made, it is made again whenever it breaks, for as long as the block runs. `refused` is
    filled with what the broker says that this user may not do; it says so beside the conversation, in which
    there is nothing but silence.
    """
    import nats

    refusals = refused if refused is not None else []

    async def remember(error: Exception) -> None:
        """nats-py would log it."""
        if "permissions violation" in str(error).lower():
            refusals.append(str(error))

    _check_seed(options)
    connection = await nats.connect(
        options.servers,
        name="fleet-pipeline",
        connect_timeout=5,
        allow_reconnect=lasting,
        # The first connection counts as one, and the default is 60 attempts, 2 s apart.
        max_reconnect_attempts=1,
        reconnect_time_wait=0.1,
        error_cb=remember,
        inbox_prefix=options.inbox_prefix.encode(),
        **_credentials(options),
    )
    if lasting:
        # Only now: with it, a first connection would be tried for ever.
        connection.options["max_reconnect_attempts"] = -1
    try:
        yield connection
    except TimeoutError as error:
        if refusals:
            raise NotPermitted(refusals[-1]) from error
        raise
    finally:
        await connection.close()


def _check_seed(options: NatsOptions) -> None:
    """A seed that is none comes out of nats-py as an error of its own kind, without a word."""
    import nkeys

    for setting, file in (("nkey_seed_file", options.nkey_seed_file), ("credentials_file", options.credentials_file)):
        if file is None:
            continue
        content = Path(file).read_bytes()
        found = (
            re.search(rb"SEED-----\s+(\S+)", content)
            if setting == "credentials_file"
            else re.match(rb"\s*(\S+)", content)
        )
        try:
            nkeys.from_seed(bytearray(found[1] if found else b"")).wipe()
        except Exception:  # noqa: BLE001 - of several kinds; none may be shown, as it may hold the seed
            raise InvalidInput(f"nats.{setting}: {file} holds no NKey seed (SU...); is it the right file?") from None


def _credentials(options: NatsOptions) -> dict[str, Any]:
    given: dict[str, Any] = {
        "user": options.user,
        "password": options.password.get_secret_value() if options.password else None,
        "token": options.token.get_secret_value() if options.token else None,
        "user_credentials": options.credentials_file,
        "nkeys_seed": options.nkey_seed_file,
        "tls": _tls(options),
    }
    return {name: value for name, value in given.items() if value is not None}


def _tls(options: NatsOptions) -> ssl.SSLContext | None:
    """None leaves it to the URL: tls:// asks for it, and so can the server."""
    if not (options.tls_ca_file or options.tls_cert_file):
        return None
    files = "nats.tls_ca_file"
    try:
        context = ssl.create_default_context(cafile=options.tls_ca_file)
        files = "nats.tls_cert_file and nats.tls_key_file"
        if options.tls_cert_file:
            context.load_cert_chain(options.tls_cert_file, options.tls_key_file)
    except ssl.SSLError as error:
        raise InvalidInput(
            f"{files}: not the PEM files of certificates and keys that they should be: {error}"
        ) from None
    return context


def _secrets(options: NatsOptions) -> list[str]:
    found = [secret.get_secret_value() for secret in (options.password, options.token) if secret]
    for server in options.servers:
        found += server.partition("://")[2].rpartition("@")[0].split(":")
    return [secret for secret in found if secret]


def _nats_error() -> type[Exception]:
    import nats.errors

    error: type[Exception] = nats.errors.Error
    return error
