"""Text from models and backlogs, made safe to print."""

from __future__ import annotations

import re

# Everything a terminal could act on or be misled by: control characters but line feed and tab,
# the C1 range, and the marks that reorder text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with unsafe characters written out, as in `\\x1b`."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def bounded(text: str, most: int) -> str:
    """`text`, cut to `most` characters where it has more, and then saying so."""
    if len(text) <= most:
        return text
    return f"{text[:most]}\n[... {len(text) - most:,} more characters, in the Parquet file]"


def fenced(text: str) -> str:
    """Markdown that shows `text` as it is: nothing in it is a heading, a link, an image or HTML."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"
