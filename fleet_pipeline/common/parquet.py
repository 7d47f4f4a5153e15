"""Parsing of a Parquet file in memory."""

import pyarrow as pa
import pyarrow.parquet as pq


def parse_parquet(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table in the content of a Parquet file, or these of its columns. Raises pyarrow's errors.

    `pq.read_table` is not used, because its threads may release `content` while the interpreter shuts
    down. That aborts the process (exit code 134 in 4 of 25 processes).
    """
    file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False, page_checksum_verification=True)
    return file.read(columns, use_threads=False)
