"""Reading and writing the tables: `<storage>/<table>/<deliberation_id>.parquet`.

There is one file per deliberation and table: rewriting a deliberation replaces one file, and a folder is the
whole table. The footer carries the schema version, and the facts that must be readable without the rows
(fingerprint, status).
"""

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
# Facts that a table's footer must hold, besides the schema version.
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

    A column that a row leaves out is null. Raises `ValueError` for a column that the table does not declare, so
    that no data is lost silently.
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
    """The rows of `read_file`, without the facts. Returns None and raises as it does."""
    rows_and_facts = read_file(store, table, deliberation_id)
    return rows_and_facts[0] if rows_and_facts else None


@dataclass(frozen=True)
class TableSlice:
    """The rows of some deliberations in one table, read a bounded number of files at a time."""

    store: Store
    table: TableName
    deliberation_ids: Sequence[str]

    def chunks(self, size: int = 256) -> Iterator[tuple[list[str], pa.Table]]:
        """(ids, their rows) for `size` deliberations at a time, in order. There is at least one chunk, maybe empty.

        A deliberation whose file is absent or damaged has no rows. Its outcome says so, and the others go on.
        A key that is no deliberation id is left out: it cannot have rows.
        """
        schema = TABLES[self.table]
        ids = [deliberation_id for deliberation_id in self.deliberation_ids if is_deliberation_id(deliberation_id)]
        for start in range(0, max(len(ids), 1), size):
            chunk = ids[start : start + size]
            rows_or_none = [self._rows(deliberation_id) for deliberation_id in chunk]
            tables = [rows.cast(schema) for rows in rows_or_none if rows is not None]
            yield chunk, pa.concat_tables(tables) if tables else schema.empty_table()

    def _rows(self, deliberation_id: str) -> pa.Table | None:
        try:
            return read_rows(self.store, self.table, deliberation_id)
        except CorruptFile:
            return None
