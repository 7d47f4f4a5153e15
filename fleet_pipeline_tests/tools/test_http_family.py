"""HTTP: what may be reached, and the ways around that were tried."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.families.http_client import destination
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import HttpOptions, ToolOptions
from fleet_pipeline.tools.toolbox import Result, Toolbox
from fleet_pipeline_tests.support.tool_world import PATIENCE, World

pytestmark = pytest.mark.unit

OWN = ("127.0.0.0/8", "::1/128")


class Site:
    """A server whose answer to a path is given as raw bytes, or as a function that writes to the connection."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.heard: list[bytes] = []
        self.answers: dict[str, Any] = {}
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        try:
            with link:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += link.recv(65_536)
                head, _, body = asked.partition(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                while len(body) < length:
                    body += link.recv(65_536)
                self.heard.append(head + b"\r\n\r\n" + body)
                answer = self.answers.get(
                    head.split()[1].decode().partition("?")[0], b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
                )
                if callable(answer):
                    answer(link)
                else:
                    link.sendall(answer)
        except OSError:
            pass


@pytest.fixture
def site() -> Iterator[Site]:
    one = Site()
    yield one
    one.server.close()


def tools(world: World, site: Site | None = None, read_only: bool = False, **more: Any) -> Toolbox:
    hosts = (f"127.0.0.1:{site.port}", f"localhost:{site.port}") if site else ("example.com",)
    options = ToolOptions(http=HttpOptions(**{"hosts": hosts, "private_networks": OWN, "seconds": PATIENCE, **more}))
    return Toolbox(Box(world.workspace, world.box.sandbox, options, read_only), world.audit)


def redirect(place: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode()


def test_requests_carry_what_was_asked_for_and_tell_what_came(world: World, site: Site) -> None:
    own = tools(world, site)
    url = f"http://127.0.0.1:{site.port}"
    got = own.call("http.get", {"url": f"{url}/a?x=1", "params": {"q": "a b"}, "headers": {"X-Own": "1"}})
    assert (got.ok, got.output, got.facts["status"]) == (True, "ok", 200)
    assert site.heard[-1].startswith(b"GET /a?x=1&q=a+b HTTP/1.1\r\n")
    assert b"X-Own: 1" in site.heard[-1]
    assert f"Host: 127.0.0.1:{site.port}".encode() in site.heard[-1]
    own.call("http.post", {"url": url, "json_data": {"a": [1]}})
    assert site.heard[-1].endswith(b'{"a": [1]}')
    assert b"content-type: application/json" in site.heard[-1]
    for method in ("put", "patch"):
        assert own.call(f"http.{method}", {"url": url, "data": "text"}).ok
        assert site.heard[-1].endswith(b"text")
    assert own.call("http.delete", {"url": url}).ok
    assert own.call("http.head", {"url": url}).ok
    site.answers["/lost"] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nlost"
    lost = own.call("http.request", {"method": "GET", "url": f"{url}/lost"})
    assert (lost.ok, lost.outcome, lost.error, lost.output) == (False, "failed", "HTTP 404", "lost")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://127.0.0.1/",
            "http://localhost/",
            "http://0.0.0.0/",
            "http://[::1]/",
            "http://[::]/",
            "http://127.1/",
        ),
        *(
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
        ),
        *(
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[64:ff9b:1::a00:1]/",
        ),
        *(
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00::1]/",
            "http://[fe80::1]/",
            "http://[fe80::1%25lo]/",
            "http://10.0.0.1/",
        ),
        *(
            "http://192.168.0.1/",
            "http://172.16.0.1/",
            "http://100.64.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://0/",
        ),
        *(
            "http://[2001:0:7f00:1::]/",
            "http://[ff02::1]/",
            "http://198.18.0.1/",
            "http://192.0.2.1/",
            "http://240.0.0.1/",
            "http://[fec0::1]/",
            "http://[3fff::1]/",
            "http://192.88.99.1/",
            "http://168.63.129.16/",
            "http://[2606:4700::5efe:7f00:1]/",
        ),
    ],
)
def test_an_address_that_is_not_public_is_refused_in_every_form_even_if_it_is_named(url: str) -> None:
    host = url.split("/")[2]
    with pytest.raises(Refused, match="is not public|cannot be resolved|expected|no host|Invalid|does not appear"):
        destination(url, HttpOptions.model_construct(hosts=(host.lower(),), private_networks=()))


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "gopher://example.com/", "ftp://example.com/", "//example.com/", "example.com", "", "http://", "http:///x"),
        *("http://user:pass@example.com/", "http://example.com@evil.org/", "http://evil.org#@example.com/", "http://example.com\\@evil.org/"),
        *("http://example.com.evil.org/", "http://evilexample.com/", "http://example.com:99999/", "http://example.com:8080/"),
        *("http://exam ple.com/", "http://example.com/\r\nX: y", "http://example.com\t/", "http://example.com\0/", "http://\u0435xample.com/"),
    ],
)  # fmt: skip
def test_a_url_that_leads_elsewhere_is_refused(world: World, url: str) -> None:
    result = tools(world).call("http.get", {"url": url})
    assert result.outcome == "refused", result


