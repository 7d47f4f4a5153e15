"""OpenAI's HTTP API for chats, without I/O: what a request says, what a stream of an answer says, and what a refusal means.

https://platform.openai.com/docs/api-reference/chat. Servers differ in what else they take: vLLM's takes all of its own
sampling parameters, and others get the API's own, beside those that a person has set.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from fleet_pipeline.common.text import printable, whole
from fleet_pipeline.deliberation.answers import LOOP_COUNT
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Request
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.inference.sampling import LOOP_TOKENS, parameters

HOTTEST = 2.0  # the highest temperature that the API takes
_NO_ACCESS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
_FINISHED = {"stop", "length", "repetition"}
_TOO_LONG = ("context_length_exceeded", "maximum context length", "context length", "too many tokens")
LONGEST_ANSWER = 2**26  # bytes of a stream; the longest answer of 131,072 tokens has half of it
LONGEST_LINE = 2**20  # bytes; a server may send a whole answer at once
_MOST = 500  # characters of a server's message


class ServerFailed(Exception):
    """A server that broke, or its connection. Another try may do better. `gone`: nobody was there to answer."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


@dataclass
class Busy(Exception):
    """A server that asks to come back later."""

    after_seconds: float | None  # as it says


@dataclass
class Refused(Exception):
    """A request that no other try would make better."""

    error: AgentError
    message: str


