"""The text of a user's file, whatever program wrote it, and where its lines are."""

import codecs
import re
from bisect import bisect_right

from fleet_pipeline.common.errors import InvalidRecord

_LINE_END = re.compile(r"\r\n|\n|\r")
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as `surrogateescape` decodes them


def decode(content: bytes) -> str:
    """The text without its byte-order mark: UTF-8, or UTF-16 where a mark says so, as Excel writes "Unicode text".

    Bytes that are no UTF-8 are kept as lone surrogates. `require_utf8` refuses them in the record that holds them.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").removeprefix("\ufeff")
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def require_utf8(text: str) -> None:
    """Raise `InvalidRecord` if the text of a record held bytes that are no UTF-8."""
    if match := _ESCAPED.search(text):
        at = len(text[: match.start()].encode("utf-8", "surrogateescape")) + 1
        raise InvalidRecord(f"not UTF-8 at byte {at}: write it in UTF-8 (in Excel: save as CSV UTF-8)")


class Lines:
    """Finds the line, from 1, of a place in a text. Lines end as Unix, Windows or old Macs end them."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]

    def line(self, position: int) -> int:
        return bisect_right(self._starts, position)

    def start(self, position: int) -> int:
        """Where the line of a place begins."""
        return self._starts[self.line(position) - 1]

    def column(self, position: int) -> int:
        return position - self.start(position) + 1
