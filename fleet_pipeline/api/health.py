"""Answers /healthz and /readyz over HTTP, as Kubernetes and load balancers ask, and /metrics where there are any.

`/healthz` says that the process works. It asks nothing of others: a process that is ended because its database is away helps
nobody. `/readyz` says that what it needs is there as well.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import NamedTuple

from prometheus_client import CollectorRegistry, MetricsHandler

# Raises any exception where something is wrong.
Check = Callable[[], None]


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `ValueError`."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise ValueError("expected HOST:PORT, such as 127.0.0.1:9464")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


@contextmanager
def answering(address: Address, alive: Check, ready: Check, registry: CollectorRegistry | None = None) -> Iterator[int]:
    """Answer while the block runs, each question in a thread of its own. Yields the port. Raises `OSError` if the address cannot be had."""
    checks = {"/healthz": alive, "/readyz": ready}

    class Handler(MetricsHandler):
        timeout = 30  # a client that sends nothing does not keep its thread

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics" and registry is not None:
                super().do_GET()
            elif path in checks:
                self._say(*_outcome(checks[path]))
            else:
                self._say(404, " ".join([*checks, *(["/metrics"] if registry else [])]))

        def _say(self, code: int, text: str) -> None:
            body = f"{text}\n".encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

    with Server(address, Handler.factory(registry) if registry else Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="fleet-health", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _outcome(check: Check) -> tuple[int, str]:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the answer
        # The type alone: a library's text may hold an address with its password.
        return 503, type(error).__name__
    return 200, "ok"
