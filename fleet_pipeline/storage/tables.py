"""Reading and writing the tables: `<storage>/<table>/<deliberation_id>.parquet`.

There is one file per deliberation and table: rewriting a deliberation replaces one file, and a folder is the
whole table. The footer carries the version of the table, and the facts that are readable without the rows.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from fleet_pipeline.common.errors import CorruptFile
from fleet_pipeline.common.parquet import parse_parquet
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.rows import TranscriptFooter, UtteranceRow
from fleet_pipeline.deliberation.task import checked_id, is_deliberation_id
from fleet_pipeline.storage.schemas import UPGRADES, Footer, Row, Table
from fleet_pipeline.storage.store import Store

_FOOTER = b"fleet"
_VERSION = "schema_version"
# Bytes of a file's end that are read for its footer. The footer of `utterances` has 12 kB, and a longer one is read
# in a second step. Many a transcript is shorter than this: it is then read whole by one request.
_TAIL = 64 * 2**10
# Files kept decoded, by their content: a run reads each of its files several times within a second, and decoding takes
# 1.5 ms of the 1.7 that a read takes. Some 20 kB each.
_PARSED = 128
_ERRORS = (pa.ArrowException, KeyError, ValueError, TypeError, OverflowError, OSError, RecursionError)


@dataclass(frozen=True)
class TableFile(Generic[Row, Footer]):
    """The file of one deliberation in one table: its rows as Arrow has them and as objects, with the present columns."""

    content: pa.Table
    rows: list[Row]
    footer: Footer


def table_path(table: Table[Any, Any], deliberation_id: str) -> str:
    return f"{table.name}/{checked_id(deliberation_id)}.parquet"


def write_rows(
    store: Store, table: Table[Row, Footer], deliberation_id: str, rows: Sequence[Row], footer: Footer
) -> None:
    """Replace one deliberation's file. Raises `ValueError` for a value that its column cannot have: it would be damage."""
    facts = json.dumps({**table.footer_adapter.dump_python(footer, mode="json"), _VERSION: table.version})
    schema = table.schema.with_metadata({_FOOTER: facts.encode()})
    plain = table.rows_adapter.dump_python(list(rows), warnings=False)
    try:
        table.rows_adapter.validate_python(plain)
    except ValidationError as error:
        raise ValueError(f"table {table.name}, {deliberation_id}: {describe(error)}") from error
    content = pa.Table.from_pylist(plain, schema=schema)
    buffer = io.BytesIO()
    # Snappy is Parquet's own default. zstd sets up its state anew for each column: a file of 20 KB took 2.1 ms to write
    # and 1.5 to read, and takes 0.6 and 0.4. It is no larger, because it has few rows: dictionaries made it 5 % larger.
    pq.write_table(content, buffer, compression="snappy", use_dictionary=False, write_page_checksum=True)
    store.write(table_path(table, deliberation_id), buffer.getvalue())


def read_file(
    store: Store, table: Table[Row, Footer], deliberation_id: str, *, fresh: bool = False
) -> TableFile[Row, Footer] | None:
    """The rows and the footer of one deliberation, or None when it has no file in this table.

    Raises `CorruptFile` for a file that is torn, damaged, foreign, of a version that cannot be read, or with a value
    that its column cannot have. `fresh` asks the storage, whatever local copies there are.
    """
    path = table_path(table, deliberation_id)
    content = store.read(path, fresh=fresh)
    return None if content is None else parse_file(table, content, store.full_path(path))


def parse_file(table: Table[Row, Footer], content: bytes, full_path: str) -> TableFile[Row, Footer]:
    """As `read_file`, of a file that has been read."""
    with _reported(full_path):
        return _parsed(table, content)


@lru_cache(maxsize=_PARSED)
def _parsed(table: Table[Row, Footer], content: bytes) -> TableFile[Row, Footer]:
    arrow = parse_parquet(content)
    footer, version = _footer(table, arrow.schema.metadata)
    for earlier in range(version, table.version):
        arrow = UPGRADES[table.name, earlier](arrow)
    if not arrow.schema.equals(table.schema):
        arrow = arrow.select(table.schema.names).cast(table.schema)
    return TableFile(arrow, table.rows_adapter.validate_python(arrow.to_pylist()), footer)


