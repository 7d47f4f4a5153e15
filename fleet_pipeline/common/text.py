"""Makes text from models and backlogs safe to print."""

import re
import unicodedata
from collections.abc import Mapping

# Characters that could control a terminal or mislead its reader: control characters except line feed
# and tab, the C1 range, the marks that reorder text, other line ends, and characters that nobody sees.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing: blanks of any kind, control characters and marks without width."""
    return all(unicodedata.category(char)[0] in "ZC" for char in text)


def printable(text: str) -> str:
    """`text` with unsafe characters escaped, as in `\\x1b`."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def shown(text: str) -> str:
    """`text` with unsafe characters escaped, and the half characters that stand for bytes of a file's name: no encoder takes them."""
    return printable(text.encode("utf-8", "backslashreplace").decode())


def whole(text: str) -> str:
    """`text` without halves of characters, which JSON can hold and no file can: pairs become one, others a mark."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def counted(number: int) -> str:
    return f"{number:,} deliberation{'' if number == 1 else 's'}"


def grouped(reasons: Mapping[str, str], most: int, named: int = 5) -> tuple[list[str], int]:
    """A line for each reason, with the keys that it is of, and the number of keys whose reasons are beyond the `most` that are told."""
    found: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        found.setdefault(reason, []).append(key)
    lines = []
    for reason, keys in list(found.items())[:most]:
        more = f" and {len(keys) - named} more" if len(keys) > named else ""
        lines.append(f"{', '.join(keys[:named])}{more}: {reason}")
    return lines, sum(len(keys) for keys in list(found.values())[most:])


def bounded(text: str, most: int) -> str:
    """`text`, cut to `most` characters if it is longer, with a note on how many are missing."""
    if len(text) <= most:
        return text
    return f"{text[:most]}\n[... {len(text) - most:,} more characters, in the Parquet file]"


def fenced(text: str) -> str:
    """A Markdown code block that shows `text` literally: no heading, link, image or HTML in it has an effect."""
    longest_run = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest_run + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"
