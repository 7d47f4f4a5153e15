"""What stands of an answer as a model wrote it: echoes are taken off, and what a limit or a loop broke is dropped.

Measured with small models (docs/models.md): of a hundred answers several begin or end with the tags and titles of
their own prompt, some are cut at their token limit, and some repeat a passage until they are stopped. Most of what
such an answer says before that is as good as any other.
"""

import json
import re
from typing import Any, Literal

from fleet_pipeline.common.text import whole

# Why an answer that counts is shorter than what the model wrote. "truncated": it was cut at its token limit, and the
# broken end is dropped. "looped": it repeated itself, and all but the first time is dropped.
Shortened = Literal["truncated", "looped"]

# What a council does with an answer that was cut at its token limit. "keep": it counts where what stands of it is worth
# reading. "refuse": it never counts.
Truncated = Literal["keep", "refuse"]

# What stands of a shortened answer is worth reading from this many characters, about 40 words of English. A shorter rest
# is mostly an opening.
LEAST_CHARACTERS = 200
# A passage that stands so often in a row, to the end of the text, is a loop. vLLM's own detection uses the same count.
LOOP_COUNT = 3
# All of it together is at least so many characters long. The noughts of "costs 1000" and the rule of a table are none.
LEAST_LOOP = 60

_SENTENCE_END = re.compile(r"[.!?…]['\"”’)\]*_`]*(?=\s|$)|[。！？]['\"”’」）]*")  # noqa: RUF001
# A sentence or a line that says something.
_UNIT = re.compile(rf"[^\n]*?[^\W\d_][^\n]*?(?:{_SENTENCE_END.pattern}|\n|\Z)")
_ENDED = re.compile(rf"(?:{_SENTENCE_END.pattern}|\n)\Z")
_LAST_UNITS, _MOST_DIFFERENT = 10, 3
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
# A line that only leads to what follows: a heading, the mark of a list item, "Steps:".
_LEADS_ON = re.compile(r"\s*(?:#+ .*|#+|[-*+]|\d+[.)]|.*:|\*\*[^*]+\*\*)\s*")
# Tags of the prompt's blocks at the beginning or the end of an answer, and lines that are a title of its lists
# (`fleet_pipeline.deliberation.prompts`).
_TAG = re.compile(r"</?\s*(?:task|context|proposal|critique)\b[^<>\n]*>")
_TITLE = re.compile(r"#+ (?:Criteria|Requirements|Environment|Further facts)[ \t]*:?[ \t]*")


def without_echoes(text: str) -> str:
    """`text` without the tags and titles of the prompt at its beginning and its end, and blanks around it."""
    text = text.strip()
    while echo := _first_echo(text):
        text = text[len(echo) :].lstrip()
    while echo := _last_echo(text):
        text = text[: -len(echo)].rstrip()
    return text


def _first_echo(text: str) -> str:
    if tag := _TAG.match(text):
        return tag[0]
    line = text.partition("\n")[0]
    return line if _TITLE.fullmatch(line) else ""


def _last_echo(text: str) -> str:
    tag = text[text.rfind("<") :] if text.endswith(">") else ""
    if _TAG.fullmatch(tag):
        return tag
    line = text[text.rfind("\n") + 1 :]
    return line if _TITLE.fullmatch(line) else ""


def before_the_cut(text: str) -> str:
    """`text`, which was cut anywhere, up to the end of its last whole sentence or line. An open code block is closed."""
    at_line = text.rfind("\n") + 1
    fences = [match[1] for match in _FENCE.finditer(text[:at_line])]
    if len(fences) % 2:
        return f"{text[:at_line].rstrip()}\n{fences[-1]}"
    if _FENCE.match(text, at_line):  # a block that had just begun is left out
        text = text[:at_line]
    ends = [match.end() for match in _SENTENCE_END.finditer(text, at_line)]
    lines = text[: ends[-1] if ends else at_line].rstrip().splitlines()
    while lines and (_LEADS_ON.fullmatch(lines[-1]) or not lines[-1].strip()):
        del lines[-1]
    return "\n".join(lines).rstrip()


def before_the_loop(text: str) -> str:
    """`text` up to the end of the first time of the passage that it ends by repeating; all of it where there is none.

    A loop may be of the same characters, or of the same sentences with other numbers: "R6. You think about your
    customers.", "R7. You think about your customers."
    """
    return _before_the_same_sentences(_before_the_same_characters(text))


def _before_the_same_characters(text: str) -> str:
    backwards = text[::-1]
    same = _z_function(backwards)
    # The tail of length same[period] + period has this period. The longest such tail is the loop.
    periods = [
        period for period in range(1, len(text)) if same[period] >= max((LOOP_COUNT - 1) * period, LEAST_LOOP - period)
    ]
    if not periods:
        return text
    period = max(periods, key=lambda period: same[period] + period)
    end = len(text) - same[period]
    # What stands before the loop may end as the passage does. The loop then seems to begin in the midst of a sentence.
    if whole := _SENTENCE_END.search(text, end - 1, end + period):
        end = whole.end()
    return text[:end].rstrip()


def _before_the_same_sentences(text: str) -> str:
    """A loop if, of the last ten sentences or lines, no more than three are different in their letters."""
    ends = [match.end() for match in _UNIT.finditer(text)]
    starts = [0, *ends]
    units = [_letters(text[start:end]) for start, end in zip(starts, ends, strict=False)]
    if units and not _ENDED.search(text):
        del units[-1]  # broken
    tail = set(units[-_LAST_UNITS:])
    if len(units) < _LAST_UNITS or len(tail) > _MOST_DIFFERENT:
        return text
    first = len(units)
    while first and units[first - 1] in tail:
        first -= 1
    # All that is different in the loop stands within its first time.
    last = max(units.index(unit, first) for unit in tail)
    return text[: ends[last]].rstrip()


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalpha())


def worth_reading(kept: str) -> bool:
    """Whether what stands of a shortened answer can count as an answer."""
    return len(kept) >= LEAST_CHARACTERS


def _z_function(text: str) -> list[int]:
    """At each index: how many characters from there are those of the beginning of `text`. Linear in its length
    (Gusfield 1997, Algorithms on Strings, Trees, and Sequences, section 1.4).
    """
    same = [0] * len(text)
    left = right = 0
    for index in range(1, len(text)):
        if index < right:
            same[index] = min(right - index, same[index - left])
        while index + same[index] < len(text) and text[same[index]] == text[index + same[index]]:
            same[index] += 1
        if index + same[index] > right:
            left, right = index, index + same[index]
    return same


def read_json(text: str) -> Any:
    """The JSON value that an answer is. Raises `ValueError`, `RecursionError`.

    Grammars allow control characters inside strings, which strict JSON does not. Halves of characters, which JSON can escape,
    are replaced: an answer of one could be stored nowhere, and ended the run of all.
    """
    value = json.loads(text, strict=False)
    again = json.dumps(value, ensure_ascii=False)
    try:
        again.encode()
    except UnicodeEncodeError:
        return json.loads(whole(again))
    return value
