"""A turn of an agent that acts: it calls tools in its workspace until it answers.

The model is asked again and again. Each time it answers with JSON, held to it by a grammar: calls of tools, or its answer. What
came of the calls goes back to it as material. An answer that is no such JSON is told to it as an error, and never counts as
one. When a limit is reached, only an answer is left to give.

In mode "plan" an answer holds several calls. They are made one after another, up to the first that does not succeed, and an
argument may hold `{{1}}` for the output of the first of them, and so on.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from fleet_pipeline.common.text import printable
from fleet_pipeline.deliberation.answers import read_json
from fleet_pipeline.deliberation.council import Deliberation, Toolset
from fleet_pipeline.deliberation.exchange import (
    UNFINISHED,
    Action,
    AgentError,
    Completion,
    Done,
    Exchange,
    Message,
    Place,
    Request,
)
from fleet_pipeline.deliberation.prompts import MOST_PLANNED, Turn, material
from fleet_pipeline.deliberation.reasoning import split_reasoning
from fleet_pipeline.deliberation.task import ToolUse

_ANSWER_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
MOST_DIFF = 12_000  # characters of a diff that peers see
_REFERENCE = re.compile(r"\{\{\s*(\d{1,3})\s*\}\}")
_DEEPEST = 64  # objects and lists in arguments: `json` reads more than others can go through
_MOST_INSERTED = 10_000_000  # characters
_LEFT_OUT = "(left out: the conversation became too long)"


@dataclass(frozen=True)
class Change:
    """What has become of a workspace, as the pipeline found it: an agent's word counts for nothing here.

    `fixed` are tests that pass and did not before the agent began, new ones included; `broken` are tests that passed before and
    do not now: that fail, are skipped, or are gone. `edited` are files of tests that were there before and were changed.
    """

    commits: tuple[str, ...] = ()  # newest first
    files_changed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()  # files that a .gitignore of the tree keeps out of the diff
    diff: str = ""
    cut: bool = False  # whether there is more than this
    fixed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    passed: int | None = None  # tests that pass now; None where none could be run
    error: str = ""  # why the tests could not be run

    @property
    def tested(self) -> Literal["verified", "broken", "unverified"] | None:
        """What the tests say. Verified: one passes that did not before, and none was broken. None: nothing was changed.
        What cannot be looked at, or not whole, may have changed anything."""
        if self.broken:
            return "broken"
        if not self.files_changed:
            return "unverified" if self.error or self.cut else None
        return "verified" if self.fixed and not self.error and not self.cut else "unverified"

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Change":
        """From the facts of an action, which may have been stored as JSON."""
        values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in facts.items()}
        return cls(**values)

    def told(self) -> str:
        """In words, for peers and people."""
        lines = [f"Files changed: {', '.join(self.files_changed) or 'none'}."]
        if self.ignored:
            lines.append(f"Left out by .gitignore: {', '.join(self.ignored[:20])}.")
        if self.error:
            lines.append(f"Its tests could not be run: {self.error}")
        elif self.passed is not None:
            lines.append(
                f"Tests that pass: {self.passed}. Of those, {len(self.fixed)} did not before{_some(self.fixed)}. "
                f"Broken: {len(self.broken)}{_some(self.broken)}."
            )
        if self.edited:
            lines.append(f"Tests that were there before, and were edited: {', '.join(self.edited[:20])}.")
        return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})" if names else ""


def shown_change(change: Change | None) -> str:
    """For peers: the tests, and as much of the diff as a prompt has room for. Empty where nothing was changed."""
    if change is None:
        return ""
    diff = change.diff
    if len(diff) > MOST_DIFF:
        diff = f"{diff[:MOST_DIFF]}\n(cut: {len(diff) - MOST_DIFF:,} more characters)"
    return f"{change.told()}\n\n{diff}".strip()


@dataclass(frozen=True)
class Step:
    """One answer of the model, with what it called. Without an action it was no call: `error` says why."""

    number: int  # of the answer in its turn, from 1
    completion: Completion
    action: Action | None = None
    done: Done | None = None
    error: str = ""


@dataclass(frozen=True)
class Acted:
    """A turn of an agent that acted. `request` is the one that it began with; `completion` the last, with the tokens and times of
    all.
    """

    request: Request
    completion: Completion
    steps: tuple[Step, ...]
    change: Change | None

    @property
    def calls(self) -> tuple[Action, ...]:
        return tuple(step.action for step in self.steps if step.action is not None)


def act(deliberation: Deliberation, turn: Turn, first: Request, earlier: Sequence[Action]) -> Exchange[Acted]:
    """`first` is the request that the turn begins with, but for its grammar. `earlier` are the calls of the agent's turns before."""
    assert deliberation.toolset is not None
    assert deliberation.task.tools is not None
    conversation = _Conversation(deliberation.toolset, deliberation.task.tools, first)
    place = place_of(deliberation, turn.seat.agent_id)
    steps: list[Step] = []
    made = list(earlier)
    ended: Done | None = None  # the action that ended the turn
    while True:
        request = conversation.request()
        completion: Completion = yield request
        conversation.spent(completion.finished_at - completion.started_at)
        if completion.error is AgentError.OVERLONG and conversation.shorten():
            steps.append(Step(conversation.asked, completion, error=completion.error_message))
            continue
        if completion.error is not None:
            break
        calls, answer, error = conversation.understand(completion)
        if answer is not None:
            completion = replace(completion, text=answer, reasoning=conversation.reasoning)
            break
        if error and conversation.asked > conversation.use.max_steps:  # it was asked for its answer alone
            kind = AgentError.CUT_OFF if completion.finish_reason == "length" else AgentError.EMPTY
            completion = replace(completion, text="", error=kind, error_message=error)
            break
        if error:
            steps.append(Step(conversation.asked, completion, error=error))
            conversation.tell(completion.text, material("tool-result", f"error: {error}"))
            continue
        shown: list[str] = []
        outputs: list[str] = []
        for number, (tool, arguments) in enumerate(calls, 1):
            name = f"{request.name}.{number}"
            try:
                filled = conversation.filled(arguments, outputs)
            except ValueError as error_:
                steps.append(Step(conversation.asked, completion, error=str(error_)))
                shown.append(conversation.shown(number, tool, Done(False, error=str(error_))))
                break
            action = Action(name, place, tool, filled, tuple(made))
            done: Done = yield action
            conversation.spent(done.seconds)
            conversation.calls += 1
            made.append(action)
            steps.append(Step(conversation.asked, completion, action, done))
            if done.error_type in UNFINISHED or (not done.ok and conversation.use.abort_on_error):
                ended = done
                break
            outputs.append(done.output)
            shown.append(conversation.shown(number, tool, done))
            if not done.ok:
                break
        if ended is not None:
            break
        if left := len(calls) - len(shown):
            shown.append(f"{left} further calls of the plan were not made.")
        conversation.tell(completion.text, "\n\n".join(shown))
    change = None
    if (
        any(step.action.tool in deliberation.toolset.changing for step in steps if step.action)
        and (ended is None or ended.error_type is None)
        and completion.error not in UNFINISHED
    ):
        look = Action(f"{first.name}.change", place, before=tuple(made))
        done = yield look
        if done.error_type in UNFINISHED:
            ended = done
        elif done.ok:
            change = Change.of(done.facts)
        else:
            change = Change(error=done.error)
    return Acted(first, _together(completion, steps, ended), tuple(steps), change)


