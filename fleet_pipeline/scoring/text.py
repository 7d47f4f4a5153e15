"""Texts as scores see them: units (sentences, list items, lines of code) of stemmed words."""

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

MAX_CHARACTERS = 200_000  # the rest of a text is not read
# Characters. Texts of the length that models write are cached while they are scored; longer ones are read anew.
MAX_KEPT = 20_000
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# These two begin with characters, which the engine of `re` looks for at once. That is two to three times as fast as
# looking behind at every character. Every scored text is read with them.
_HUMP = re.compile(r"[A-Z](?<=[a-z0-9][A-Z])")
_END = re.compile(r"\n|\s(?<=[.!?;:]\s)\s*")
_UNSPACED_END = re.compile(r"(?<=[。！？；：।])")  # noqa: RUF001 - full stops that need no space
_UNSPACED = re.compile("[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u0e00-\u0eff]")


class Unit(NamedTuple):
    """`text` as it stands, and the `stems` of its words in order."""

    text: str
    stems: tuple[str, ...]


def units(text: str) -> tuple[Unit, ...]:
    """Sentences and lines that hold a word. Names in snake_case and camelCase are split."""
    return _kept_units(text) if len(text) <= MAX_KEPT else _units(text)


def stems(text: str) -> tuple[str, ...]:
    """The words in order, as English stems (Snowball). In other languages these are nearly the words themselves.
    Function words of seven languages get a leading hyphen. Scripts without spaces give pairs of characters.
    """
    spaced = _HUMP.sub(r" \g<0>", text)
    if spaced.isascii():  # the most frequent case, and three times as fast
        return _ascii_stems(spaced.lower())
    return tuple(map(_stem, _words(unicodedata.normalize("NFKC", spaced).lower())))


def content(words: tuple[str, ...]) -> frozenset[str]:
    """The stems that carry meaning: all without a leading hyphen."""
    return frozenset([word for word in words if word[0] != "-"])


@cache
def general_stems() -> frozenset[str]:
    """Stems of the words that fit any task and so say nothing about one: `general_words.txt`."""
    return frozenset(_stem(word) for word in _words_of_file("general_words.txt"))


def _units(text: str) -> tuple[Unit, ...]:
    read = text[:MAX_CHARACTERS]
    lines = _END.split(read)
    if not read.strip():
        return ()
    if not read.isascii():
        parts = [part.strip() for line in lines for part in _UNSPACED_END.split(line)]
        candidates = (Unit(part, stems(part)) for part in parts if part)
    else:  # the same, with one call for all parts where that is possible: a text has thirty
        parts = [part for line in lines if (part := line.strip())]
        lowered = _HUMP.sub(r" \g<0>", "\n".join(parts)).lower().split("\n")
        candidates = (Unit(part, _ascii_stems(low)) for part, low in zip(parts, lowered, strict=True))
    return tuple(unit for unit in candidates if unit.stems)


_kept_units = lru_cache(maxsize=4_096)(_units)


def _words(text: str) -> Iterator[str]:
    for word in _word_pattern().findall(text):
        if _UNSPACED.search(word):
            yield from (word[start : start + 2] for start in range(max(1, len(word) - 1)))
        else:
            yield word


@cache
def _word_pattern() -> re.Pattern[str]:
    """Letters and digits with their combining marks. `\\w` leaves marks out, which would cut Hindi at vowels."""
    marks = "".join(
        chr(code) for code in range(0x300, sys.maxunicode) if unicodedata.category(chr(code)) in ("Mn", "Mc")
    )
    return re.compile(rf"[^\W_](?:[^\W_]|[{re.escape(marks)}])*")


def _ascii_stems(lowered: str) -> tuple[str, ...]:
    return tuple(map(_stem, _ASCII_WORD.findall(lowered)))


class _Stems(dict[str, str]):
    """Stems of words, each made once. Twice as fast as `lru_cache`, and every word of every text is looked up."""

    MAX_WORDS = 200_000

    def __missing__(self, word: str) -> str:
        if len(self) >= self.MAX_WORDS:
            self.clear()
        self[word] = found = _make_stem(word)
        return found


_stem = _Stems().__getitem__
# The stemmer keeps the word that it works on. Two threads at once had wrong stems, one word in a hundred.
_stemming = Lock()


def _make_stem(word: str) -> str:
    # A single letter is a variable or an initial. A single digit is a list marker.
    if word in _function_words() or (len(word) == 1 and not _UNSPACED.match(word)):
        return f"-{word}"
    with _stemming:
        return str(_stemmer().stemWord(word))


@cache
def _stemmer():  # type: ignore[no-untyped-def]
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@cache
def _function_words() -> frozenset[str]:
    # "don't" is read as "don" and "t".
    return frozenset(part for word in _words_of_file("function_words.txt") for part in _word_pattern().findall(word))


def _words_of_file(name: str) -> list[str]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]
