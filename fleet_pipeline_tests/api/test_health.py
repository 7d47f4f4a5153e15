import socket

import pytest

from fleet_pipeline.api.health import Address, answering
from fleet_pipeline_tests.support.http import ask

pytestmark = pytest.mark.unit


def works() -> None:
    pass


def test_a_check_that_raises_is_an_answer_without_its_text() -> None:
    def broken() -> None:
        raise ConnectionError("postgresql://fleet:hunter2@db/dagster")

    with answering(Address("127.0.0.1", 0), works, broken) as port:
        assert ask(port, "/healthz") == (200, "ok\n")
        assert ask(port, "/readyz") == (503, "ConnectionError\n")
        assert ask(port, "/metrics") == (404, "/healthz /readyz\n")


def test_a_client_that_says_nothing_keeps_no_one_waiting() -> None:
    with answering(Address("127.0.0.1", 0), works, works) as port, socket.create_connection(("127.0.0.1", port)):
        assert ask(port, "/healthz") == (200, "ok\n")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_address_in_ipv6_is_listened_to() -> None:
    with answering(Address.parse("[::1]:0"), works, works) as port, socket.create_connection(("::1", port)):
        pass


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:http", "host:65536", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        Address.parse(text)
