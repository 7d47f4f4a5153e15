"""Texts as scores see them: units (sentences, list items, lines of code) of stemmed words."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

MAX_CHARACTERS = 200_000  # of a text that is read
# Texts as long as models write them are kept while they are scored; what is longer is read anew.
MAX_KEPT = 20_000
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_END = re.compile(r"\n|(?<=[.!?;:])\s+|(?<=[。！？；：।])")  # noqa: RUF001 - full stops that need no space
_UNSPACED = re.compile("[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u0e00-\u0eff]")


class Unit(NamedTuple):
    """`text` as it stands, and its words in order, as `stems` gives them."""

    text: str
    stems: tuple[str, ...]


def units(text: str) -> tuple[Unit, ...]:
    """Sentences and lines that hold a word. snake_case and camelCase names are taken apart."""
    return _kept_units(text) if len(text) <= MAX_KEPT else _units(text)


def stems(text: str) -> tuple[str, ...]:
    """Its words in order: English stems (Snowball), nearly the words themselves in other languages; function
    words of seven languages with a hyphen before them. Scripts without spaces come as pairs of characters.
    """
    quarantined = _HUMP.sub(" ", text)
    if quarantined.isascii():  # which most are, and which is read three times as fast
        return tuple(map(_stem, _ASCII_WORD.findall(quarantined.lower())))
    return tuple(map(_stem, _words(unicodedata.normalize("NFKC", quarantined).lower())))


def content(words: tuple[str, ...]) -> frozenset[str]:
    """The stems that mean something."""
    return frozenset(word for word in words if word[0] != "-")


@cache
def general_stems() -> frozenset[str]:
    """Words that fit any task and so say nothing about one: `general_words.txt`."""
    return frozenset(_stem(word) for word in _list("general_words.txt"))


def _units(text: str) -> tuple[Unit, ...]:
    parts = (part.strip() for part in _END.split(text[:MAX_CHARACTERS]))
    found = (Unit(part, stems(part)) for part in parts if part)
    return tuple(unit for unit in found if unit.stems)


_kept_units = lru_cache(maxsize=4_096)(_units)


def _words(text: str) -> Iterator[str]:
    for word in _word().findall(text):
        if _UNSPACED.search(word):
            yield from (word[place : place + 2] for place in range(max(1, len(word) - 1)))
        else:
            yield word


@cache
def _word() -> re.Pattern[str]:
    """Letters and digits with their combining marks, which `\\w` leaves out: Hindi is cut at vowels without."""
    marks = "".join(
        chr(code) for code in range(0x300, sys.maxunicode) if unicodedata.category(chr(code)) in ("Mn", "Mc")
    )
    return re.compile(rf"[^\W_](?:[^\W_]|[{re.escape(marks)}])*")


@lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    # A single letter is a variable or an initial, a single digit a list mark.
    if word in _function_words() or (len(word) == 1 and not _UNSPACED.match(word)):
        return f"-{word}"
    return str(_stemmer().stemWord(word))


@cache
def _stemmer():  # type: ignore[no-untyped-def]
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@cache
def _function_words() -> frozenset[str]:
    # "don't" is read as "don" and "t".
    return frozenset(part for word in _list("function_words.txt") for part in _word().findall(word))


def _list(name: str) -> list[str]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]
