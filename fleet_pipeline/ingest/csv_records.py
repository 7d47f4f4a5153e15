"""CSV as spreadsheets and trackers write it, read strictly: a row is what was written, or it is refused.

Python's reader is lenient unless told otherwise: an unclosed quote swallowed the rows after it, and `"a "b" c"` lost
its quotes, both without a word. Here a row with a misplaced quote is refused with its line, and reading goes on at the
line after it.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import JsonValue

from fleet_pipeline.common.errors import InvalidInput, InvalidRecord
from fleet_pipeline.common.json_input import MAX_BYTES, JsonObject
from fleet_pipeline.ingest.json_records import Records
from fleet_pipeline.ingest.text import decode, require_utf8

DELIMITERS = (",", ";", "\t")
# Excel's own first line, which names the delimiter.
_SEPARATOR = "sep="


_REMEDY = 'write "" for a quote inside a cell; the lines after this one are read as rows of their own'


class Cells(list[JsonValue]):
    """The cells of a column whose name occurs several times, such as Jira's Labels."""


class _Row(NamedTuple):
    line: int
    cells: list[str]
    problem: InvalidRecord | None = None


def csv_records(content: bytes) -> Records:
    """Rows as objects by header, without empty cells. Raises `InvalidInput` for an unusable header.

    The delimiter is the one that gives the header most names. Blank lines and lines that begin with # before the
    header are skipped, and so are rows without any cell. A column without a name may only hold empty cells.
    """
    csv.field_size_limit(MAX_BYTES)
    lines = list(io.StringIO(decode(content), newline=""))
    begin, delimiter = _beginning(lines)
    if begin == len(lines):
        raise InvalidInput("no header: the first line names the columns, such as task_id,description")
    delimiter = delimiter or max(DELIMITERS, key=lambda one: len(_header_cells(lines[begin], one)))
    # "a, b" in the header: the blanks belong to the separator, and a quote after one opens a cell.
    spaced = all(cell.startswith(" ") for cell in _header_cells(lines[begin], delimiter)[1:])
    rows = _rows(lines, begin, delimiter, spaced)
    header = next(rows)
    if header.problem:
        raise InvalidInput(f"line {header.line}, the header: {header.problem}")
    columns = _columns(header)
    if not any(columns):
        raise InvalidInput(f"line {header.line}, the header: names no column, such as task_id,description")
    for row in rows:
        if row.problem or any(cell.strip() for cell in row.cells):
            yield row.line, lambda row=row: _record(row, columns)  # type: ignore[misc]


def _beginning(lines: Sequence[str]) -> tuple[int, str]:
    """(index of the header's line, the delimiter that the file names, or "")."""
    delimiter = ""
    for index, line in enumerate(lines):
        text = line.strip()
        if text.lower().startswith(_SEPARATOR) and len(text) == len(_SEPARATOR) + 1:
            delimiter = text[-1]
        elif text and not text.startswith("#"):
            return index, delimiter
    return len(lines), delimiter


def _header_cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # told when the header is read
        return []


def _rows(lines: Sequence[str], begin: int, delimiter: str, spaced: bool) -> Iterator[_Row]:
    """Every row with the line, from 1, on which it begins."""
    position = begin
    while position < len(lines):
        reader = csv.reader(
            (lines[index] for index in range(position, len(lines))),
            delimiter=delimiter,
            skipinitialspace=spaced,
            strict=True,
        )
        began = position
        try:
            for cells in reader:
                yield _Row(began + 1, cells)
                began = position + reader.line_num
            return
        except csv.Error as error:
            yield _Row(began + 1, [], _misplaced(error))
            position = began + 1


def _misplaced(error: csv.Error) -> InvalidRecord:
    if "field larger" in str(error):
        return InvalidRecord(f"a cell of more than {MAX_BYTES} bytes: shorten it, or close the quote that opens it")
    if "unexpected end of data" in str(error):
        return InvalidRecord(f"a quote is opened and not closed: close it, or {_REMEDY}")
    return InvalidRecord(f"a misplaced quote ({error}): {_REMEDY}")


def _columns(header: _Row) -> list[str]:
    """The names of the columns; empty at the end for Excel's empty columns, which are cut off."""
    names = [name.strip() for name in header.cells]
    while names and not names[-1]:
        names.pop()
    try:
        for name in names:
            require_utf8(name)
    except InvalidRecord as error:
        raise InvalidInput(f"line {header.line}, the header: {error}") from None
    return names


def _record(row: _Row, columns: Sequence[str]) -> Any:
    if row.problem:
        raise row.problem
    cells = row.cells
    for index, cell in enumerate(cells):
        if cell.strip() and (index >= len(columns) or not columns[index]):
            raise InvalidRecord(
                f"has a cell ({cell.strip()[:40]!r}) in column {index + 1}, which has no name: "
                "quote cells that hold the delimiter, or name the column"
            )
        require_utf8(cell)
    record: JsonObject = {}
    for name, cell in zip(columns, cells, strict=False):
        if not cell.strip():
            continue
        earlier = record.get(name)
        record[name] = (
            cell if earlier is None else Cells([*(earlier if isinstance(earlier, Cells) else [earlier]), cell])
        )
    return record
