"""What somebody sends as one JSON object, read strictly: a line of a backlog, or a request.

JSON lets much through that would be lost or break later: a field given twice, nesting without end,
numbers of thousands of digits. It is refused here, in words for whoever sent it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from fleet_pipeline.common.errors import InvalidRecord

MAX_BYTES = 2_000_000  # of one entry


def parse_json(line: bytes, max_bytes: int = MAX_BYTES) -> Any:
    """The JSON value. Raises `InvalidRecord`."""
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


def reject_duplicate_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a field come twice and keeps the last; here nobody's words are dropped in silence."""
    entry: dict[str, Any] = {}
    for name, value in pairs:
        if name in entry:
            raise InvalidRecord("given twice; keep one", field=name[:80])
        entry[name] = value
    return entry


def drop_nulls(value: Any) -> Any:
    """Drop nulls and NaNs: many writers give every field of every row, whether it has a value or not."""
    if isinstance(value, dict):
        return {
            name: drop_nulls(item)
            for name, item in value.items()
            if item is not None and not (isinstance(item, float) and math.isnan(item))
        }
    return value
