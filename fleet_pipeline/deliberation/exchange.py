"""What engines and hands are handed, and what they hand back.

A *request* is all that an engine sees. It says nothing of councils: which seat asks, and in which phase, is known to
the *turn* that made it. An *action* is work in the workspace of one agent, and is for *hands*. A turn may ask for several of
both, one after another: an *exchange*. A *dialogue* has many exchanges at once, and waits for all of them before it goes on.
"""

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

from fleet_pipeline.deliberation.sampling import Sampling

Result = TypeVar("Result")


@dataclass(frozen=True)
class Message:
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Request:
    """One generation.

    `default_max_tokens` limits the answer where neither `sampling` nor the options of the model do. `temperature_scale` multiplies the
    temperature, and `least_repetition_penalty` raises the penalty, wherever they come from.
    """

    name: str  # unique in a run: deliberation, agent, phase, round, subject, attempt
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    default_max_tokens: int = 2_048
    temperature_scale: float = 1.0
    least_repetition_penalty: float | None = None
    seed: int = 0
    schema: str = ""  # JSON schema that the answer must follow; none where empty


class AgentError(StrEnum):
    """Why an utterance does not count."""

    OVERLONG = "overlong"  # the prompt leaves no room for an answer in the model's context
    EMPTY = "empty"  # only white space or reasoning
    CUT_OFF = "cut_off"  # the answer reached its token limit
    LOOPED = "looped"  # the answer repeated a passage until it was stopped
    ENGINE = "engine"  # the engine failed on this prompt
    DEADLINE = "deadline"  # still being generated when the deliberation's time was up
    CANCELLED = "cancelled"  # still being generated when the run was stopped, by a person or by its engine
    FATAL = "fatal"  # the engine crashed repeatedly during this deliberation, the last time with no other running


# Not finished, through no fault of the answer. With one of these an engine ends a deliberation.
UNFINISHED = (AgentError.DEADLINE, AgentError.CANCELLED, AgentError.FATAL)


@dataclass(frozen=True)
class Completion:
    """An engine's answer to one request. Times are seconds since the epoch, tokens are counts.

    An engine sets `error` for failures that only it can detect. The protocol detects empty, cut-off and looping
    answers from `text` and `finish_reason`: "stop", "length", "repetition", or, where `error` says that the answer
    was not finished, "deadline", "cancelled" or "crash". Then `text` is what had been generated until then.

    `reasoning` is what the model thought aloud, where the engine has split it off `text`; None leaves that to the
    protocol. `mean_logprob` and `self_certainty` say how sure the engine was, where it was asked (`inference.certainty`).
    `opened` is the mark of reasoning with which the prompt ended, "" for none; None where that is not known.
    """

    text: str = ""
    reasoning: str | None = None
    opened: str | None = None
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    temperature: float | None = None
    mean_logprob: float | None = None
    self_certainty: float | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    error: AgentError | None = None
    error_message: str = ""


@dataclass(frozen=True)
class Place:
    """The workspace of one agent: whose it is, and what it starts from. Nothing is there before its first action."""

    deliberation_id: str
    agent_id: str
    role: str  # decides which tools may be called
    url: str | None = None  # of a git repository; without it and a folder the workspace starts empty
    reference: str | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Action:
    """One call of a tool; or, without a tool, a look at what has become of the workspace, with its tests.

    `before` are the calls that were made there earlier. Hands that do not have the workspace any more, because their process
    was killed, make it again by them.
    """

    name: str  # unique in a run, as that of a request
    place: Place
    tool: str = ""  # as family.operation
    arguments: Mapping[str, Any] = field(default_factory=dict)
    before: tuple["Action", ...] = ()

    @property
    def digest(self) -> str:
        """Of all that decides what it does, but for what was done before."""
        content = [self.tool, dict(self.arguments), vars(self.place)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """What came of an action. `facts` are the same for programs, such as a commit's id.

    `error_type` is one of `UNFINISHED` where the action was given up.
    """

    ok: bool
    output: str = ""
    error: str = ""
    outcome: str = "ok"  # as in the audit: ok, failed, refused, broke or unfinished
    facts: Mapping[str, Any] = field(default_factory=dict)
    sandbox: str = ""
    started_at: float = 0.0  # seconds since the epoch
    seconds: float = 0.0
    error_type: AgentError | None = None


# A generator that yields a request or an action, receives its completion or what was done, and so on. It returns what came of
# them.
Exchange = Generator[Request | Action, Any, Result]
# A generator that yields exchanges, which go on at the same time. It receives their results in the same order.
Dialogue = Generator[list[Exchange[Any]], list[Any], Result]
