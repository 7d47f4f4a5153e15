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
from dataclasses import dataclass

from fleet_pipeline.common.errors import EngineError

_log = logging.getLogger(__name__)
FAILURES = 5
PAUSE_SECONDS = 5.0
LONGEST_REST_SECONDS = 120.0
# A server takes up to this many times its share before a council is sent elsewhere.
_SLACK = 1.25
# How often a waiting request looks by itself whether a server takes it: the pause of a breaker ends without a notice.
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
    probing: bool = False  # one request tries whether it works again
    rests_until: float = 0.0  # it has asked to be left alone
    last_failure: str = ""
    opened: int = 0  # how often it has opened

    def takes(self, now: float) -> bool:
        if now < self.rests_until:
            return False
        if self.opened_at is None:
            return self.in_flight < self.max_in_flight
        return not self.probing and now >= self.opened_at + PAUSE_SECONDS

    def score(self, key: str) -> float:
        """The higher, the sooner this server gets requests of `key`."""
        digest = hashlib.blake2b(f"{self.url}\0{key}".encode(), digest_size=8).digest()
        return -self.weight / math.log((int.from_bytes(digest) + 1) / (2**64 + 1))


@dataclass(frozen=True)
class Place:
    """A request's place at a server. `probe`: it tries whether the server works again."""

    server: Server
    probe: bool


class Servers:
    """All of one model. Used in one event loop; `down_seconds` may be read from another thread."""

    def __init__(
        self, servers: Sequence[Server], patience_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.servers = servers
        self._patience = patience_seconds
        self._clock = clock
        # Futures, and no condition: in Python 3.11 one whose waiter is cancelled in the wrong moment stays locked.
        self._waiting: list[asyncio.Future[None]] = []
        self._down = (0.0, math.inf)  # (seconds until now without any server, since when all breakers are open)

    @property
    def down_seconds(self) -> float:
        """For how long no server could be asked, all in all."""
        before, since = self._down
        return before + max(self._clock() - since, 0.0)

    @property
    def is_down(self) -> bool:
        return self._down[1] < math.inf

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

    async def acquire(self, key: str) -> Place:
        """Wait for a place; `release` it. Raises `EngineError` when no server could be asked for too long."""
        while (server := self.choose(key)) is None:
            if self._clock() - self._down[1] > self._patience:
                raise EngineError(self._gone())
            notice: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(notice)
            try:
                await asyncio.wait({notice}, timeout=_LOOK_SECONDS)
            except asyncio.CancelledError:
                if notice.done():  # it is given up, and the place is for another
                    self._notify()
                raise
            finally:
                if notice in self._waiting:
                    self._waiting.remove(notice)
        server.in_flight += 1
        place = Place(server, probe=server.opened_at is not None)
        server.probing = server.probing or place.probe
        return place

    def release(self, place: Place) -> None:
        place.server.in_flight -= 1
        if place.probe:
            place.server.probing = False
        self._notify()

    def answered(self, server: Server) -> None:
        """It works, be it that it refuses the prompt, or is busy."""
        server.failures, server.opened_at = 0, None
        if self.is_down:
            self._down = (self.down_seconds, math.inf)
            while self._waiting:
                self._notify()

    def rest(self, server: Server, seconds: float) -> None:
        """It asks to come back after so many seconds."""
        server.rests_until = max(server.rests_until, self._clock() + min(seconds, LONGEST_REST_SECONDS))

    def failed(self, place: Place, reason: str) -> None:
        server = place.server
        server.failures += 1
        server.last_failure = reason
        if server.opened_at is not None:
            if place.probe:  # requests of before it opened say nothing new
                server.opened_at = self._clock()
        elif server.failures >= FAILURES:
            server.opened_at = self._clock()
            server.opened += 1
            _log.warning(
                "nothing is sent to %s for a while: %d failures in a row, the last: %s", server.url, FAILURES, reason
            )
        if not self.is_down and all(one.opened_at is not None for one in self.servers):
            self._down = (self._down[0], self._clock())

    def _notify(self) -> None:
        if self._waiting:
            notice = self._waiting.pop(0)
            if not notice.done():
                notice.set_result(None)

    def _gone(self) -> str:
        reasons = "; ".join(f"{server.url}: {server.last_failure}" for server in self.servers[:5])
        return f"no server has answered for {self._patience:g} s (server.patience_seconds): {reasons}"
