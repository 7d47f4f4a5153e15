"""Strict parsing of one JSON object from outside: a line of a backlog, or a request.

JSON permits input that would be lost or break later: duplicate fields, unlimited nesting, numbers of
thousands of digits. This module refuses it, with an error text for the sender.
"""

import json
import math
from collections.abc import Iterable
from typing import Any

from pydantic import JsonValue

from fleet_pipeline.common.errors import InvalidRecord

JsonObject = dict[str, JsonValue]

MAX_BYTES = 2_000_000  # per entry


def parse_json(line: bytes, max_bytes: int = MAX_BYTES) -> Any:
    """The JSON value in `line`. Raises `InvalidRecord`."""
    if len(line) > max_bytes:
        raise InvalidRecord(f"{len(line)} bytes long; at most {max_bytes} fit: shorten its texts")
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=reject_duplicate_keys)
    except UnicodeDecodeError as error:
        raise InvalidRecord(f"not UTF-8 at byte {error.start + 1}: write it in UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidRecord(f"not valid JSON at column {error.colno}: {error.msg}; expected one JSON object") from None
    except RecursionError:
        raise InvalidRecord("nested too deeply") from None
    except ValueError as error:  # numbers of thousands of digits
        raise InvalidRecord(str(error)) from None


def reject_duplicate_keys(pairs: Iterable[tuple[str, JsonValue]]) -> JsonObject:
    """The fields as a dict. Raises `InvalidRecord` for a duplicate, of which `json` would silently keep the last."""
    entry: JsonObject = {}
    for name, value in pairs:
        if name in entry:
            raise InvalidRecord("given twice; keep one", field=name[:80])
        entry[name] = value
    return entry


def drop_nulls(value: Any) -> Any:
    """`value` without nulls and NaNs. Many writers output every field of every row, even fields without a value."""
    if isinstance(value, dict):
        return {
            name: drop_nulls(item)
            for name, item in value.items()
            if item is not None and not (isinstance(item, float) and math.isnan(item))
        }
    return value
