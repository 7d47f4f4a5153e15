"""A connection to the broker: one that fails in seconds where there is none, and says what to do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fleet_pipeline.events.options import NatsOptions, without_secrets

T = TypeVar("T")


class BrokerUnavailable(RuntimeError):
    """The broker cannot be reached or did not acknowledge. Sending again later is safe."""


def ask(options: NatsOptions, conversation: Coroutine[Any, Any, T]) -> T:
    """Hold a conversation to its end. Raises `BrokerUnavailable`, without anything secret in it."""
    try:
        return asyncio.run(conversation)
    except (OSError, TimeoutError, _nats_error()) as error:
        detail = str(error) or "no answer"
        # What a server or library says may repeat what it was given.
        for secret in _secrets(options):
            detail = detail.replace(secret, "***")
        where = without_secrets(options.url or "")
        raise BrokerUnavailable(f"NATS at {where}: {type(error).__name__}: {detail}") from None


@asynccontextmanager
async def connect(options: NatsOptions) -> AsyncIterator[Any]:
    """A connection that fails in seconds when there is no broker, and is always closed."""
    import nats

    async def ignore(_: Exception) -> None:
        """Every failure reaches the caller as an exception; nats-py would log each attempt as well."""

    connection = await nats.connect(
        options.servers,
        name="fleet-pipeline",
        connect_timeout=5,
        allow_reconnect=False,
        # The first connection counts as one, and the default is 60 attempts, 2 s apart.
        max_reconnect_attempts=1,
        reconnect_time_wait=0.1,
        error_cb=ignore,
        **_credentials(options),
    )
    try:
        yield connection
    finally:
        await connection.close()


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
    context = ssl.create_default_context(cafile=options.tls_ca_file)
    if options.tls_cert_file:
        context.load_cert_chain(options.tls_cert_file, options.tls_key_file)
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