class NoAccess(Exception):
    """A server that refuses, as it seems, everything: the key, the model's name or the URL is wrong, or it wants money."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


def body_of(
    request: Request, messages: Sequence[Mapping[str, str]], config: VllmConfig, room: int | None, is_vllm: bool
) -> dict[str, Any]:
    """The JSON of a request. `room` is how many tokens the prompt leaves, where that is known."""
    chosen = parameters(request, config.sampling.model_dump(exclude_none=True))
    chosen["temperature"] = min(chosen["temperature"], HOTTEST)
    if room is not None:
        chosen["max_tokens"] = min(chosen["max_tokens"], room)
    body: dict[str, Any] = {
        "model": config.target,
        "messages": list(messages),
        "seed": request.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        **chosen,
    }
    if request.schema:
        schema = {"name": "answer", "schema": json.loads(request.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if config.certainty is not None:
        body["logprobs"] = True
    if is_vllm:
        body["stream_options"]["continuous_usage_stats"] = True
        body["repetition_detection"] = {
            "min_pattern_size": LOOP_TOKENS.start, "max_pattern_size": LOOP_TOKENS.stop - 1, "min_count": LOOP_COUNT
        }  # fmt: skip
        if config.chat_template_kwargs:
            body["chat_template_kwargs"] = config.chat_template_kwargs
        if template := config.template:
            body["chat_template"] = template
    elif "repetition_penalty" not in {*config.sampling.set_names(), *request.sampling.set_names()}:
        body.pop("repetition_penalty", None)  # ours, for a second try, and no part of OpenAI's API
    return body


@dataclass
class Stream:
    """An answer as it arrives, one line of server-sent events at a time."""

    temperature: float
    opened: str | None = None
    prompt_tokens: int = 0  # as counted before it was sent; what the server counts replaces it
    cached_tokens: int = 0
    completion_tokens: int = 0
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""
    done: bool = False
    _rest: bytes = b""  # of a line that has not ended
    _size: int = 0  # bytes

    def take(self, part: bytes) -> None:
        """Take what has arrived, which may end anywhere. Raises as `feed` does."""
        self._size += len(part)
        if self._size > LONGEST_ANSWER:
            raise ServerFailed(f"its answer has more than {LONGEST_ANSWER} bytes")
        *lines, self._rest = (self._rest + part).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise ServerFailed(f"a line of its answer has more than {LONGEST_LINE} bytes")
        for line in lines:
            if line:
                self.feed(line)

    def feed(self, line: bytes) -> None:
        """Take a line. Raises `ServerFailed` for what is no part of such a stream, and `Refused`."""
        if not line.startswith(b"data:"):
            if line.strip() and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                raise ServerFailed(f"its answer is no stream of events: {line[:80]!r}")
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
            return
        try:
            event = json.loads(data)
            if "error" in event:
                raise self._error(event["error"])
            for choice in event["choices"]:
                self._add(choice)
            if usage := event.get("usage"):
                self._count(usage)
            elif event["choices"]:
                self.completion_tokens += 1  # servers that do not count send a token at a time
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ServerFailed(f"its answer cannot be read ({type(error).__name__}: {data[:80]!r})") from error

    def _add(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if (content := delta.get("content")) is not None:
            self.text.append(_text(content))
        # vLLM says reasoning, and said reasoning_content, as DeepSeek does.
        if (thought := delta.get("reasoning") or delta.get("reasoning_content")) is not None:
            self.reasoning.append(_text(thought))
        if logprobs := choice.get("logprobs"):
            self.logprobs += [float(token["logprob"]) for token in logprobs.get("content") or ()]
        if finish := choice.get("finish_reason"):
            self.finish_reason = _text(finish)

    def _count(self, usage: Mapping[str, Any]) -> None:
        self.prompt_tokens = _count(usage.get("prompt_tokens"))
        self.completion_tokens = _count(usage.get("completion_tokens"))
        cached = _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
        self.cached_tokens = min(cached, self.prompt_tokens)

    def _error(self, error: Any) -> Exception:
        fields = error if isinstance(error, Mapping) else {"message": str(error)}
        code = fields.get("code")
        return failure_of(
            code if type(code) is int else HTTPStatus.INTERNAL_SERVER_ERROR, str(fields.get("message")), {}
        )

    def completion(self) -> Completion:
        """The whole answer. Raises `ServerFailed` if the stream ended before it."""
        if not self.done or not self.finish_reason:
            raise ServerFailed("its answer ended in the middle")
        ended = self.finish_reason in _FINISHED
        return self._so_far(
            finish_reason=self.finish_reason,
            mean_logprob=sum(self.logprobs) / len(self.logprobs) if self.logprobs else None,
            error=None if ended else AgentError.ENGINE,
            error_message="" if ended else f"the server ended the request with {printable(self.finish_reason)[:80]!r}",
        )

    def partial(self) -> Completion:
        """What has arrived of it."""
        return self._so_far()

    def _so_far(self, **fields: Any) -> Completion:
        return Completion(
            text=_joined(self.text),
            reasoning=_joined(self.reasoning) or None,
            opened=self.opened,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            temperature=self.temperature,
            **fields,
        )


def failure_of(status: int, body: str, headers: Mapping[str, str]) -> Exception:
    """What a status other than 200 means, as one of the exceptions above."""
    message = _message(body)
    said = f"{status}: {message}"
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) and (
        status == HTTPStatus.TOO_MANY_REQUESTS or "Retry-After" in headers
    ):
        return Busy(_seconds(headers.get("Retry-After")))
    if status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        return ServerFailed(said, gone=True)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_EARLY,
    ):
        return ServerFailed(said)
    if status in _NO_ACCESS or status < HTTPStatus.BAD_REQUEST:  # a redirect would take prompts to another place
        return NoAccess(said, status)
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE) and any(
        mark in body.lower() for mark in _TOO_LONG
    ):
        return Refused(AgentError.OVERLONG, f"{message}: shorten the task")
    return Refused(AgentError.ENGINE, f"the server refuses it with {said}")


def _message(body: str) -> str:
    """What a server says, on one line."""
    try:
        document = json.loads(body)
        error = document.get("error", document)
        found = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        found = body
    return printable(" ".join(str(found).split()))[:_MOST]


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(float(retry_after), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _count(value: Any) -> int:
    """A number of tokens. Raises `ValueError` for one that no answer has."""
    count = int(value or 0)
    if not 0 <= count < 2**31:
        raise ValueError("no number of tokens")
    return count


def _joined(pieces: list[str]) -> str:
    """The text of its pieces: two of them may hold the halves of a character."""
    return whole("".join(pieces))
