"""Text of a model as Markdown that does nothing: it keeps headings, lists, emphasis, line breaks and blocks of code, and has no
link, no picture and no HTML, because a viewer would fetch or follow what it names.
"""

import re
from collections.abc import Sequence

from fleet_pipeline.common.text import bounded, fenced, printable
from fleet_pipeline.reports.diffs import Piece

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^`]*$")
# Of links, pictures, HTML, entities, autolinks, footnotes, tables, struck text and code within a line. Code is shown with its marks, because what
# is code to one reader of backticks is a picture to another.
_ACTIVE = re.compile(r"[\\`\[\]<>&!|~@:]")
_ANY_MARK = re.compile(rf"{_ACTIVE.pattern}|[*_#+=-]")  # those of emphasis, headings and lists as well


def inert(text: str, most: int) -> str:
    """At most `most` characters of `text`."""
    parts: list[str] = []
    code: list[str] | None = None
    mark = ""
    for line in bounded(text, most).splitlines():
        found = _FENCE.match(line)
        if code is None and found:
            code, mark = [], found[1]
        elif code is not None and found and line.strip() == found[1] and found[1].startswith(mark):
            parts.append(f"\n{fenced(chr(10).join(code))}\n")
            code = None
        elif code is not None:
            code.append(line)
        else:
            parts.append(
                f"{plain(line.expandtabs(4))}  " if line.strip() else ""
            )  # two blanks: a line ends where it ended
    if code is not None:
        parts.append(f"\n{fenced(chr(10).join(code))}\n")
    return "\n".join(parts)


def plain(text: str) -> str:
    """One line, with all marks of what could have an effect as themselves."""
    return _as_themselves(text, _ACTIVE)


def _as_themselves(text: str, marks: re.Pattern[str]) -> str:
    return marks.sub(lambda found: f"&#{ord(found.group())};", printable(text))


def diff(pieces: Sequence[Piece]) -> str:
    """Words that went are struck out, words that came are bold."""
    marks = {"gone": "~~", "new": "**"}
    parts = []
    for kind, text in pieces:
        for line in re.split(r"(\n+)", text):
            words = line.strip()
            if not words:
                parts.append("  \n" * line.count("\n") or " ")
                continue
            mark = marks.get(kind, "")
            # Marks of lists and headings of the texts have no place among words that are struck out.
            parts.append(f"{mark}{_as_themselves(words, _ANY_MARK)}{mark} ")
    return "".join(parts)
