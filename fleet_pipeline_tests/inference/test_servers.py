"""Which server gets a request, and the breaker of each, on a clock that stands still."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.common.errors import EngineError
from fleet_pipeline.inference.servers import FAILURES, LONGEST_REST_SECONDS, PAUSE_SECONDS, Server, Servers
from fleet_pipeline_tests.support.backends import Clock

pytestmark = pytest.mark.unit


def some(count: int, clock: Clock | None = None, *, most: int = 100, weights: tuple[float, ...] = ()) -> Servers:
    weights = weights or (1.0,) * count
    return Servers([Server(f"http://s{n}/v1", weights[n], most) for n in range(count)], 60.0, clock or Clock())


def now(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_requests_of_one_council_go_to_one_server_and_those_of_many_to_all() -> None:
    servers = some(4)
    first = {key: servers.choose(key) for key in (f"t{n}.dev" for n in range(200))}
    assert {key: servers.choose(key) for key in first} == first
    counts = Counter(server.url for server in first.values() if server)
    assert len(counts) == 4
    assert min(counts.values()) > 25


def test_a_server_with_three_times_the_weight_gets_three_times_the_councils() -> None:
    servers = some(2, weights=(3.0, 1.0))
    counts = Counter(server.url for n in range(2_000) if (server := servers.choose(f"t{n}")))
    assert counts["http://s0/v1"] == pytest.approx(1_500, rel=0.08)


def test_a_council_leaves_its_server_where_that_has_much_more_than_its_share() -> None:
    servers = some(2)
    own = servers.choose("t")
    assert own
    own.in_flight = 30
    assert servers.choose("t") is not own


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_request_through_after_its_pause() -> None:
    clock = Clock()
    servers = some(1, clock)
    (server,) = servers.servers
    for _ in range(FAILURES - 1):
        servers.failed(server, "500")
    assert servers.choose("t") is server
    servers.failed(server, "500")
    assert servers.choose("t") is None
    clock.now = PAUSE_SECONDS
    assert now(servers.acquire("t")) is server
    assert servers.choose("t") is None  # the one under way is the probe
    servers.failed(server, "500")
    now(servers.release(server))
    assert servers.choose("t") is None
    clock.now = 2 * PAUSE_SECONDS
    assert now(servers.acquire("t")) is server
    now(servers.answered(server))
    assert servers.choose("t") is server
    assert server.opened == 1


def test_an_answer_between_failures_keeps_the_breaker_closed() -> None:
    servers = some(1)
    (server,) = servers.servers
    for _ in range(3 * FAILURES):
        servers.failed(server, "500")
        now(servers.answered(server))
    assert servers.choose("t") is server


def test_another_server_takes_over_while_a_breaker_is_open() -> None:
    servers = some(2)
    own = servers.choose("t")
    assert own
    for _ in range(FAILURES):
        servers.failed(own, "lost")
    other = servers.choose("t")
    assert other is not own
    assert servers.down_seconds == 0.0


def test_time_without_any_server_is_counted_and_ends_with_the_first_answer() -> None:
    clock = Clock()
    servers = some(2, clock)
    for server in servers.servers:
        for _ in range(FAILURES):
            servers.failed(server, "lost")
    clock.now = 20.0
    assert servers.down_seconds == 20.0
    now(servers.answered(servers.servers[1]))
    clock.now = 90.0
    assert servers.down_seconds == 20.0


def test_when_no_server_has_answered_for_too_long_the_error_names_each_and_why() -> None:
    clock = Clock()
    servers = some(2, clock)
    for server in servers.servers:
        for _ in range(FAILURES):
            servers.failed(server, "connection refused")
        server.in_flight = 1  # a probe under way
    clock.now = 61.0
    with pytest.raises(EngineError, match=r"60 s .*http://s0/v1: connection refused; http://s1/v1: connection refused"):
        now(servers.acquire("t"))


def test_a_server_that_asks_for_patience_rests_as_long_as_it_says_and_no_longer_than_the_limit() -> None:
    clock = Clock()
    servers = some(1, clock)
    (server,) = servers.servers
    servers.rest(server, 7.0)
    assert servers.choose("t") is None
    clock.now = 7.0
    assert servers.choose("t") is server
    servers.rest(server, 1e9)
    clock.now = 7.0 + LONGEST_REST_SECONDS
    assert servers.choose("t") is server


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "end", "fail", "answer", "tick"]), st.integers(0, 2)), max_size=80),
    st.integers(1, 3),
)
def test_no_server_ever_has_more_than_it_takes_and_one_with_an_open_breaker_has_one_probe(
    steps: list[tuple[str, int]], most: int
) -> None:
    clock = Clock()
    servers = some(3, clock, most=most)
    for step, index in steps:
        server = servers.servers[index]
        if step == "begin" and (chosen := servers.choose(f"t{index}")):
            probing = chosen.opened_at is not None
            assert chosen.in_flight == 0 if probing else chosen.in_flight < most
            chosen.in_flight += 1
        elif step == "end" and server.in_flight:
            now(servers.release(server))
        elif step == "fail" and server.in_flight:
            servers.failed(server, "500")
        elif step == "answer" and server.in_flight:
            now(servers.answered(server))
        elif step == "tick":
            clock.now += PAUSE_SECONDS / 2
        all_open = all(one.opened_at is not None for one in servers.servers)
        before = servers.down_seconds
        clock.now += 1
        assert servers.down_seconds - before == (1 if all_open else 0)
