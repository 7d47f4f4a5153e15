"""Ways in which a stored file is damaged. Each leaves its footer whole but for the first."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def flipped(path: Path) -> None:
    """The first data page turned over."""
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(255 - byte for byte in content[8:400]) + content[400:])


def without_a_value(path: Path) -> None:
    """A column that must have values has none, as in a file of another program or version."""
    rows = pq.read_table(path)
    nothing = pa.nulls(rows.num_rows, pa.string())
    index = rows.schema.get_field_index("label")
    pq.write_table(rows.set_column(index, rows.schema.field("label"), nothing), path, write_page_checksum=True)


DAMAGES: dict[str, Callable[[Path], None]] = {one.__name__: one for one in (torn, flipped, without_a_value)}
