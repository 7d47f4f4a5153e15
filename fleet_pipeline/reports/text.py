"""Text from models and backlogs, made safe to print."""

from __future__ import annotations

import re

# Everything a terminal could act on or be misled by: control characters but line feed and tab,
# the C1 range, and the marks that reorder text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with unsafe characters written out, as in `\\x1b`."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
