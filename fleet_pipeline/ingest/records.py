"""Records of a user's file, one at a time: JSON, JSON Lines, CSV or Parquet, plain or gzipped.

Each record comes as its line and a function that parses it. A record that cannot be parsed thus never
affects its neighbours.
"""

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec

from fleet_pipeline.common.errors import InvalidInput, InvalidRecord
from fleet_pipeline.common.json_input import drop_nulls
from fleet_pipeline.ingest.csv_records import csv_records
from fleet_pipeline.ingest.json_records import Records, json_records
from fleet_pipeline.ingest.parquet_records import parquet_records

MAX_DOCUMENT_BYTES = 50_000_000  # of one case, which may hold proposals of any length
MAX_UNPACKED_BYTES = 2_000_000_000  # a gzip file of 2 MB can hold them
_READERS: Mapping[str, Callable[[bytes], Records]] = {
    "jsonl": json_records,
    "ndjson": json_records,
    "json": json_records,
    "csv": csv_records,
    "tsv": csv_records,
    "parquet": parquet_records,
}
KINDS = "a name that ends in .jsonl, .json, .csv, .tsv or .parquet, with .gz behind it or without"


@dataclass(frozen=True)
class Refusal:
    """One reason why one record cannot be used. Lines (rows in Parquet) count from 1; 0 is the whole file."""

    line: int
    field: str
    error: str


def kind_of(name: str) -> str:
    """The format that a file's name says, or "" for one that cannot be read."""
    ending = name.lower().removesuffix(".gz").rpartition(".")[2]
    return ending if ending in _READERS else ""


def is_table(name: str) -> bool:
    """Whether the format has columns: exports and spreadsheets have many that no task needs."""
    return kind_of(name) in ("csv", "tsv", "parquet")


def read_records(location: str) -> Records:
    """The records of a path or fsspec URL, or of standard input ("-": JSON in any form).

    Raises `InvalidInput`, which names the file, if it cannot be read as a whole.
    """
    kind = "jsonl" if location == "-" else kind_of(location)
    if not kind:
        raise InvalidInput(f"{location}: {_other_kind(location)}")
    content = _unpacked(location, read_content(location))
    return _naming(location, _READERS[kind](content))


def _other_kind(location: str) -> str:
    if location.lower().endswith((".xlsx", ".xls", ".ods")):
        return "a workbook cannot be read; save the sheet as CSV UTF-8"
    return f"a backlog has {KINDS}"


def read_cases(location: str) -> Records:
    """The records of a file of cases, numbered from 1: JSON, JSON Lines or Parquet. "-" reads JSON from standard input."""
    kind = "json" if location == "-" else kind_of(location)
    if kind not in ("json", "jsonl", "ndjson", "parquet"):
        raise InvalidInput(f"{location}: a file of cases has a name that ends in .json, .jsonl or .parquet")
    read = parquet_records if kind == "parquet" else partial(json_records, max_bytes=MAX_DOCUMENT_BYTES)
    records = _naming(location, read(_unpacked(location, read_content(location))))
    for number, (_, parse) in enumerate(records, start=1):
        yield number, lambda parse=parse: _parsed(parse)  # type: ignore[misc]


def _parsed(parse: Callable[[], Any]) -> Any:
    try:
        return drop_nulls(parse())
    except RecursionError:
        raise InvalidRecord("nested too deeply; flatten it") from None


def _naming(location: str, records: Records) -> Iterator[tuple[int, Callable[[], Any]]]:
    try:
        yield from records
    except InvalidInput as error:
        raise InvalidInput(f"{location}: {error}") from error


def read_content(location: str) -> bytes:
    """The bytes at a path or fsspec URL, or of standard input ("-"). Raises `InvalidInput` if they cannot be read."""
    if location == "-":
        return sys.stdin.buffer.read()
    try:
        with fsspec.open(location, "rb") as file:
            content: bytes = file.read()
            return content
    except Exception as error:
        # Drivers of object stores let any exception of their client library through, such as missing credentials.
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise InvalidInput(f"{location}: cannot be read: {reason}") from error


def _unpacked(location: str, content: bytes) -> bytes:
    """The content of a gzip file, whatever its name; other content as it is."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{location}: not a gzip file, or a damaged one: {error}") from error
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise InvalidInput(f"{location}: more than {MAX_UNPACKED_BYTES} bytes when unpacked; split it")
    return unpacked
