"""What was said: completions as engines return them, utterances as they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fleet_pipeline.deliberation.prompts import Phase, Prompt

_OPEN, _CLOSE = "<think>", "</think>"


class Status(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"


class AgentError(StrEnum):
    """Why an utterance does not count."""

    OVERLONG = "overlong"  # the prompt leaves no room for an answer in the model's context
    EMPTY = "empty"  # nothing but white space or reasoning
    CUT_OFF = "cut_off"  # the answer reached its token limit
    ENGINE = "engine"  # the engine failed on this request
    DEADLINE = "deadline"  # still being generated when the deliberation's time was up
    FATAL = "fatal"  # the engine died again and again while this was being generated, at last with nothing else


# A fresh seed can lead to a shorter or a non-empty answer; the same prompt stays as long as it is.
RETRY_HELPS = frozenset({AgentError.EMPTY, AgentError.CUT_OFF, AgentError.ENGINE})


@dataclass(frozen=True)
class Completion:
    """An engine's answer to one prompt. Times are seconds since the epoch, tokens are counts.

    An engine sets `error` for what only it can know; that an answer is empty or cut off is seen
    from `text` and `finish_reason` ("stop", "length", ...) by the protocol.
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
    """One thing said by one seat, or its failure to say it."""

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
    """A finished deliberation: everything said, in the order of asking, and how it ended."""

    deliberation_id: str
    status: Status
    utterances: tuple[Utterance, ...]
    error_message: str = ""


def classify(prompt: Prompt, completion: Completion) -> Utterance:
    """Judge one answer: split its reasoning off and decide whether it counts."""
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
    """(reasoning, answer) of a raw answer.

    Reasoning is a leading `<think>...</think>` block. Some chat templates put the opening tag
    into the prompt, so a closing tag alone ends reasoning too; an opening tag that is never
    closed means that the whole answer is reasoning. Tags further on belong to the answer.
    """
    body = raw.strip()
    if body.startswith(_OPEN):
        reasoning, _, answer = body.removeprefix(_OPEN).partition(_CLOSE)
    elif _CLOSE in body and _OPEN not in body.partition(_CLOSE)[0]:
        reasoning, _, answer = body.partition(_CLOSE)
    else:
        return "", body
    return reasoning.strip(), answer.strip()
