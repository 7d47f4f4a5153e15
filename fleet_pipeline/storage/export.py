"""Exports a table, or some of its deliberations, to one file for analysis elsewhere.

Rows are read and written `CHUNK` deliberations at a time, so that memory stays bounded.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fleet_pipeline.common.errors import CorruptFile
from fleet_pipeline.common.files import written_whole
from fleet_pipeline.storage.schemas import Footer, Row, Table
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_file, rows_of

FORMATS = ("parquet", "jsonl", "csv")
CHUNK = 256  # deliberations


def export(
    store: Store,
    table: Table[Row, Footer],
    keys: Sequence[str],
    form: str,
    out: Path | IO[bytes],
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[int, dict[str, str]]:
    """Write the rows of `keys` into one file. Returns (number of rows, errors of unreadable files by deliberation id).

    A file appears whole or not at all. In CSV, nested columns are JSON. Raises `OSError`.
    """
    damaged: dict[str, str] = {}
    rows = 0
    opened = written_whole(out) if isinstance(out, Path) else nullcontext(out)
    with opened as file, _WRITERS[form](file, table.schema) as write:
        for start in range(0, len(keys), CHUNK):
            chunk = _read(store, table, keys[start : start + CHUNK], damaged)
            rows += chunk.num_rows
            write(chunk)
            on_progress(min(start + CHUNK, len(keys)))
    return rows, damaged


def _read(store: Store, table: Table[Row, Footer], keys: Sequence[str], damaged: dict[str, str]) -> pa.Table:
    files = []
    for key in keys:
        try:
            files.append(read_file(store, table, key))
        except CorruptFile as error:
            damaged[key] = str(error)
    return rows_of(table, files)


@contextmanager
def _parquet(file: IO[bytes], schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _jsonl(file: IO[bytes], _: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    def write(rows: pa.Table) -> None:
        for row in rows.to_pylist():
            file.write(json.dumps(row, default=str, ensure_ascii=False).encode() + b"\n")

    yield write


@contextmanager
def _csv(file: IO[bytes], schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(schema.names)

    def write(rows: pa.Table) -> None:
        writer.writerows([[_cell(value) for value in row.values()] for row in rows.to_pylist()])

    try:
        yield write
    finally:
        text.detach()


def _cell(value: Any) -> Any:
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, (list, dict)) else value


_WRITERS = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv}
