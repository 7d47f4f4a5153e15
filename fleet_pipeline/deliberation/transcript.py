"""Transcripts of deliberations: what was said, by whom, and whether it counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fleet_pipeline.common.text import is_blank
from fleet_pipeline.deliberation.acting import Acted
from fleet_pipeline.deliberation.answers import (
    Shortened,
    Truncated,
    before_the_cut,
    before_the_loop,
    without_echoes,
    worth_reading,
)
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Request
from fleet_pipeline.deliberation.prompts import Phase, Turn
from fleet_pipeline.deliberation.reasoning import split_reasoning

# Begins the name of the engine in rows that no model made.
SYNTHETIC = "synthetic: "


class Status(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"


# A fresh seed can lead to a shorter or a non-empty answer. It cannot shorten an overlong prompt.
RETRY_HELPS = frozenset({AgentError.EMPTY, AgentError.CUT_OFF, AgentError.LOOPED, AgentError.ENGINE})


@dataclass(frozen=True)
class Utterance:
    """One answer of one seat, or its failure to answer.

    `raw_text` is the answer as it came, where `text` is not all of it. `shortened` says why its end is missing.
    """

    turn: Turn
    attempt: int
    request: Request
    completion: Completion
    text: str
    reasoning: str
    error: AgentError | None
    error_message: str
    raw_text: str | None = None
    shortened: Shortened | None = None
    acted: Acted | None = None  # what an agent with tools did for it

    @property
    def self_critique(self) -> bool:
        return self.turn.phase is Phase.CRITIQUE and self.turn.seat == self.turn.about


@dataclass(frozen=True)
class Transcript:
    """A finished deliberation: every utterance in the order of the prompts, and the final status.

    `rounds_done` counts the rounds of critique and revision that came to their end.
    """

    deliberation_id: str
    status: Status
    utterances: tuple[Utterance, ...]
    error_message: str = ""
    rounds_done: int = 0


def classify(
    turn: Turn, attempt: int, request: Request, completion: Completion, truncated: Truncated = "refuse"
) -> Utterance:
    """The utterance of one answer. Splits off the reasoning, and sets `error` if the answer does not count."""
    if completion.reasoning is not None:  # the engine knows the model's format
        reasoning, raw = completion.reasoning.strip(), completion.text.strip()
    else:
        reasoning, raw = split_reasoning(completion.text, completion.opened)
    text = without_echoes(raw)
    shortened: Shortened | None = None
    error, message, finish = completion.error, completion.error_message, completion.finish_reason
    if error is None and finish in ("length", "repetition"):
        # A loop whose passage is longer than the engine looks for ends at the token limit.
        first_time = before_the_loop(text)
        if finish == "repetition" or first_time != text:
            error = AgentError.LOOPED
            message = "repeated a passage until it was stopped; a repetition_penalty, or a larger model, may help"
        else:
            kept = before_the_cut(text)
            if truncated == "keep" and worth_reading(kept):
                text, shortened = kept, "truncated"
            else:
                error = AgentError.CUT_OFF
                where = "in its reasoning " if reasoning and not text else ""
                message = (
                    f"cut off {where}after {completion.completion_tokens} tokens; raise max_tokens or max_model_len"
                )
    elif error is None and is_blank(text):
        error = AgentError.EMPTY
        message = "only reasoning, no answer" if reasoning else "empty answer"
    raw_text = raw if raw != text else None
    return Utterance(turn, attempt, request, completion, text, reasoning, error, message, raw_text, shortened)


def rescued(attempts: Sequence[Utterance]) -> list[Utterance]:
    """The attempts of a turn that came to no answer. The longest of those that looped counts up to its loop, where that
    is worth reading.
    """
    looped = {index: before_the_loop(one.text) for index, one in enumerate(attempts) if one.error is AgentError.LOOPED}
    best = max(looped, key=lambda index: len(looped[index]), default=None)
    if best is None or not worth_reading(looped[best]):
        return list(attempts)
    one = attempts[best]
    counted = replace(
        one, text=looped[best], error=None, error_message="", raw_text=one.raw_text or one.text, shortened="looped"
    )
    return [*attempts[:best], counted, *attempts[best + 1 :]]
