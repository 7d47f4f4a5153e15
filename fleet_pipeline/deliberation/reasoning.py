"""Reasoning before an answer, in the marks of the model families that write it.

Reasoning is never shown to peers and never scored, so what is taken for it matters twice: reasoning that stays in the
answer is judged, and an answer that is taken for reasoning is lost.
"""

import re
from typing import NamedTuple

# (what opens reasoning, what closes it)
MARKS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, MiniMax, Hunyuan, Nemotron, Olmo, Step
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<thought>", "</thought>"),  # EXAONE
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
# Harmony, gpt-oss's format: segments for channels. `final` is the answer.
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>\s*(\w+)[^<]*<\|message\|>(.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)
HARMONY = "<|channel|>"
# The same where special tokens are not part of the text.
_BARE_HARMONY = re.compile(r"analysis(.*?)assistant(?:commentary.*?assistant)?final(.*)", re.DOTALL)
# Granite writes sentences instead of marks.
_SENTENCES = re.compile(
    r"(?:Here is|Here's) my thought process:(.*?)(?:Here is|Here's) my response:(.*)", re.DOTALL | re.IGNORECASE
)
_WRAPPED = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


class Split(NamedTuple):
    """An answer, and the reasoning before it."""

    reasoning: str
    answer: str


def split_reasoning(raw: str, opened: str | None = None) -> Split:
    """Split a raw answer into reasoning and answer, both without blanks around them.

    Reasoning stands at the beginning, between marks. If its mark is never closed, all is reasoning. Later marks belong to
    the answer. `opened` is the mark with which the prompt ended, as some chat templates have it. Where it ended with none,
    or nobody knows, a closing mark alone ends reasoning too, unless it stands in code, is spoken of (between blanks or
    quotes), or has nothing before it.
    """
    body = raw.strip()
    if HARMONY in body:
        return _channels(body)
    for pattern in (_BARE_HARMONY, _SENTENCES):
        if match := pattern.fullmatch(body):
            return Split(match[1].strip(), match[2].strip())
    reasoning = []
    opening = next((pair for pair in MARKS if body.startswith(pair[0])), None)
    if opening is None and opened:
        opening = next((pair for pair in MARKS if pair[0] == opened), None)
        body = f"{opened}{body}"
    if opening is None:
        return _closed_alone(body)
    while opening:
        thought, _, body = body.removeprefix(opening[0]).partition(opening[1])
        reasoning.append(thought.strip())
        body = body.strip()
        opening = next((pair for pair in MARKS if body.startswith(pair[0])), None)
    match = _WRAPPED.fullmatch(body)
    return Split("\n\n".join(filter(None, reasoning)), match[1].strip() if match else body)


def _closed_alone(body: str) -> Split:
    code = [match.span() for match in _CODE.finditer(body)]
    for opening, closing in MARKS:
        at = body.find(closing)
        if at <= 0 or opening in body[:at] or any(start <= at < end for start, end in code):
            continue
        before, after = body[:at], body[at + len(closing) :]
        spoken_of = before[-1:] in " \t'\"(" and after[:1] in " \t'\").,;:"
        if before.strip() and not spoken_of:
            return Split(before.strip(), after.strip())
    return Split("", body)


def _channels(body: str) -> Split:
    segments = _CHANNEL.findall(body)
    answer = "\n\n".join(text.strip() for channel, text in segments if channel == "final")
    reasoning = "\n\n".join(text.strip() for channel, text in segments if channel != "final")
    return Split(reasoning, answer) if segments else Split("", body)
