"""Rows of a Parquet file as JSON has them. A value that JSON lacks becomes the text people write for it, or is refused."""

import math
from collections import Counter
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa

from fleet_pipeline.common.errors import InvalidInput, InvalidRecord
from fleet_pipeline.common.parquet import parse_parquet
from fleet_pipeline.ingest.json_records import Records


def parquet_records(content: bytes) -> Records:
    """Rows as objects, numbered from 1. Raises `InvalidInput` if the content is not Parquet, or damaged."""
    try:
        table = parse_parquet(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"not a Parquet file, or a damaged one: {detail}") from error
    if repeated := sorted(name for name, count in Counter(table.column_names).items() if count > 1):
        raise InvalidInput(f"has the column {', '.join(repeated)} twice; keep one of each")
    for index in range(table.num_rows):
        yield index + 1, lambda index=index: _row(table, index)  # type: ignore[misc]


def _row(table: pa.Table, index: int) -> Any:
    row = {}
    for name in table.column_names:
        try:
            value = table.column(name)[index].as_py()
        except (pa.ArrowException, ValueError, OverflowError) as error:  # such as a date after the year 9999
            detail = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InvalidRecord(f"cannot be read: {detail}", field=name) from None
        row[name] = json_value(value, name)
    return row


def json_value(value: Any, field: str) -> Any:
    """`value` as JSON has it: numbers with a fixed number of digits, dates and ids are written as text.

    Raises `InvalidRecord`, which names the field, for bytes, infinite numbers and other kinds. NaN is a missing value.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise InvalidRecord("holds an infinite number; write a number or a text", field=field)
        return None if math.isnan(value) else value
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID, timedelta)):
        return str(value)
    if isinstance(value, dict):
        return {name: json_value(item, f"{field}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # an Arrow map
            if not all(isinstance(name, str) for name, _ in value):
                raise InvalidRecord("holds a map whose keys are no texts; write them as texts", field=field)
            if len(dict(value)) < len(value):
                raise InvalidRecord("holds a map with a key twice; keep one", field=field)
            return {name: json_value(item, f"{field}.{name}") for name, item in value}
        return [json_value(item, f"{field}.{number}") for number, item in enumerate(value)]
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidRecord("holds bytes, which no text can show; write them as text, such as base64", field=field)
    raise InvalidRecord(f"holds a value of the kind {type(value).__name__}; write it as text", field=field)
