"""Transcripts of deliberations: what was said, by whom, and whether it counts."""

from dataclasses import dataclass
from enum import StrEnum

from fleet_pipeline.common.text import is_blank
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
RETRY_HELPS = frozenset({AgentError.EMPTY, AgentError.CUT_OFF, AgentError.ENGINE})


@dataclass(frozen=True)
class Utterance:
    """One answer of one seat, or its failure to answer."""

    turn: Turn
    attempt: int
    request: Request
    completion: Completion
    text: str
    reasoning: str
    error: AgentError | None
    error_message: str

    @property
    def self_critique(self) -> bool:
        return self.turn.phase is Phase.CRITIQUE and self.turn.seat == self.turn.about


@dataclass(frozen=True)
class Transcript:
    """A finished deliberation: every utterance in the order of the prompts, and the final status."""

    deliberation_id: str
    status: Status
    utterances: tuple[Utterance, ...]
    error_message: str = ""


def classify(turn: Turn, attempt: int, request: Request, completion: Completion) -> Utterance:
    """The utterance of one answer. Splits off the reasoning, and sets `error` if the answer does not count."""
    if completion.reasoning is not None:  # the engine knows the model's format
        reasoning, text = completion.reasoning.strip(), completion.text.strip()
    else:
        reasoning, text = split_reasoning(completion.text, completion.opened)
    error, message = completion.error, completion.error_message
    if error is None and completion.finish_reason == "length":
        error = AgentError.CUT_OFF
        message = f"cut off after {completion.completion_tokens} tokens; raise max_tokens or max_model_len"
    elif error is None and is_blank(text):
        error = AgentError.EMPTY
        message = "only reasoning, no answer" if reasoning else "empty answer"
    return Utterance(turn, attempt, request, completion, text, reasoning, error, message)