def _selected(table: Table[Any, Any], content: bytes, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, which is a part of the table's."""
    arrow = parse_parquet(content, schema.names)
    if _footer(table, arrow.schema.metadata)[1] != table.version:  # an earlier version may have others
        arrow = _parsed(table, content).content
    return arrow.select(schema.names).cast(schema)


def read_footer(store: Store, table: Table[Row, Footer], deliberation_id: str) -> Footer | None:
    """The footer alone, or None when there is no file. Its rows may be damaged all the same: only reading them tells.

    Raises `CorruptFile` for a footer that is torn, damaged, foreign, or of a version that cannot be read.
    """
    path = table_path(table, deliberation_id)
    tail = store.read_end(path, _TAIL)
    if tail is None:
        return None
    with _reported(store.full_path(path)):
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > len(tail) >= _TAIL:
            tail = store.read_end(path, length) or b""
        metadata = pq.read_metadata(pa.BufferReader(tail)).metadata
        return _footer(table, metadata)[0]


def read_rows(store: Store, table: Table[Row, Any], deliberation_id: str) -> list[Row]:
    """The rows of `read_file`, none where there is no file. Raises as it does."""
    file = read_file(store, table, deliberation_id)
    return file.rows if file else []


def _footer(table: Table[Row, Footer], metadata: dict[bytes, bytes] | None) -> tuple[Footer, int]:
    """(footer, version of the table it was written with)."""
    facts = json.loads((metadata or {}).get(_FOOTER, b"null"))
    if not isinstance(facts, dict):
        raise ValueError("its footer is not ours")
    version = facts.pop(_VERSION)
    readable = range(version, table.version) if type(version) is int else ()
    known = version == table.version and type(version) is int
    if not known and not (readable and all((table.name, number) in UPGRADES for number in readable)):
        raise ValueError(f"schema version {version}, here {table.version}")
    try:
        return table.footer_adapter.validate_python(facts), version
    except ValidationError as error:
        raise ValueError(f"its footer: {describe(error)}") from error


@contextmanager
def _reported(path: str) -> Iterator[None]:
    """Turn what a damaged or foreign file raises into an error that names the file and the remedy."""
    try:
        yield
    except _ERRORS as error:
        reason = describe(error) if isinstance(error, ValidationError) else str(error)
        detail = (reason.splitlines() or [type(error).__name__])[0][:200]
        deliberation_id = path.rpartition("/")[2].removesuffix(".parquet")
        raise CorruptFile(
            f"{path} is damaged or not a file of this project ({detail}); delete it and run {deliberation_id} again"
        ) from error


@dataclass(frozen=True)
class TableSlice(Generic[Row, Footer]):
    """The files of some deliberations in one table, read a bounded number at a time."""

    store: Store
    table: Table[Row, Footer]
    deliberation_ids: Sequence[str]

    def chunks(self, size: int = 256) -> Iterator[dict[str, TableFile[Row, Footer] | None]]:
        """The files of `size` deliberations at a time by id, in order. There is at least one chunk, maybe empty.

        A deliberation whose file is absent or damaged has None. Its outcome says so, and the others go on.
        A key that is no deliberation id is left out: it cannot have rows.
        """
        ids = [deliberation_id for deliberation_id in self.deliberation_ids if is_deliberation_id(deliberation_id)]
        for start in range(0, max(len(ids), 1), size):
            yield {deliberation_id: self._file(deliberation_id) for deliberation_id in ids[start : start + size]}

    def columns(self, names: Sequence[str]) -> pa.Table:
        """These columns of all files in one table, without the rows of a file that is absent or damaged.

        Values are read as they are. Whoever reads whole rows is told of one that its column cannot have.
        """
        ids = [deliberation_id for deliberation_id in self.deliberation_ids if is_deliberation_id(deliberation_id)]
        schema = pa.schema([self.table.schema.field(name) for name in names])
        found = (self._columns(deliberation_id, schema) for deliberation_id in ids)
        return pa.concat_tables([schema.empty_table(), *(part for part in found if part is not None)])

    def _columns(self, deliberation_id: str, schema: pa.Schema) -> pa.Table | None:
        with suppress(CorruptFile):
            path = table_path(self.table, deliberation_id)
            content = self.store.read(path)
            if content is not None:
                with _reported(self.store.full_path(path)):
                    return _selected(self.table, content, schema)
        return None

    def _file(self, deliberation_id: str) -> TableFile[Row, Footer] | None:
        with suppress(CorruptFile):
            return read_file(self.store, self.table, deliberation_id)
        return None


class Transcripts(TableSlice[UtteranceRow, TranscriptFooter]):
    """What was said in some deliberations. (Dagster knows classes as types, and no generic ones.)"""


def rows_of(table: Table[Row, Footer], files: Iterable[TableFile[Row, Footer] | None]) -> pa.Table:
    """The rows of several files in one table; those that are None have none."""
    contents = [file.content for file in files if file is not None]
    return pa.concat_tables(contents) if contents else table.schema.empty_table()
