"""The servers of one model: which of them gets a request, and when one that fails is left alone.

A request goes to the server that its council's earlier ones went to, because their common beginning is cached there
(weighted rendezvous hashing, Thaler and Ravishankar 1998). Where that server has much more than its share, the next in
the same order gets it.

Each server has a circuit breaker. After `FAILURES` failures in a row it opens, and the server gets nothing for
`PAUSE_SECONDS`. Then one request tries it: an answer closes the breaker, a failure opens it again. Without it every
request would spend its tries on a server that is gone.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fleet_pipeline.common.errors import EngineError

_log = logging.getLogger(__name__)
FAILURES = 5
PAUSE_SECONDS = 5.0
LONGEST_REST_SECONDS = 120.0
# A server takes up to this many times its share before a council is sent elsewhere.
_SLACK = 1.25
# How often a waiting request looks by itself whether a server takes it.
_LOOK_SECONDS = 0.5


@dataclass
class Server:
    """One server, and its breaker."""

    url: str
    weight: float
    max_in_flight: int
    in_flight: int = 0
    failures: int = 0  # in a row
    opened_at: float | None = None  # None: the breaker is closed
    rests_until: float = 0.0  # it has asked to be left alone
    last_failure: str = ""
    opened: int = 0  # how often it has opened

    def takes(self, now: float) -> bool:
        if now < self.rests_until:
            return False
        if self.opened_at is None:
            return self.in_flight < self.max_in_flight
        return self.in_flight == 0 and now >= self.opened_at + PAUSE_SECONDS

    def score(self, key: str) -> float:
        """The higher, the sooner this server gets requests of `key`."""
        digest = hashlib.blake2b(f"{self.url}\0{key}".encode(), digest_size=8).digest()
        return -self.weight / math.log((int.from_bytes(digest) + 1) / (2**64 + 1))


class Servers:
    """All of one model. Used in one event loop; `down_seconds` may be read from another thread."""

    def __init__(
        self, servers: Sequence[Server], patience_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.servers = servers
        self._patience = patience_seconds
        self._clock = clock
        self._freed = asyncio.Condition()
        self._down_since: float | None = None  # since when all breakers are open
        self._down_before = 0.0

    @property
    def down_seconds(self) -> float:
        """For how long no server could be asked, all in all."""
        since = self._down_since
        return self._down_before + (self._clock() - since if since is not None else 0.0)

    def choose(self, key: str) -> Server | None:
        """The server for a request of `key`, or None while none takes one."""
        now = self._clock()
        free = [server for server in self.servers if server.takes(now)]
        if not free:
            return None
        total = sum(server.in_flight for server in self.servers) + 1
        weights = sum(server.weight for server in self.servers)
        ranked = sorted(free, key=lambda server: server.score(key), reverse=True)
        fair = (one for one in ranked if one.in_flight < math.ceil(_SLACK * total * one.weight / weights))
        return next(fair, ranked[0])

    async def acquire(self, key: str) -> Server:
        """Wait for a server; `release` it. Raises `EngineError` when none could be asked for too long."""
        async with self._freed:
            while (server := self.choose(key)) is None:
                if self._down_since is not None and self._clock() - self._down_since > self._patience:
                    raise EngineError(self._gone())
                # A breaker's pause ends without a notice, and a notice to a request that is being cancelled is lost.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), _LOOK_SECONDS)
            server.in_flight += 1
            return server

    async def release(self, server: Server) -> None:
        async with self._freed:
            server.in_flight -= 1
            self._freed.notify()

    async def answered(self, server: Server) -> None:
        """It works, be it that it refuses the prompt, or is busy."""
        server.failures, server.opened_at = 0, None
        if self._down_since is not None:
            self._down_before += self._clock() - self._down_since
            self._down_since = None
            async with self._freed:
                self._freed.notify_all()

    def rest(self, server: Server, seconds: float) -> None:
        """It asks to come back after so many seconds."""
        server.rests_until = max(server.rests_until, self._clock() + min(seconds, LONGEST_REST_SECONDS))

    def failed(self, server: Server, reason: str) -> None:
        server.failures += 1
        server.last_failure = reason
        if server.opened_at is not None:
            server.opened_at = self._clock()
        elif server.failures >= FAILURES:
            server.opened_at = self._clock()
            server.opened += 1
            _log.warning(
                "nothing is sent to %s for a while: %d failures in a row, the last: %s", server.url, FAILURES, reason
            )
        if self._down_since is None and all(one.opened_at is not None for one in self.servers):
            self._down_since = self._clock()

    def _gone(self) -> str:
        reasons = "; ".join(f"{server.url}: {server.last_failure}" for server in self.servers[:5])
        return f"no server has answered for {self._patience:g} s (server.patience_seconds): {reasons}"
