"""Records of a user's file, one at a time: JSON, JSON Lines, CSV or Parquet.

Each record comes as its number and a function that parses it. A record that cannot be parsed thus never
affects its neighbours.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
from pydantic import JsonValue

from fleet_pipeline.common.errors import InvalidInput, InvalidRecord
from fleet_pipeline.common.json_input import MAX_BYTES, JsonObject, drop_nulls, parse_json, reject_duplicate_keys
from fleet_pipeline.common.parquet import parse_parquet

MAX_DOCUMENT_BYTES = 50_000_000  # for one line, which may hold proposals of any length


@dataclass(frozen=True)
class Refusal:
    """One reason why one record cannot be used. Lines (rows in Parquet) count from 1."""

    line: int
    field: str
    error: str


# A record's number, and a function that parses it or raises InvalidRecord.
Records = Iterator[tuple[int, Callable[[], Any]]]


def read_content(location: str) -> bytes:
    """The bytes at a path or fsspec URL, or of standard input ("-"). Raises `InvalidInput` if they cannot be read."""
    if location == "-":
        return sys.stdin.buffer.read()
    try:
        with fsspec.open(location, "rb") as file:
            content: bytes = file.read()
            return content
    except (OSError, ImportError, ValueError) as error:
        raise InvalidInput(f"{location}: cannot be read: {error}") from error


def read_cases(location: str) -> Records:
    """The records of a file of cases: JSON, JSON Lines or Parquet. "-" reads JSON from standard input."""
    suffix = "json" if location == "-" else location.lower().rsplit(".", 1)[-1]
    readers = {"json": json_document, "jsonl": json_document, "ndjson": json_document, "parquet": parquet_rows}
    if suffix not in readers:
        raise InvalidInput(f"{location}: a file of cases has a name that ends in .json, .jsonl or .parquet")
    for number, parse in readers[suffix](read_content(location)):
        yield number, lambda parse=parse: _parsed(parse)  # type: ignore[misc]


def _parsed(parse: Callable[[], Any]) -> Any:
    try:
        return drop_nulls(parse())
    except RecursionError:
        raise InvalidRecord("nested too deeply; flatten it") from None


def json_document(content: bytes) -> Records:
    """Records of a list of objects, one object, or JSON Lines. Raises `InvalidInput` for a list of invalid JSON."""
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_marking_repeats)
    except (ValueError, RecursionError) as error:
        if not text.startswith(b"["):
            yield from json_lines(content, MAX_DOCUMENT_BYTES)  # names the invalid line
            return
        raise InvalidInput(f"not valid JSON: {error}; nothing of the list can be read") from None
    for number, entry in enumerate(document if isinstance(document, list) else [document], start=1):
        yield number, lambda entry=entry: _without_repeats(entry)  # type: ignore[misc]


def json_lines(content: bytes, max_bytes: int = MAX_BYTES) -> Records:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, lambda line=line: parse_json(line, max_bytes)  # type: ignore[misc]


class _Repeated(JsonObject):
    """A JSON object that has `field` twice."""

    field = ""


def _marking_repeats(pairs: Iterable[tuple[str, JsonValue]]) -> JsonObject:
    """Only mark an object with a repeated field: the error is raised later, for its own entry of the list."""
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


def csv_rows(content: bytes) -> Records:
    """Rows as dicts by header, without empty cells. Raises `InvalidInput` for an unusable header or if not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8 at byte {error.start + 1}: save the file as UTF-8") from None
    csv.field_size_limit(MAX_BYTES)
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="(extra cells)")
    try:
        header = reader.fieldnames or []
        if repeated := {name for name in header if list(header).count(name) > 1}:
            raise InvalidInput(f"the header names {', '.join(sorted(repeated))} twice; keep one column of each")
        line = reader.line_num + 1
        for row in reader:
            yield line, lambda row=row: _parse_csv_row(row)  # type: ignore[misc]
            line = reader.line_num + 1
    except csv.Error as error:
        line, message = reader.line_num, str(error)

        def broken() -> Any:
            raise InvalidRecord(f"not valid CSV: {message}; the lines after it are not read")

        yield line, broken


def _parse_csv_row(row: dict[str, str]) -> JsonObject:
    if extra := row.pop("(extra cells)", None):
        raise InvalidRecord(f"has {len(extra)} more cells than the header; quote cells that hold commas")
    return {name: cell for name, cell in row.items() if cell and cell.strip()}


def parquet_rows(content: bytes) -> Records:
    """Rows as dicts. Raises `InvalidInput` if the content is not Parquet, or damaged."""
    try:
        rows = parse_parquet(content).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"not a Parquet file, or a damaged one: {detail}") from error
    for number, row in enumerate(rows, start=1):
        yield number, lambda row=row: row  # type: ignore[misc]


def json_cell(name: str, cell: str) -> Any:
    try:
        return json.loads(cell, object_pairs_hook=reject_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(f"this column holds JSON, and it does not parse: {error}", field=name) from None
