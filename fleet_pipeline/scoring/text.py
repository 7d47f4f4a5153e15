"""Texts as scores see them: units (sentences, list items, lines of code) of stemmed words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

MAX_CHARACTERS = 200_000  # of a text that is read
STOP_LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pt")
_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_END = re.compile(r"\n|(?<=[.!?;:])\s+|(?<=[。！？；：])")  # noqa: RUF001 - full stops of Chinese need no space
_IDEOGRAPHS = "\u2e80"


class Unit(NamedTuple):
    """`text` as it stands, and its words' stems in order, stop words included."""

    text: str
    stems: tuple[str, ...]


@lru_cache(maxsize=4_096)
def units(text: str) -> tuple[Unit, ...]:
    """Sentences and lines that hold a word. snake_case and camelCase names are taken apart."""
    parts = (part.strip() for part in _END.split(text[:MAX_CHARACTERS]))
    found = (Unit(part, stems(part)) for part in parts if part)
    return tuple(unit for unit in found if unit.stems)


def stems(text: str) -> tuple[str, ...]:
    """English stems (Snowball); words of other languages come out nearly as they are."""
    return tuple(_stem(word) for word in _WORD.findall(_HUMP.sub(" ", text).lower()))


def content(words: Sequence[str]) -> frozenset[str]:
    """The stems that mean something: no stop words of seven languages, no single letters."""
    stop = _stop_stems()
    return frozenset(word for word in words if (len(word) > 1 or word >= _IDEOGRAPHS) and word not in stop)


@cache
def general_stems() -> frozenset[str]:
    """Words that fit any task and so say nothing about one: `general_words.txt`."""
    return frozenset(map(_stem, Path(__file__).with_name("general_words.txt").read_text(encoding="utf-8").split()))


@lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    return str(_stemmer().stemWord(word))


@cache
def _stemmer():  # type: ignore[no-untyped-def]
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@cache
def _stop_stems() -> frozenset[str]:
    from stop_words import get_stop_words

    words = {part for language in STOP_LANGUAGES for word in get_stop_words(language) for part in _WORD.findall(word)}
    return frozenset(words | {_stem(word) for word in words})