def place_of(deliberation: Deliberation, agent_id: str) -> Place:
    source = deliberation.task.workspace
    return Place(deliberation.id, agent_id, deliberation.role.name, source.url, source.reference, source.folder)


class _Conversation:
    """The messages of a turn, and its limits."""

    def __init__(self, toolset: Toolset, use: ToolUse, first: Request) -> None:
        self.toolset, self.use, self.first = toolset, use, first
        self.messages = list(first.messages)
        self.asked = 0
        self.calls = 0
        self.seconds = 0.0
        self.inserted = 0  # characters of outputs that were put into arguments
        self.reasoning = ""  # of the last answer

    def spent(self, seconds: float) -> None:
        self.seconds += max(seconds, 0.0)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left but to answer."""
        use = self.use
        return self.asked >= use.max_steps or self.calls >= use.max_calls or self.seconds >= use.seconds

    def request(self) -> Request:
        over = self.is_over
        self.asked = self.use.max_steps + 1 if over else self.asked + 1
        messages = self.messages
        if over:
            messages = [
                *messages[:-1],
                replace(messages[-1], content=f"{messages[-1].content}\n\nYour time is up: answer now."),
            ]
        return replace(
            self.first,
            name=f"{self.first.name}.{self.asked}",
            messages=tuple(messages),
            seed=self.first.seed + self.asked,
            schema=_grammar((), "step") if over else _grammar(self.toolset.calls, self.use.mode),
        )

    def understand(self, completion: Completion) -> tuple[list[tuple[str, Mapping[str, Any]]], str | None, str]:
        """(calls, answer, error): one of them."""
        self.reasoning, text = completion.reasoning or "", completion.text
        if completion.reasoning is None:
            self.reasoning, text = split_reasoning(text, completion.opened)
        if completion.finish_reason == "length":
            return (
                [],
                None,
                f"your answer was cut off after {completion.completion_tokens} tokens: write less at a time",
            )
        try:
            said = read_json(text)
        except (ValueError, RecursionError) as error:
            return [], None, f"your answer is no JSON: {printable(str(error))[:200]}"
        if not isinstance(said, dict):
            return [], None, "your answer is no JSON object"
        if isinstance(said.get("answer"), str):
            return [], said["answer"], ""
        calls = said.get("plan") if self.use.mode == "plan" and "plan" in said else [said]
        if not isinstance(calls, list) or not calls or len(calls) > MOST_PLANNED or not all(map(_is_call, calls)):
            return [], None, 'your answer holds neither "tool" and "arguments" nor "answer"'
        if any(_is_deeper(call["arguments"], _DEEPEST) for call in calls):
            return [], None, f"your arguments are nested more than {_DEEPEST} deep"
        room = self.use.max_calls - self.calls
        return [(call["tool"], call["arguments"]) for call in calls[:room]], None, ""

    def filled(self, arguments: Mapping[str, Any], outputs: Sequence[str]) -> Any:
        """`arguments` with outputs in place of what stands for them. Raises `ValueError` where a turn's have become too long: each output can
        hold many of those before it, so that four answers came to 1.2 GB.
        """
        self.inserted += sum(
            len(outputs[number - 1]) for number in _references(arguments) if 1 <= number <= len(outputs)
        )
        if self.inserted > _MOST_INSERTED:
            raise ValueError(f"outputs of more than {_MOST_INSERTED:,} characters were put into arguments; name fewer")
        return _filled(arguments, outputs)

    def shown(self, number: int, tool: str, done: Done) -> str:
        text = "\n".join(filter(None, (done.output, f"error: {done.error}" if done.error else "")))
        most = self.use.output_chars
        if len(text) > most:
            text = f"{text[:most]}\n(cut: {len(text) - most:,} more characters)"
        return material(
            "tool-result", text or "(nothing)", call=str(number), tool=printable(tool)[:100], ok=str(done.ok).lower()
        )

    def tell(self, said: str, result: str) -> None:
        self.messages += [Message("assistant", said), Message("user", result)]

    def shorten(self) -> bool:
        """Leave out the older half of what tools have said. Whether there was any."""
        beginning = len(self.first.messages)
        told = [
            at
            for at, message in enumerate(self.messages)
            if at >= beginning and message.role == "user" and message.content != _LEFT_OUT
        ]
        for at in told[: (len(told) + 1) // 2]:
            self.messages[at] = Message("user", _LEFT_OUT)
        return bool(told) and self.asked <= self.use.max_steps


@lru_cache(maxsize=64)
def _grammar(calls: tuple[str, ...], mode: str) -> str:
    """The JSON schema of an answer: one of these calls, or several, or what ends the turn. Made once, as an engine compiles it
    once: for each answer anew it took as long as a step of the engine.
    """
    if not calls:
        return json.dumps(_ANSWER_SCHEMA)
    options: list[Any] = [json.loads(call) for call in calls]
    if mode == "plan":
        plan = {"type": "array", "minItems": 1, "maxItems": MOST_PLANNED, "items": {"anyOf": options}}
        options = [
            {"type": "object", "properties": {"plan": plan}, "required": ["plan"], "additionalProperties": False}
        ]
    return json.dumps({"anyOf": [*options, _ANSWER_SCHEMA]})


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("tool"), str) and isinstance(value.get("arguments"), dict)


def _is_deeper(value: Any, most: int) -> bool:
    """Whether it holds more than `most` objects and lists within each other."""
    level = [value]
    for _ in range(most):
        level = [
            one
            for holder in level
            for one in (holder.values() if isinstance(holder, Mapping) else holder)
            if isinstance(one, (Mapping, list))
        ]
        if not level:
            return False
    return True


def _references(value: Any) -> Iterator[int]:
    """The numbers of the outputs that it holds."""
    if isinstance(value, str):
        yield from (int(found[1]) for found in _REFERENCE.finditer(value))
    elif isinstance(value, (Mapping, list)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _references(one)


def _filled(value: Any, outputs: Sequence[str]) -> Any:
    """`value` with `{{1}}` replaced by the output of the first call, and so on. Others stay as they are."""
    if isinstance(value, str):
        return _REFERENCE.sub(
            lambda found: outputs[int(found[1]) - 1] if 1 <= int(found[1]) <= len(outputs) else found[0], value
        )
    if isinstance(value, Mapping):
        return {key: _filled(one, outputs) for key, one in value.items()}
    return [_filled(one, outputs) for one in value] if isinstance(value, list) else value


def _together(last: Completion, steps: Sequence[Step], ended: Done | None) -> Completion:
    """The last answer, with the tokens and the times of all, and with the reason of an action that ended the turn."""
    answers = {id(step.completion): step.completion for step in steps} | {id(last): last}
    told = list(answers.values())
    whole = replace(
        last,
        prompt_tokens=sum(one.prompt_tokens for one in told),
        cached_tokens=sum(one.cached_tokens for one in told),
        completion_tokens=sum(one.completion_tokens for one in told),
        started_at=min((one.started_at for one in told if one.started_at), default=last.started_at),
    )
    if ended is None:
        return whole
    if ended.error_type is None:
        return replace(
            whole, text="", error=AgentError.ENGINE, error_message=f"a call failed (abort_on_error): {ended.error}"
        )
    reasons = {AgentError.DEADLINE: "deadline", AgentError.CANCELLED: "cancelled"}
    return replace(
        whole,
        text="",
        finish_reason=reasons.get(ended.error_type, "crash"),
        error=ended.error_type,
        error_message=ended.error,
    )
