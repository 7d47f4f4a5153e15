"""HTTP to hosts that the settings name, and to nothing else.

A host's name is resolved once, its address is looked at, and the connection goes to that address: a second answer of its
name server changes nothing. Addresses that are not public are refused in every form, unless a network is named as one's own.
Each redirect is looked at like a first request. Proxies and credentials of the environment are not used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urljoin, urlsplit

from pydantic import Field

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.families.http_client import send
from fleet_pipeline.tools.operation import Box, Changes, Family, Output

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Url = Annotated[
    str, Field(min_length=1, max_length=8_192, description="http:// or https://, of a host that the settings name.")
]
Headers = Annotated[Mapping[str, str], Field(max_length=64)]
Query = Annotated[Mapping[str, str], Field(max_length=256, description="Added to the URL.")]
Body = Annotated[str | None, Field(max_length=10_000_000, description="Text of the body.")]
Json = Annotated[Any, Field(description="A JSON value as the body, in place of data.")]

_NONE: Mapping[str, str] = MappingProxyType({})
_MOST_REDIRECTS = 5
_READS = ("GET", "HEAD")
# Headers that say where a request goes or how long it is: the client sets them.
_OURS = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "proxy-authorization", "te", "trailer"}
# Servers take "_" for "-" in them, too.
_OTHER_METHODS = {"x-http-method-override", "x-http-method", "x-method-override"}
_HARMLESS = {"accept", "accept-language", "content-type", "user-agent"}


def _missing(box: Box) -> str:
    if find_spec("httpcore") is None:
        return "httpcore is not installed: pip install 'fleet-pipeline[tools]'"
    return "" if box.options.http.hosts else "no hosts are named: set tools.http.hosts"


FAMILY = Family("http", "Ask HTTP services that the settings name.", _missing, Changes.ELSEWHERE)


@FAMILY.operation(changes=Changes.ELSEWHERE)
def request(
    box: Box,
    method: Method,
    url: Url,
    headers: Headers = _NONE,
    params: Query = _NONE,
    data: Body = None,
    json_data: Json = None,
) -> Output:
    """Send one request of any method."""
    return _exchange(box, method, url, headers, params, data, json_data)


@FAMILY.operation()
def get(box: Box, url: Url, headers: Headers = _NONE, params: Query = _NONE) -> Output:
    """Get a resource."""
    return _exchange(box, "GET", url, headers, params)


@FAMILY.operation()
def head(box: Box, url: Url, headers: Headers = _NONE, params: Query = _NONE) -> Output:
    """Get a resource's headers."""
    return _exchange(box, "HEAD", url, headers, params)


@FAMILY.operation(writes=True)
def post(
    box: Box, url: Url, headers: Headers = _NONE, params: Query = _NONE, data: Body = None, json_data: Json = None
) -> Output:
    """Post to a resource."""
    return _exchange(box, "POST", url, headers, params, data, json_data)


@FAMILY.operation(writes=True)
def put(
    box: Box, url: Url, headers: Headers = _NONE, params: Query = _NONE, data: Body = None, json_data: Json = None
) -> Output:
    """Put a resource."""
    return _exchange(box, "PUT", url, headers, params, data, json_data)


@FAMILY.operation(writes=True)
def patch(
    box: Box, url: Url, headers: Headers = _NONE, params: Query = _NONE, data: Body = None, json_data: Json = None
) -> Output:
    """Change a resource in part."""
    return _exchange(box, "PATCH", url, headers, params, data, json_data)


@FAMILY.operation(writes=True)
def delete(box: Box, url: Url, headers: Headers = _NONE, params: Query = _NONE) -> Output:
    """Delete a resource."""
    return _exchange(box, "DELETE", url, headers, params)


def _exchange(
    box: Box,
    method: Method,
    url: str,
    headers: Mapping[str, str],
    params: Mapping[str, str],
    data: str | None = None,
    json_data: Any = None,
) -> Output:
    options = box.options.http
    if method not in _READS:
        box.must_change(f"http {method}")
    body, own = _body(data, json_data)
    own |= _checked_headers(headers)
    full = _with_query(url, params)
    size = len(full) + sum(len(name) + len(value) for name, value in own.items()) + len(body)
    if size > options.request_kib * 1_024:
        raise Refused(f"the request has {size:,} bytes; at most {options.request_kib:,} KiB are sent")
    ends_at = time.monotonic() + options.seconds
    for _ in range(_MOST_REDIRECTS + 1):
        status, answer_headers, content, cut = send(options, method, full, own, body, ends_at)
        place = answer_headers.get("location")
        if status not in (301, 302, 303, 307, 308) or place is None:
            return _output(status, answer_headers, content, cut, full)
        try:
            before, full = urlsplit(full), urljoin(full, place)
        except ValueError:
            raise Refused(f"a redirect to {place[:200]!r}: is no URL") from None
        if urlsplit(full)[:2] != before[:2]:  # another place: any header may hold a credential
            own = {name: value for name, value in own.items() if name.lower() in _HARMLESS}
        if before.scheme == "https" and urlsplit(full).scheme != "https":
            raise Refused(f"{full}: a redirect from https to http is not followed")
        if status == 303 or (status in (301, 302) and method == "POST"):
            method, body = "GET" if method != "HEAD" else "HEAD", b""
            own = {name: value for name, value in own.items() if name.lower() != "content-type"}
    raise Refused(f"{url}: more than {_MOST_REDIRECTS} redirects")


def _with_query(url: str, params: Mapping[str, str]) -> str:
    if not params:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Refused(f"{url[:200]!r}: is no URL") from None
    return parts._replace(query="&".join(filter(None, (parts.query, urlencode(dict(params)))))).geturl()


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name.lower().replace("_", "-") in _OURS:
            raise Refused(f"header {name!r}: is set by the client")
        if name.lower().replace("_", "-") in _OTHER_METHODS:
            raise Refused(f"header {name!r}: makes another method of it, which has an operation of its own")
        if not name or not name.isascii() or any(ord(char) <= 32 or char in '():<>@,;\\"/[]?={}' for char in name):
            raise Refused(f"header {name!r}: is no name of one")
        if any(ord(char) < 32 or ord(char) == 127 or ord(char) > 255 for char in value):
            raise Refused(f"header {name!r}: its value holds control characters, or ones that a header cannot")
    return dict(headers)


def _body(data: str | None, json_data: Any) -> tuple[bytes, dict[str, str]]:
    if data is not None and json_data is not None:
        raise Refused("data and json_data: give one of them")
    headers: dict[str, str] = {} if json_data is None else {"content-type": "application/json"}
    try:
        body = (data or "").encode() if json_data is None else json.dumps(json_data).encode()
    except UnicodeEncodeError:
        raise Refused("data: has half a character") from None
    return body, headers


def _output(status: int, headers: Any, content: bytes, cut: bool, url: str) -> Output:
    text = content.decode(errors="replace") + ("\n(cut)" if cut else "")
    facts = {"status": status, "headers": dict(list(headers.items())[:100]), "url": url}
    return Output(text, ok=status < 400, error="" if status < 400 else f"HTTP {status}", facts=facts)
