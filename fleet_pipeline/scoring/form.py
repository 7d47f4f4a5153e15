"""How much a proposal says, and how it is laid out: what tells stronger answers from weaker ones of the same subject and length.

The weights were chosen by hand, in round numbers, and measured on published answers of models of known strength
(`fleet_pipeline_tests.scoring.real_answers`). Some of this is a style that judges like, and whoever knows it can imitate it. So each
sign is bounded, what is laid out counts no further than there are units that say something new, and the score counts
less of `form` where a proposal is not relevant (`ranking`).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.scoring.relevance import reference_text
from fleet_pipeline.scoring.text import MAX_CHARACTERS, content, general_stems, units

FORM_VERSION = "1"
# A unit says something new from so many words on that neither the task, nor any general text, nor the units before it has.
TELLING = 2
# Signs count up to here; logarithmically below, because the eighth heading says less of an answer than the first.
MOST_WORDS, MOST_MARKS, MOST_PARAGRAPHS = 200, 8, 10
# Words a unit: at the first, units are as easily read as can be; at the second they are not.
BRIEF, LONG = 8, 30
WEIGHTS = {"specificity": 0.5, "marks": 0.25, "paragraphs": 0.1, "brevity": 0.15}

# Of spaces and tabs alone: `\s*` would read all blank lines that follow, again from each of them.
_MARK = re.compile(r"^[ \t]*(?:#{1,6}[ \t]|\|)|\*\*[^*\n]+\*\*", re.MULTILINE)
_BLOCK = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_PARAGRAPH = re.compile(r"\n\s*\n")
# Prose of the languages whose function words are known has 0.3 to 0.5 of them. A task in another one has a few at most: names
# and terms in English.
KNOWN_LANGUAGE, MOST_EXPECTED = 0.15, 0.4


class Form(NamedTuple):
    """Signs from 0 to 1. `repetition` and `naturalness` are factors of the whole, the others its weighted parts."""

    specificity: float  # different words beyond the task's and general ones
    marks: float  # headings, bold text, code blocks, rows of tables
    paragraphs: float
    brevity: float  # of sentences
    repetition: float  # share of word triples that were there before
    naturalness: float  # function words outside of code, beside those of the task: a heap of rare words has none

    @property
    def value(self) -> float:
        laid_out = sum(weight * getattr(self, name) for name, weight in WEIGHTS.items())
        return float(laid_out * (1 - self.repetition / 2) * self.naturalness)


def form(text: str, task: Task) -> Form:
    asked = [word for unit in units(reference_text(task)) for word in unit.stems]
    known = set(content(tuple(asked))) | general_stems()
    text = text[:MAX_CHARACTERS]
    said = units(text)
    words = [word for unit in said for word in unit.stems]
    new: set[str] = set()
    telling = 0
    for unit in said:
        fresh = content(unit.stems) - known - new
        telling += len(fresh) >= TELLING
        new |= fresh
    triples = list(zip(words, words[1:], words[2:], strict=False))
    prose, blocks = _BLOCK.subn("", text)
    marks, paragraphs = blocks + len(_MARK.findall(prose)), len(_PARAGRAPH.findall(text))
    mean = len(words) / len(said) if said else LONG
    told = words if not blocks else [word for unit in units(prose) for word in unit.stems]
    return Form(
        _share(len(new), MOST_WORDS),
        _share(min(marks, telling), MOST_MARKS),
        _share(min(paragraphs, telling), MOST_PARAGRAPHS),
        min(max((LONG - mean) / (LONG - BRIEF), 0.0), 1.0),
        1 - len(set(triples)) / len(triples) if triples else 0.0,
        _naturalness(told, asked),
    )


def _share(count: int, most: int) -> float:
    return min(math.log1p(count) / math.log1p(most), 1.0)


def _naturalness(prose: list[str], asked: list[str]) -> float:
    """Of what stands outside of code blocks; 1 where nothing does. 1 from half of the task's share of function words on."""
    expected = _function_share(asked)
    if expected < KNOWN_LANGUAGE or not prose:
        return 1.0
    return min(_function_share(prose) / (min(expected, MOST_EXPECTED) / 2), 1.0)


def _function_share(words: list[str]) -> float:
    """Without single characters, which get the mark of a function word as well."""
    long = [word for word in words if len(word) > 2 or word[0] != "-"]
    return sum(word[0] == "-" for word in long) / len(long) if long else 0.0