def test_names_stand_for_themselves_and_a_star_for_what_is_below() -> None:
    def reached(url: str, *hosts: str) -> bool:
        try:
            destination(url, HttpOptions(hosts=hosts, private_networks=("127.0.0.0/8", "::1/128")))
        except Refused as refusal:
            return "cannot be resolved" in str(refusal)
        return True

    assert reached("http://a.invalid/", "a.invalid")
    assert reached("https://A.Invalid./", "a.invalid")
    assert reached("http://x.a.invalid/", "*.a.invalid")
    assert not reached("http://a.invalid/", "*.a.invalid")
    assert not reached("http://xa.invalid/", "*.a.invalid")
    assert not reached("http://a.invalid:81/", "a.invalid")
    assert reached("http://a.invalid:81/", "a.invalid:81")
    assert not reached("http://a.invalid/", "a.invalid:81")
    assert reached("http://localhost:5/", "localhost:5")


@pytest.mark.parametrize(
    "place",
    [
        "http://169.254.169.254/",
        "http://127.0.0.2:{port}/",
        "file:///etc/passwd",
        "//evil.invalid/",
        "gopher://x/",
        "http://[::ffff:a9fe:a9fe]/",
    ],
)
def test_a_redirect_is_looked_at_like_a_first_request(world: World, site: Site, place: str) -> None:
    site.answers["/"] = redirect(place.format(port=site.port))
    result = tools(world, site).call("http.get", {"url": f"http://127.0.0.1:{site.port}/"})
    assert result.outcome == "refused"
    assert len(site.heard) == 1


def test_redirects_are_followed_without_credentials_to_another_host_and_come_to_an_end(
    world: World, site: Site
) -> None:
    site.answers["/there"] = redirect(f"http://localhost:{site.port}/end")
    site.answers["/post"] = redirect("/end", 303)
    site.answers["/around"] = redirect("/around")
    own = tools(world, site)
    url = f"http://127.0.0.1:{site.port}"
    assert own.call("http.get", {"url": f"{url}/there", "headers": {"Authorization": "Bearer abcdefgh12345678"}}).ok
    assert b"Authorization" in site.heard[0]
    assert b"Authorization" not in site.heard[1]
    assert own.call("http.post", {"url": f"{url}/post", "data": "x"}).ok
    assert site.heard[-1].startswith(b"GET /end")
    assert "more than 5 redirects" in own.call("http.get", {"url": f"{url}/around"}).error


