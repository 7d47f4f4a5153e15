"""One HTTP request to one address that was looked at, within one deadline."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.options import HttpOptions

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# IPv6 that carries an IPv4 address in its last 32 bits: translation (RFC 6052, RFC 8215).
_PIECE = 64 * 1024  # bytes of a request that are written at a time
_CARRIERS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
# Of documentation, of relays, and a cloud's host agent: Python's `is_global` takes them for public.
_NOT_PUBLIC = ("3fff::/20", "192.88.99.0/24", "168.63.129.16/32")


def send(
    options: HttpOptions, method: str, url: str, headers: Mapping[str, str], body: bytes, ends_at: float
) -> tuple[int, dict[str, str], bytes, bool]:
    """The status, the headers by their small names, the body, and whether it was cut at its bound. Raises `Refused`.

    `ends_at` is on the monotonic clock, and holds for all together: a server that sends a byte a second gains nothing.
    """
    import httpcore

    _, _, address = destination(url, options)
    most = options.response_kib * 1_024
    # Identity: a compressed answer could grow a thousandfold.
    sent = {
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "fleet-tools",
        **headers,
        "connection": "close",
    }
    content = bytearray()
    try:
        with (
            httpcore.ConnectionPool(
                ssl_context=ssl.create_default_context(), network_backend=_to(address, ends_at)
            ) as pool,
            pool.stream(method, url, headers=list(sent.items()), content=body) as answer,
        ):
            for chunk in answer.iter_stream():
                content += chunk
                if len(content) > most:
                    break
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            return answer.status, found, bytes(content[:most]), len(content) > most
    except httpcore.TimeoutException:
        raise Refused(f"{_named(url)}: took longer than {options.seconds:g} s") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError, ValueError) as error:
        raise Refused(f"{_named(url)}: {type(error).__name__}: {error}"[:500]) from None


def _to(address: Address, ends_at: float) -> Any:
    """A network that leads to `address`, whatever host is asked for, and ends at `ends_at`."""
    import httpcore

    def left() -> float:
        seconds = ends_at - time.monotonic()
        if seconds <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return seconds

    class Timed(httpcore.NetworkStream):
        def __init__(self, inner: httpcore.NetworkStream) -> None:
            self.inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self.inner.read(max_bytes, left())

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            for start in range(0, len(buffer), _PIECE):  # each of them gets what is left, and not all of it again
                self.inner.write(buffer[start : start + _PIECE], left())

        def close(self) -> None:
            self.inner.close()

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Timed(self.inner.start_tls(ssl_context, server_hostname, left()))

        def get_extra_info(self, info: str) -> Any:
            return self.inner.get_extra_info(info)

    class Network(httpcore.NetworkBackend):
        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.NetworkStream:
            return Timed(httpcore.SyncBackend().connect_tcp(str(address), port, left()))

    return Network()


def _named(url: str) -> str:
    """Without the query: it may hold a key."""
    return url.partition("?")[0][:500]


def destination(url: str, options: HttpOptions) -> tuple[str, int, Address]:
    """The host, the port, and the one address that a request for `url` goes to. Raises `Refused`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its words can hold a part of a password
        raise Refused(f"{url[:200]!r}: is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url[:200]!r}: expected a URL with http or https and a host")
    if parts.username is not None or parts.password is not None:
        raise Refused("the URL holds credentials; give them as a header")
    if any(ord(char) <= 32 or ord(char) == 127 or char == "\\" for char in url):
        raise Refused(f"{url[:200]!r}: holds blanks or a backslash")
    if not url.isascii():
        raise Refused(f"{url[:200]!r}: has letters that a URL cannot hold; write them as %-codes, and a host's as xn--")
    host = parts.hostname.lower().rstrip(".")
    port = port or (443 if parts.scheme == "https" else 80)
    if not _is_named(host, port, parts.port is None, options.hosts):
        raise Refused(f"{host}:{port} is not among the hosts of tools.http.hosts")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(f"{host}: cannot be resolved ({error})") from None
    address = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    if not _may_be_reached(address, options.private_networks):
        raise Refused(
            f"{host} leads to {address}, which is not public; name its network in tools.http.private_networks"
        )
    return host, port, address


def _is_named(host: str, port: int, by_default: bool, hosts: tuple[str, ...]) -> bool:
    for named in hosts:
        name, colon, own_port = named.rpartition(":") if not named.endswith("]") else (named, "", "")
        if not colon:
            name, own_port = named, ""
        if own_port and int(own_port) != port:
            continue
        if not own_port and not by_default and port not in (80, 443):
            continue  # a name without a port stands for the usual ones
        name = name.strip("[]")
        if host == name or (name.startswith("*.") and host.endswith(name[1:]) and host != name[2:]):
            return True
    return False


def _may_be_reached(address: Address, own: tuple[str, ...]) -> bool:
    """Public, or in a network of one's own. An IPv6 address that carries an IPv4 address counts as both."""
    inner = _carried(address)
    if inner is not None and isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return _may_be_reached(inner, own)  # another way to write it, and nothing else
    forms: list[Address] = [address, *([inner] if inner else [])]
    return all(_is_public(one) or any(_is_in(one, network) for network in own) for one in forms)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address.is_site_local or (int(address) >> 32) & 0xFFFFFFFF == 0x5EFE
    ):
        return False  # the old private ones, and ISATAP, which carries an IPv4 address
    return address.is_global and not (
        address.is_multicast or address.is_reserved or any(_is_in(address, one) for one in _NOT_PUBLIC)
    )


def _is_in(address: Address, network: str) -> bool:
    there = ipaddress.ip_network(network)
    return there.version == address.version and address in there


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address.teredo:
        return address.teredo[1]
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in network for network in _CARRIERS):
        return low
    # The old "compatible" form, such as ::127.0.0.1. Below it are :: and ::1 themselves.
    return low if int(address) >> 32 == 0 and int(address) > 1 else None
