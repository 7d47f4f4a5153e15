"""JSON in any of the forms that programs write: an object a line, a list, one object, pretty or not.

The file is a stream of values. White space, commas and byte-order marks between them are skipped, and the entries of a
list at the top are values of their own. After a value that does not parse, reading goes on at the next one that begins
as it began: its neighbours are not lost with it, and the lines in between are named.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import JsonValue

from fleet_pipeline.common.errors import InvalidRecord
from fleet_pipeline.common.json_input import MAX_BYTES, JsonObject
from fleet_pipeline.ingest.text import Lines, decode, require_utf8

# A record's line, and a function that parses it or raises InvalidRecord.
Records = Iterator[tuple[int, Callable[[], Any]]]

_BETWEEN = re.compile(r"[\s,\ufeff]*")
_NEXT_IN_LINE = re.compile(r"\}\s*,\s*(?=\{)")


def json_records(content: bytes, max_bytes: int = MAX_BYTES) -> Records:
    """The values of a file. `max_bytes` is for one of them."""
    text = decode(content)
    lines, decoder = Lines(text), json.JSONDecoder(object_pairs_hook=_marking_repeats, parse_constant=_constant)
    position, in_list, list_line = _skipped(text, 0), False, 0
    while position < len(text):
        if text[position] == "[" and not in_list:
            in_list, list_line, position = True, lines.line(position), _skipped(text, position + 1)
            continue
        if text[position] == "]" and in_list:
            in_list, position = False, _skipped(text, position + 1)
            continue
        began = position
        try:
            value, position = decoder.raw_decode(text, began)
        except (ValueError, RecursionError) as error:
            position = _next(text, began, error, lines)
            yield lines.line(began), _raising(_reason(text, began, position, error, lines, max_bytes))
        else:
            yield lines.line(began), _parsing(value, text, began, position, max_bytes)
        position = _skipped(text, position)
    if in_list:
        yield list_line, _raising(InvalidRecord("the list that begins here is not closed: the file may be cut off"))


def _constant(name: str) -> None:
    """NaN is how pandas writes a missing value. The others are numbers that JSON has not."""
    if name == "NaN":
        return
    raise ValueError(f"{name} is no number of JSON; write a number or a text")


def _skipped(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return match.end() if match else position


def _next(text: str, began: int, error: Exception, lines: Lines) -> int:
    """Where to go on after a value that does not parse: at the next object that begins as this one began."""
    indent = text[lines.start(began) : began]
    if indent.strip(" \t,[\ufeff"):  # one of several in a line
        match = _NEXT_IN_LINE.search(text, error.pos if isinstance(error, json.JSONDecodeError) else began + 1)
    else:
        blank = re.escape("".join(" " if char in "[," else char for char in indent))
        match = re.compile(rf"(?:\r\n|\n|\r)(?:{blank})?(?=\{{)").search(text, began + 1)
    return match.end() if match else len(text)


def _reason(text: str, began: int, end: int, error: Exception, lines: Lines, max_bytes: int) -> InvalidRecord:
    record = text[began:end]
    try:
        require_utf8(record.rstrip())
        _require_size(record, max_bytes)
    except InvalidRecord as problem:
        return problem
    if isinstance(error, RecursionError):
        return InvalidRecord("nested too deeply")
    if not isinstance(error, json.JSONDecodeError):  # numbers of thousands of digits
        return InvalidRecord(str(error))
    first, at, last = lines.line(began), lines.line(error.pos), lines.line(max(began, end - 1))
    lost = f"; lines {first} to {last - 1} are not read" if last - 1 > first else ""
    if error.pos >= end:  # at the next object, or at the end of the file
        return InvalidRecord(f"not valid JSON: the object that begins here is not closed{lost}")
    place = f"column {lines.column(error.pos)}" if at == first else f"line {at}, column {lines.column(error.pos)}"
    return InvalidRecord(f"not valid JSON at {place}: {error.msg}; expected one JSON object{lost}")


def _raising(error: InvalidRecord) -> Callable[[], Any]:
    def parse() -> Any:
        raise error

    return parse


def _parsing(value: Any, text: str, began: int, end: int, max_bytes: int) -> Callable[[], Any]:
    def parse() -> Any:
        record = text[began:end]
        require_utf8(record)
        if not _wraps_records(value):  # an export of a whole board has any length; each of its records has limits
            _require_size(record, max_bytes)
        return _without_repeats(value)

    return parse


def _wraps_records(value: Any) -> bool:
    lists = (item for item in value.values() if isinstance(item, list)) if isinstance(value, dict) else ()
    return any(isinstance(item, dict) for items in lists for item in items)


def _require_size(record: str, max_bytes: int) -> None:
    if (size := len(record.encode("utf-8", "surrogateescape"))) > max_bytes:
        raise InvalidRecord(f"{size} bytes long; at most {max_bytes} fit: shorten its texts")


class _Repeated(JsonObject):
    """A JSON object that has `field` twice."""

    field = ""


def _marking_repeats(pairs: Iterable[tuple[str, JsonValue]]) -> JsonObject:
    """Only mark an object with a repeated field: the error is raised later, for its own record."""
    pairs = list(pairs)
    entry = dict(pairs)
    if len(entry) == len(pairs):
        return entry
    marked = _Repeated(entry)
    names = [name for name, _ in pairs]
    marked.field = next(name for name in names if names.count(name) > 1)
    return marked


def _without_repeats(entry: Any) -> Any:
    nodes = [entry]
    while nodes:
        node = nodes.pop()
        if isinstance(node, _Repeated):
            raise InvalidRecord("given twice; keep one", field=node.field[:80])
        nodes.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
    return entry