def test_a_name_is_resolved_once_and_the_request_goes_to_the_address_that_was_looked_at(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers with a public address first, and with a private one from then on."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebinding.test":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    own = tools(world, site, hosts=(f"rebinding.test:{site.port}",))
    assert own.call("http.get", {"url": f"http://rebinding.test:{site.port}/"}).ok
    assert len(asked) == 1
    assert f"Host: rebinding.test:{site.port}".encode() in site.heard[0]
    again = own.call("http.get", {"url": f"http://rebinding.test:{site.port}/"})
    assert "169.254.169.254, which is not public" in again.error


def test_proxies_and_credentials_of_the_environment_are_not_used(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert tools(world, site).call("http.get", {"url": f"http://127.0.0.1:{site.port}/"}).ok
    assert b"authorization" not in site.heard[0].lower()


def _dripping(link: socket.socket) -> None:
    link.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        link.sendall(b"x-drip: y\r\n")
        time.sleep(0.2)


def _endless(link: socket.socket) -> None:
    link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        link.sendall(b"x" * 65_536)


def _silent(link: socket.socket) -> None:
    time.sleep(30)


@pytest.mark.parametrize("answer", [_dripping, _silent])
def test_a_server_that_takes_its_time_is_left_at_the_deadline(world: World, site: Site, answer: Any) -> None:
    site.answers["/"] = answer
    result = tools(world, site, seconds=1).call("http.get", {"url": f"http://127.0.0.1:{site.port}/"})
    assert "took longer than 1 s" in result.error


def test_an_answer_without_end_is_cut_and_a_compressed_one_does_not_grow(world: World, site: Site) -> None:
    import zlib

    site.answers["/endless"] = _endless
    bomb = zlib.compress(bytes(10**8))
    site.answers["/bomb"] = (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: deflate\r\ncontent-length: %d\r\n\r\n" % len(bomb) + bomb
    )
    own = tools(world, site, response_kib=100)
    endless = own.call("http.get", {"url": f"http://127.0.0.1:{site.port}/endless"})
    assert endless.ok
    assert endless.output.endswith("x\n(cut)")
    assert len(endless.output) < 110_000
    assert len(own.call("http.get", {"url": f"http://127.0.0.1:{site.port}/bomb"}).output) < 500_000
    assert b"Accept-Encoding: identity" in site.heard[0] or b"accept-encoding: identity" in site.heard[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil"},
        {"X": "a\r\nEvil: 1"},
        {"X\r\nEvil": "1"},
        {"Content-Length": "5"},
        {"Transfer-Encoding": "chunked"},
        {"": "x"},
        {"X": "é€"},
        {"X-HTTP-Method-Override": "DELETE"},
        {"X_HTTP_METHOD_OVERRIDE": "DELETE"},
        {"X": "x" * 2_000_000},
    ],
)
def test_a_header_that_would_change_the_request_is_refused(world: World, site: Site, headers: dict[str, str]) -> None:
    result = tools(world, site).call("http.get", {"url": f"http://127.0.0.1:{site.port}/", "headers": headers})
    assert result.outcome == "refused"
    assert not site.heard


@pytest.mark.parametrize("url", ["http://bob:S3CR/ET@127.0.0.1:{port}/", "http://127.0.0.1:{port}/é", "http://[::1/x"])
def test_a_url_that_is_none_is_refused_without_a_part_of_its_password(world: World, site: Site, url: str) -> None:
    result = tools(world, site).call("http.get", {"url": url.format(port=site.port)})
    assert result.outcome == "refused"
    assert "'S3CR'" not in result.error


@contextmanager
def _garbage(site: Site, content: bytes) -> Iterator[None]:
    site.answers["/"] = content
    yield


@pytest.mark.parametrize("content", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 999999 X\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx"])  # fmt: skip
def test_an_answer_that_is_no_http_is_an_error_and_breaks_nothing(world: World, site: Site, content: bytes) -> None:
    with _garbage(site, content):
        result = tools(world, site).call("http.get", {"url": f"http://127.0.0.1:{site.port}/"})
    assert result.outcome == "refused"


def test_where_nothing_may_be_changed_only_get_and_head_are_sent(world: World, site: Site) -> None:
    own = tools(world, site, read_only=True)
    url = f"http://127.0.0.1:{site.port}/"
    results: list[Result] = [own.call(f"http.{one}", {"url": url}) for one in ("post", "put", "patch", "delete")]
    results += [own.call("http.request", {"method": one, "url": url}) for one in ("POST", "PUT", "PATCH", "DELETE")]
    assert {one.outcome for one in results} == {"refused"}
    assert own.call("http.request", {"method": "GET", "url": url}).ok
    assert len(site.heard) == 1


def test_secrets_of_a_request_are_masked_in_the_audit(world: World, site: Site) -> None:
    tools(world, site).call(
        "http.get",
        {
            "url": f"http://127.0.0.1:{site.port}/",
            "headers": {"Authorization": "Bearer verysecret1234", "X-Plain": "seen"},
        },
    )
    lines = world.audit.path.read_text()
    assert "verysecret1234" not in lines
    assert json.loads(json.loads(lines.splitlines()[-2])["arguments"])["headers"] == {
        "Authorization": "***",
        "X-Plain": "seen",
    }
