"""Reading and writing the tables: `<storage>/<table>/<deliberation_id>.parquet`.

One file per deliberation and table, so that rewriting one deliberation replaces one file, and a
folder is the whole table. The footer carries the schema version and the facts about the file that
must be readable without its rows: fingerprint, status.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fleet_pipeline.common.errors import CorruptFile
from fleet_pipeline.common.parquet import parse_parquet
from fleet_pipeline.deliberation.task import checked_id, is_deliberation_id
from fleet_pipeline.storage.schemas import SCHEMA_VERSIONS, TABLES, TableName
from fleet_pipeline.storage.store import Store

_FOOTER = b"fleet"
# What the footer of a table must say, beside the version of its schema.
_FACTS: dict[TableName, dict[str, type | tuple[type, ...]]] = {
    "utterances": {
        "status": str,
        "error_message": str,
        "fingerprint": str,
        "started_at": (int, float),
        "finished_at": (int, float),
        "run_id": str,
        "attempt": int,
    }
}


def table_path(table: TableName, deliberation_id: str) -> str:
    return f"{table}/{checked_id(deliberation_id)}.parquet"


def write_rows(
    store: Store,
    table: TableName,
    deliberation_id: str,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Replace one deliberation's file. `facts` (JSON values) go into the footer.

    Raises `ValueError` when a row has a column the table does not declare, so that nothing is
    dropped in silence; columns a row leaves out are null.
    """
    schema = TABLES[table]
    if unknown := {name for row in rows for name in row} - set(schema.names):
        raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}")
    footer = json.dumps({**(facts or {}), "schema_version": SCHEMA_VERSIONS[table]}).encode()
    content = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({_FOOTER: footer}))
    buffer = io.BytesIO()
    pq.write_table(content, buffer, compression="zstd", write_page_checksum=True)
    store.write(table_path(table, deliberation_id), buffer.getvalue())


def read_file(store: Store, table: TableName, deliberation_id: str) -> tuple[pa.Table, dict[str, Any]] | None:
    """(rows, footer facts) of one deliberation, or None when it has no file in this table.

    Raises `CorruptFile` for a file that is torn, damaged, foreign, or of another schema version.
    """
    content = store.read(table_path(table, deliberation_id))
    if content is None:
        return None
    try:
        rows = parse_parquet(content)
        facts = json.loads((rows.schema.metadata or {}).get(_FOOTER, b"null"))
        if not isinstance(facts, dict):
            raise ValueError("its footer is not ours")
        if facts["schema_version"] != SCHEMA_VERSIONS[table]:
            raise ValueError(f"schema version {facts['schema_version']}, here {SCHEMA_VERSIONS[table]}")
        for name, kind in _FACTS.get(table, {}).items():
            if not isinstance(facts.get(name), kind):
                raise ValueError(f"its footer does not say {name}")
        schema = TABLES[table].with_metadata(rows.schema.metadata)
        return rows.select(schema.names).cast(schema), facts
    except (pa.ArrowException, KeyError, ValueError, OSError, RecursionError) as error:
        path = store.full_path(table_path(table, deliberation_id))
        detail = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CorruptFile(
            f"{path} is damaged or not a file of this project ({detail}); delete it and run {deliberation_id} again"
        ) from error


def read_rows(store: Store, table: TableName, deliberation_id: str) -> pa.Table | None:
    """The rows of `read_file` alone."""
    found = read_file(store, table, deliberation_id)
    return found[0] if found else None


@dataclass(frozen=True)
class TableSlice:
    """The rows of some deliberations in one table, read a bounded number of files at a time."""

    store: Store
    table: TableName
    deliberation_ids: Sequence[str]

    def chunks(self, size: int = 256) -> Iterator[tuple[list[str], pa.Table]]:
        """(ids, their rows) for `size` deliberations at a time, in order.

        A deliberation without a file has no rows, nor has one whose file is damaged: its outcome says so, and its
        neighbours go on. A key that is no deliberation id can have none
        and is left out. There is at least one chunk, if only an empty one.
        """
        schema = TABLES[self.table]
        ids = [deliberation_id for deliberation_id in self.deliberation_ids if is_deliberation_id(deliberation_id)]
        for start in range(0, max(len(ids), 1), size):
            part = ids[start : start + size]
            found = [self._rows(deliberation_id) for deliberation_id in part]
            tables = [table.cast(schema) for table in found if table is not None]
            yield part, pa.concat_tables(tables) if tables else schema.empty_table()

    def _rows(self, deliberation_id: str) -> pa.Table | None:
        try:
            return read_rows(self.store, self.table, deliberation_id)
        except CorruptFile:
            return None
