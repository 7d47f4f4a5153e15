"""Reading backlogs: JSON Lines, CSV or Parquet, one task a line.

Every line becomes a task or a refusal that names the line, the field and the remedy; a bad line
never costs its neighbours.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
from pydantic import ValidationError

from fleet_pipeline.deliberation.errors import InvalidInput, problems
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.storage.tables import parse_parquet

MAX_LINE_BYTES = 2_000_000
_JSON_COLUMNS = ("constraints", "sampling")


@dataclass(frozen=True)
class Refusal:
    """One thing that keeps one line from running. Lines (rows in Parquet) count from 1."""

    line: int
    field: str
    error: str


@dataclass
class Backlog:
    tasks: list[Task] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


class _BadLine(Exception):
    def __init__(self, error: str, field: str = "(whole line)") -> None:
        super().__init__(error)
        self.field = field


# A line's number, and a function that parses it or raises _BadLine.
_Lines = Iterator[tuple[int, Callable[[], Any]]]


def read_backlog(location: str, roles: Mapping[str, Role]) -> Backlog:
    """Read a path, an fsspec URL, or standard input ("-", JSON Lines).

    Raises `InvalidInput` when the file as a whole cannot be read.
    """
    if location == "-":
        return _collect(_json_lines(sys.stdin.buffer.read()), roles)
    suffix = location.lower().rsplit(".", 1)[-1]
    readers = {"jsonl": _json_lines, "ndjson": _json_lines, "json": _json_lines, "csv": _csv, "parquet": _parquet}
    if suffix not in readers:
        raise InvalidInput(f"{location}: a backlog's name ends in .jsonl, .csv or .parquet")
    try:
        with fsspec.open(location, "rb") as file:
            content = file.read()
    except (OSError, ImportError, ValueError) as error:
        raise InvalidInput(f"{location}: cannot be read: {error}") from error
    return _collect(readers[suffix](content), roles)


def _collect(lines: _Lines, roles: Mapping[str, Role]) -> Backlog:
    backlog = Backlog()
    first_line: dict[str, int] = {}
    for number, parse in lines:
        try:
            entry = parse()
            if not isinstance(entry, dict):
                raise _BadLine("expected an object with task_id and description")
            task = Task.model_validate(_without_absent(entry), context={"roles": roles})
        except _BadLine as error:
            backlog.refused.append(Refusal(number, error.field, str(error)))
            continue
        except ValidationError as error:
            backlog.refused += [Refusal(number, problem.field, problem.message) for problem in problems(error)]
            continue
        # Case folded: the id is a file name, and some file systems do not tell case apart.
        earlier = first_line.setdefault(task.task_id.casefold(), number)
        if earlier != number:
            message = f"{task.task_id!r} on line {number} is already on line {earlier}; give one of them another id"
            backlog.refused.append(Refusal(number, "task_id", message))
        else:
            backlog.tasks.append(task)
    return backlog


def _json_lines(content: bytes) -> _Lines:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, lambda line=line: _parse_json_line(line)  # type: ignore[misc]


def _parse_json_line(line: bytes) -> Any:
    if len(line) > MAX_LINE_BYTES:
        raise _BadLine(f"{len(line)} bytes long; at most {MAX_LINE_BYTES} fit: shorten its context")
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_no_repeats)
    except UnicodeDecodeError as error:
        raise _BadLine(f"not UTF-8 at byte {error.start + 1}: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise _BadLine(f"not valid JSON at column {error.colno}: {error.msg}; one JSON object a line") from None
    except RecursionError:
        raise _BadLine("nested too deeply") from None
    except ValueError as error:  # numbers of thousands of digits
        raise _BadLine(str(error)) from None


def _no_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a field come twice and keeps the last; here nobody's words are dropped in silence."""
    entry: dict[str, Any] = {}
    for name, value in pairs:
        if name in entry:
            raise _BadLine("given twice on this line; keep one", field=name[:80])
        entry[name] = value
    return entry


def _csv(content: bytes) -> _Lines:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8 at byte {error.start + 1}: save the file as UTF-8") from None
    csv.field_size_limit(MAX_LINE_BYTES)
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
            raise _BadLine(f"not valid CSV: {message}; the lines after it are not read")

        yield line, broken


def _parse_csv_row(row: dict[str, Any]) -> dict[str, Any]:
    if extra := row.pop("(extra cells)", None):
        raise _BadLine(f"has {len(extra)} more cells than the header; quote cells that hold commas")
    entry: dict[str, Any] = {name: cell for name, cell in row.items() if cell and cell.strip()}
    if "roles" in entry:
        roles = entry["roles"].strip()
        entry["roles"] = _json_cell("roles", roles) if roles.startswith("[") else roles.replace(";", ",").split(",")
    return _with_json_columns(entry)


def _with_json_columns(entry: dict[str, Any]) -> dict[str, Any]:
    """Nested fields may come as JSON text where a format or a tool has no nesting."""
    texts = {name: entry[name] for name in _JSON_COLUMNS if isinstance(entry.get(name), str)}
    return entry | {name: _json_cell(name, text) for name, text in texts.items()}


def _json_cell(name: str, cell: str) -> Any:
    try:
        return json.loads(cell, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise _BadLine(f"this column holds JSON, and it does not parse: {error}", field=name) from None


def _parquet(content: bytes) -> _Lines:
    try:
        rows = parse_parquet(content).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"not a Parquet file, or a damaged one: {detail}") from error
    for number, row in enumerate(rows, start=1):
        yield number, lambda row=row: _with_json_columns(row)  # type: ignore[misc]


def _without_absent(value: Any) -> Any:
    """Drop nulls and NaNs: many writers give every field of every row, whether it has a value or not."""
    if isinstance(value, dict):
        return {
            name: _without_absent(item)
            for name, item in value.items()
            if item is not None and not (isinstance(item, float) and math.isnan(item))
        }
    return value
