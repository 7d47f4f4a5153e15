"""Transcripts of deliberations: completions as engines return them, utterances as they are stored."""

from dataclasses import dataclass
from enum import StrEnum

from fleet_pipeline.deliberation.prompts import Phase, Prompt

# Begins the name of the engine in rows that no model made.
SYNTHETIC = "synthetic: "
_OPEN, _CLOSE = "<think>", "</think>"


class Status(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"


class AgentError(StrEnum):
    """Why an utterance does not count."""

    OVERLONG = "overlong"  # the prompt leaves no room for an answer in the model's context
    EMPTY = "empty"  # only white space or reasoning
    CUT_OFF = "cut_off"  # the answer reached its token limit
    ENGINE = "engine"  # the engine failed on this prompt
    DEADLINE = "deadline"  # still being generated when the deliberation's time was up
    FATAL = "fatal"  # the engine crashed repeatedly during this deliberation, the last time with no other running


# A fresh seed can lead to a shorter or a non-empty answer. It cannot shorten an overlong prompt.
RETRY_HELPS = frozenset({AgentError.EMPTY, AgentError.CUT_OFF, AgentError.ENGINE})


@dataclass(frozen=True)
class Completion:
    """An engine's answer to one prompt. Times are seconds since the epoch, tokens are counts.

    An engine sets `error` for failures that only it can detect. The protocol detects empty and cut-off
    answers from `text` and `finish_reason` ("stop", "length", ...).
    """

    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    temperature: float | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    error: AgentError | None = None
    error_message: str = ""


@dataclass(frozen=True)
class Utterance:
    """One answer of one seat, or its failure to answer."""

    prompt: Prompt
    completion: Completion
    text: str
    reasoning: str
    error: AgentError | None
    error_message: str

    @property
    def self_critique(self) -> bool:
        return self.prompt.phase is Phase.CRITIQUE and self.prompt.seat == self.prompt.about


@dataclass(frozen=True)
class Transcript:
    """A finished deliberation: every utterance in the order of the prompts, and the final status."""

    deliberation_id: str
    status: Status
    utterances: tuple[Utterance, ...]
    error_message: str = ""


def classify(prompt: Prompt, completion: Completion) -> Utterance:
    """The utterance of one answer. Splits off the reasoning, and sets `error` if the answer does not count."""
    reasoning, text = split_reasoning(completion.text)
    error, message = completion.error, completion.error_message
    if error is None and completion.finish_reason == "length":
        error = AgentError.CUT_OFF
        message = f"cut off after {completion.completion_tokens} tokens; raise max_tokens or max_model_len"
    elif error is None and not text:
        error = AgentError.EMPTY
        message = "only reasoning, no answer" if reasoning else "empty answer"
    return Utterance(prompt, completion, text, reasoning, error, message)


def split_reasoning(raw: str) -> tuple[str, str]:
    """Split a raw answer into (reasoning, answer).

    Reasoning is a leading `<think>...</think>` block. Some chat templates put the opening tag into
    the prompt, so a closing tag alone also ends reasoning. If an opening tag is never closed, the
    whole answer is reasoning. Later tags belong to the answer.
    """
    body = raw.strip()
    if body.startswith(_OPEN):
        reasoning, _, answer = body.removeprefix(_OPEN).partition(_CLOSE)
    elif _CLOSE in body and _OPEN not in body.partition(_CLOSE)[0]:
        reasoning, _, answer = body.partition(_CLOSE)
    else:
        return "", body
    return reasoning.strip(), answer.strip()
