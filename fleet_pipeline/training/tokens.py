"""The tokenizer: byte-level BPE, with the prompts' fixed sentences as single tokens.

A prompt is mostly text that never changes, and one token for each such sentence makes prompts a
third as long to train on. They are ordinary tokens: nothing in a text can open a turn with them.

Every word begins with a space, at the start of a line too (line breaks and list marks are tokens of
their own, and what follows one is given a leading space). So a word is the same tokens wherever it
stands, and copying it means repeating them.
"""

import re
from collections.abc import Iterable
from typing import Any, get_args

from transformers import PreTrainedTokenizerFast

from fleet_pipeline.deliberation import prompts
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.training.chatml import train_tokenizer
from fleet_pipeline.training.tasks import Pieces

VOCABULARY = 4_096
CONTEXT = 8_192
DASH = " —"
TASK = "<task>\n"
SENTENCES, NAMED = 30, 12  # numbered lines, and criteria and requirements, that have a token of their own


def fixed_texts() -> list[str]:
    """What stands in prompts and answers as it is, around what differs."""
    instructions = [
        prompts.PROPOSE_INSTRUCTION,
        prompts.CRITIQUE_INSTRUCTION,
        prompts.SELF_CRITIQUE_INSTRUCTION,
        prompts.REVISE_INSTRUCTION,
    ]
    texts = [prompts.SYSTEM, *(part for text in instructions for part in re.split(r"\{\w+\}", text))]
    for role in BUILT_IN_ROLES.values():
        texts.append(role.expertise)
        texts += [perspective.focus for perspective in role.perspectives]
    texts += [TASK, "<context>\n", "# Criteria", "# Requirements", "# Environment\n- "]
    texts += ["# Further facts\n- ", '<proposal label="', '<critique by="', '<critique by="yourself" of="', '">\n']
    texts += [f"\n</{kind}>\n\n" for kind in get_args(prompts.Kind)]
    texts += ["You are a", "\n\nYou are a", "\nYour perspective is", "\nIt is weak here:"]
    texts += [DASH, *new_lines(), *names(), "\nGiven:", "\nBegin:", "\nRisk:"]
    # A word after a fixed text keeps its leading space; what is short is no sentence but a word.
    trimmed = (text if text.endswith(("- ", "* ")) else text.rstrip(" ") for text in texts)
    return [text for text in dict.fromkeys(trimmed) if len(text) > 7 or "\n" in text or text == DASH]


def new_lines() -> list[str]:
    """How lines begin that have no name."""
    return [*(f"\n{number}." for number in range(1, SENTENCES + 1)), "\n- ", "\n* ", "\n\n", "\n"]


def names() -> list[str]:
    """How a criterion and a requirement begin, in prompts and in answers."""
    return [f"\n{letter}{number}." for letter in "CR" for number in range(1, NAMED + 1)]


def train(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the word pieces of `texts`."""
    return train_tokenizer(texts, VOCABULARY, CONTEXT, prefix_space=True, fixed=fixed_texts())


def pieces(tokenizer: Any) -> Pieces:
    """Word pieces of two letters and more, to make words of, so that all tokens are met in training."""
    tokens = tokenizer.get_vocab()
    return Pieces(
        first=sorted(token[1:] for token in tokens if re.fullmatch(r"Ġ[A-Za-z]{2,12}", token)),
        further=sorted(token for token in tokens if re.fullmatch(r"[a-z]{2,12}", token)),
    )
