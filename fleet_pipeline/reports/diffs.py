"""What a revision changed: the words that went, and those that came."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.deliberation.rows import UtteranceRow

# Of either text. With more, `difflib` may take minutes over a text that was made to be slow.
MOST_WORDS = 2_000
_WORD = re.compile(r"\S+\s*")

Kind = Literal["same", "gone", "new"]


class Piece(NamedTuple):
    """A stretch of text, with the white space after it."""

    kind: Kind
    text: str


def word_diff(before: str, after: str) -> list[Piece] | None:
    """The pieces of which `after`, and what is gone of `before`, consist, in order. None where a text is too long."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    if max(len(old), len(new)) > MOST_WORDS:
        return None
    # Compared without white space: a line that is broken elsewhere is no change.
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new])
    pieces: list[Piece] = []
    for kind, text in _pieces(matcher, old, new):
        if kind == "gone" and text:  # the last word of a text has no white space after it
            apart = " " if pieces and not pieces[-1].text[-1].isspace() else ""
            text = apart + text + ("" if text[-1].isspace() else " ")
        if text:
            pieces.append(Piece(kind, text))
    return pieces


def _pieces(matcher: "SequenceMatcher[str]", old: Sequence[str], new: Sequence[str]) -> Iterator[Piece]:
    for name, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if name == "equal":
            yield Piece("same", "".join(new[new_from:new_to]))
        else:
            yield Piece("gone", "".join(old[old_from:old_to]))
            yield Piece("new", "".join(new[new_from:new_to]))


class Revision(NamedTuple):
    """What an answer changed in the proposal before it. `pieces` is None where the texts are too long to be compared."""

    pieces: list[Piece] | None

    @property
    def words(self) -> str:
        """In a few words."""
        if self.pieces is None:
            return "too long to be compared word by word"
        gone, new = (sum(len(one.text.split()) for one in self.pieces if one.kind == kind) for kind in ("gone", "new"))
        return f"{new} words came, {gone} went" if gone or new else "no word was changed"


def revisions(about: Sequence[UtteranceRow]) -> dict[int, Revision]:
    """By the index of each revision that counts among the answers `about` one seat's proposal, in their order."""
    found: dict[int, Revision] = {}
    before: str | None = None
    for index, row in enumerate(about):
        if row.phase is Phase.CRITIQUE or row.error_type is not None:
            continue
        if before is not None:
            found[index] = Revision(word_diff(before, row.text))
        before = row.text
    return found
