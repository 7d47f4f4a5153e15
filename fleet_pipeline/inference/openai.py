"""The engine for models on servers, through OpenAI's HTTP API: vLLM's own server, or any other that speaks it.

Requests go out from one thread with an event loop. The batching loop asks for answers as they come. An answer is
streamed, so that what has arrived of it is kept when the run is stopped. A request that is given up closes its connection,
and the server stops generating.

A request is sent again after an error of the server, a lost connection, or an answer that is cut or cannot be read: up to
`server.tries` times, with pauses that double and have jitter. The same seed goes with it. Only a whole answer counts, so
nothing is said twice. A server that asks for patience (429, or 503 with Retry-After) is given it, and no try is counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Self, TypeVar

import aiohttp
from pydantic import SecretStr

from fleet_pipeline.common.errors import EngineError, ModelUnavailable
from fleet_pipeline.deliberation.exchange import AgentError, Completion, Request, Result
from fleet_pipeline.inference.chat_api import Busy, NoAccess, Refused, ServerFailed, Stream, body_of, failure_of
from fleet_pipeline.inference.engine import Finished, Hands, Job, OnCompletion, Origin, PromptCheck, ignore, origin_of
from fleet_pipeline.inference.loop import drive
from fleet_pipeline.inference.options import ServerOptions, VllmConfig
from fleet_pipeline.inference.prompt_checks import LocalChecks, PromptChecks, ServerChecks, Unchecked
from fleet_pipeline.inference.sampling import LEAST_ROOM, too_long
from fleet_pipeline.inference.servers import Server, Servers

_log = logging.getLogger(__name__)
T = TypeVar("T")
CONNECT_SECONDS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
# At the start a person waits: a URL that is wrong shall say so soon. A run is started again where it may help.
START_TRIES = 3
_MOST_ERROR_BYTES, _LONGEST_ANSWER = 64 * 2**10, 64 * 2**20


class OpenAIEngine:
    """A model on its servers. Create it with `OpenAIEngine.start` and use it as a context manager."""

    def __init__(self, config: VllmConfig, options: ServerOptions) -> None:
        weights = options.weights or (1.0,) * len(options.urls)
        self.config = config
        self.options = options
        self.crashes: list[str] = []
        self.start_seconds = 0.0
        self.checks: frozenset[PromptCheck] = frozenset()
        self.servers = Servers(
            [Server(url, weight, options.max_in_flight) for url, weight in zip(options.urls, weights, strict=True)],
            options.patience_seconds,
        )
        self._prompts: PromptChecks = Unchecked(None)
        self._is_vllm = False
        self._answers: SimpleQueue[tuple[str, Completion] | None] = SimpleQueue()
        self._ready: dict[str, Completion] = {}  # taken from `_answers`, and not yet asked for
        self._fatal: EngineError | None = None
        self._key = SecretStr("")
        self._has_answered = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._streams: dict[str, Stream] = {}  # by request id, of the try under way
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="fleet-openai", daemon=True)

    @classmethod
    def start(cls, config: VllmConfig) -> OpenAIEngine:
        """Look for the model at its servers. Raises `ModelUnavailable` or `EngineError`."""
        if config.server is None:
            raise ValueError(f"model {config.model!r} has no server")
        engine = cls(config, config.server)
        engine._thread.start()
        began = time.monotonic()
        try:
            engine._wait_for(engine._connect())
        except BaseException:
            engine.close()
            raise
        engine.start_seconds = time.monotonic() - began
        return engine

    @property
    def down_seconds(self) -> float:
        return self.servers.down_seconds

    def run(
        self, jobs: Iterable[Job[Result]], on_completion: OnCompletion = ignore, hands: Hands | None = None
    ) -> Generator[Finished[Result]]:
        # Slightly more than the servers take, so that a prompt is ready when a place becomes free.
        limit = self.options.max_in_flight * len(self.options.urls) + 8
        return drive(jobs, self, max_in_flight=limit, on_completion=on_completion, hands=hands)

    def origin(self, model: str) -> Origin:
        return origin_of("openai", self.checks)

    def submit(self, request_id: str, request: Request) -> Completion | None:
        self._loop.call_soon_threadsafe(self._begin, request_id, request)
        return None

    def step(self, patience_seconds: float) -> list[tuple[str, Completion]]:
        self._take_answers(0.0 if self._ready else patience_seconds)
        found, self._ready = list(self._ready.items()), {}
        if self._fatal is not None and not found:
            raise self._fatal
        return found

    def _take_answers(self, patience_seconds: float) -> None:
        with suppress(Empty):
            answer = self._answers.get(timeout=patience_seconds) if patience_seconds else self._answers.get_nowait()
            while True:
                if answer is not None:
                    self._ready[answer[0]] = answer[1]
                answer = self._answers.get_nowait()

    def abort(self, request_ids: list[str]) -> dict[str, Completion]:
        if not request_ids or self._loop.is_closed():
            return {}
        partials = {
            request_id: self._read(stream.partial())
            for request_id in request_ids
            if (stream := self._streams.get(request_id)) is not None
        }
        self._take_answers(0.0)  # servers go on while nobody asks: an answer may be whole by now
        partials |= {request_id: self._ready.pop(request_id) for request_id in request_ids if request_id in self._ready}
        self._loop.call_soon_threadsafe(self._cancel, list(request_ids))
        return partials

    def restart(self, reason: str) -> None:
        raise EngineError(f"servers are not started again from here: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is under way, and wait until the servers have been told."""
        if self._loop.is_closed():
            return
        self._wait_for(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # What follows runs in the event loop's thread.

    _session: aiohttp.ClientSession | None = None

    async def _connect(self) -> None:
        self._session = aiohttp.ClientSession(
            headers=self._headers(),
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trusted()),
            timeout=aiohttp.ClientTimeout(
                sock_connect=CONNECT_SECONDS, sock_read=self.options.silence_seconds, total=None
            ),
        )
        listed = await self._listed()
        entry = next((one for one in listed if one.get("id") == self.config.target), None)
        if entry is None and listed:
            names = ", ".join(str(one.get("id")) for one in listed[:20])
            raise ModelUnavailable(f"{self._place} has no model {self.config.target!r}; it has {names}")
        entry = entry or {}
        self._is_vllm = entry.get("owned_by") == "vllm"
        told = entry.get("max_model_len")
        contexts = [one for one in (told, self.config.max_model_len) if type(one) is int]
        context = min(contexts, default=None)
        if self.options.tokenizer:
            self._prompts = await asyncio.to_thread(LocalChecks, self.config, self.options.tokenizer, context)
        else:
            self._prompts = await ServerChecks.find(self._ask, self.config) or Unchecked(context)
        self.checks = self._prompts.checks

    @property
    def _place(self) -> str:
        return ", ".join(self.options.urls[:5])

    def _trusted(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.options.ca_file is not None:
            try:
                context.load_verify_locations(self.options.ca_file)
            except OSError as error:  # ssl's own errors as well
                raise EngineError(
                    f"server.ca_file {self.options.ca_file} cannot be read as certificates: {error}"
                ) from None
        return context

    def _headers(self) -> dict[str, str]:
        variable = self.options.api_key_env
        if variable is None:
            return {}
        if not (key := os.environ.get(variable, "").strip()):
            raise EngineError(f"server.api_key_env names {variable}, which is not set; set it to the servers' key")
        if not (key.isascii() and key.isprintable()):
            raise EngineError(f"{variable} holds characters that no key has; set it to the servers' key alone")
        self._key = SecretStr(key)
        return {"Authorization": f"Bearer {key}"}

    async def _listed(self) -> list[dict[str, Any]]:
        """The models that a server says it has; none where it does not say. Raises `EngineError` if none answers."""
        reasons: dict[str, str] = {}
        for attempt in range(START_TRIES):
            if attempt:
                await asyncio.sleep(2.0**attempt / 2)
            for server in self.servers.servers:
                try:
                    return await self._models(server)
                except NoAccess as error:
                    raise self._no_access(error) from None
                except (Busy, Refused, *_FAILURES) as error:
                    reasons[server.url] = self._reason(error)
        said = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
        raise EngineError(f"no server of model {self.config.model!r} answers ({said})")

    async def _models(self, server: Server) -> list[dict[str, Any]]:
        assert self._session is not None
        async with self._session.get(f"{server.url}/models", allow_redirects=False) as response:
            content = await _content(response, _LONGEST_ANSWER)
            if response.status == 404:
                return []
            if response.status != 200:
                raise failure_of(
                    response.status, content[:_MOST_ERROR_BYTES].decode(errors="replace"), response.headers
                )
            try:
                return [one for one in json.loads(content)["data"] if isinstance(one, dict)]
            except (ValueError, LookupError, TypeError) as error:
                raise ServerFailed(f"its list of models cannot be read: {error}") from error

    def _begin(self, request_id: str, request: Request) -> None:
        task = self._loop.create_task(self._answer(request_id, request))
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._forget(request_id))

    def _forget(self, request_id: str) -> None:
        self._tasks.pop(request_id, None)
        self._streams.pop(request_id, None)

    def _cancel(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if task := self._tasks.get(request_id):
                task.cancel()

    async def _disconnect(self) -> None:
        tasks = list(self._tasks.values())
        self._cancel(list(self._tasks))
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _answer(self, request_id: str, request: Request) -> None:
        try:
            completion = await self._completion(request_id, request)
        except Refused as refused:
            completion = Completion(error=refused.error, error_message=self._masked(refused.message))
        except EngineError as error:
            self._fatal = error
            self._answers.put(None)
            return
        except NoAccess as error:
            self._fatal = self._no_access(error)
            self._answers.put(None)
            return
        except Exception as error:  # noqa: BLE001 - a template may fail on one text; other prompts must go on
            completion = Completion(error=AgentError.ENGINE, error_message=self._reason(error))
        self._answers.put((request_id, completion))

    async def _completion(self, request_id: str, request: Request) -> Completion:
        prepared = await self._prompts.prepare(request.messages)
        room = None
        if prepared.tokens is not None and self._prompts.context is not None:
            room = self._prompts.context - prepared.tokens
            if room < LEAST_ROOM:
                message = too_long(prepared.tokens, self._prompts.context)
                return Completion(prompt_tokens=prepared.tokens, error=AgentError.OVERLONG, error_message=message)
        body = body_of(request, prepared.chat, self.config, room, self._is_vllm)

        async def stream_from(server: Server) -> Completion:
            stream = Stream(body["temperature"], prepared.opened)
            self._streams[request_id] = stream
            async with self._post(server, "/chat/completions", body) as response:
                async for part in response.content.iter_any():
                    stream.take(part)
                    if stream.done:
                        break
                else:
                    stream.take(b"\n")
            return stream.completion()

        # A deliberation's requests have its name in common, and most of their prompts.
        return self._read(await self._try(request.name.partition(" ")[0], stream_from))

    def _read(self, completion: Completion) -> Completion:
        text = self._masked(completion.text)
        if completion.reasoning is not None:  # the server has split it off
            return replace(completion, reasoning=self._masked(completion.reasoning), text=text)
        reasoning, text = self._prompts.read(text)
        return replace(completion, reasoning=reasoning, text=text)

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a server answers to a question beside the API, whose paths begin above `/v1`."""

        async def ask(server: Server) -> Any:
            try:
                async with self._post(server, path, body, above=True) as response:
                    return json.loads(await _content(response, _LONGEST_ANSWER))
            except ValueError as error:
                raise ServerFailed(f"its answer to {path} cannot be read: {error}") from error

        return await self._try(path, ask, generates=False)

    def _post(self, server: Server, path: str, body: Mapping[str, Any], *, above: bool = False) -> _Posted:
        assert self._session is not None
        base = server.url.removesuffix("/v1") if above else server.url
        return _Posted(self._session.post(f"{base}{path}", json=body, allow_redirects=False))

    async def _try(self, key: str, send: Callable[[Server], Awaitable[T]], *, generates: bool = True) -> T:
        """What `send` returns, from a server that answers. Raises `Refused`, `NoAccess` or `EngineError`.

        Of a question that `generates` nothing an answer closes no breaker: a server may tokenize and not generate.
        """
        failures, attempts, busy_since = 0, 0, None
        while True:
            place = await self.servers.acquire(key)
            server = place.server
            try:
                result = await send(server)
                if generates:
                    self._has_answered = True
                    self.servers.answered(server)
                return result
            except Refused:
                if generates:
                    self.servers.answered(server)
                raise
            except Busy as busy:
                if generates:
                    self.servers.answered(server)
                busy_since = busy_since or time.monotonic()
                if time.monotonic() - busy_since > self.options.patience_seconds:
                    why = f"for {self.options.patience_seconds:g} s the servers were too busy (server.patience_seconds)"
                    raise Refused(AgentError.ENGINE, why) from None
                if busy.after_seconds is not None:
                    self.servers.rest(server, busy.after_seconds)
            except (NoAccess, *_FAILURES) as error:
                if isinstance(error, NoAccess):
                    self._look_at(error)
                busy_since = None
                reason = self._reason(error)
                self.servers.failed(place, reason)
                # While all are gone, waiting for them is a matter of `patience_seconds`.
                failures += not (self.servers.is_down and _is_gone(error))
                if failures >= self.options.tries:
                    why = f"it was sent {failures} times (server.tries), the last time to {server.url}: {reason}"
                    raise Refused(AgentError.ENGINE, why) from None
            finally:
                self.servers.release(place)
            attempts += 1
            longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempts, 10), LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(random.uniform(0, longest))

    def _look_at(self, error: NoAccess) -> None:
        """Where servers have answered, one that forbids means this prompt, and one that knows no model is out of order."""
        if self._has_answered and error.status == HTTPStatus.FORBIDDEN:
            raise Refused(AgentError.ENGINE, f"the server refuses it with {error}") from None
        if not (self._has_answered and error.status == HTTPStatus.NOT_FOUND):
            raise error

    def _masked(self, text: str) -> str:
        """`text` of a server, without the key that it may send back."""
        key = self._key.get_secret_value()
        return text.replace(key, "***") if key else text

    def _reason(self, error: BaseException) -> str:
        """On one line. aiohttp's errors name the host and never a header."""
        if isinstance(error, TimeoutError):
            return "it said nothing for too long"
        return self._masked(" ".join(str(error).split()) or type(error).__name__)[:300]

    def _no_access(self, error: NoAccess) -> EngineError:
        key = self.options.api_key_env
        with_key = f"the key in {key}" if key else "no key; name the variable that holds one in server.api_key_env"
        return EngineError(
            f"{self._place} refuses model {self.config.target!r} ({self._masked(str(error))}); it was asked with {with_key}"
        )


class _Posted:
    """A request under way, whose status has been looked at. Raises what `failure_of` makes of another than 200."""

    def __init__(self, request: Any) -> None:
        self._request = request

    async def __aenter__(self) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await self._request.__aenter__()
        if response.status == 200:
            return response
        try:
            content = await _content(response, _MOST_ERROR_BYTES)
            raise failure_of(response.status, content.decode(errors="replace"), response.headers)
        finally:
            response.close()

    async def __aexit__(self, *details: Any) -> None:
        await self._request.__aexit__(*details)


# A refusal is none of these.
_FAILURES = (ServerFailed, aiohttp.ClientError, TimeoutError, OSError)


def _is_gone(error: BaseException) -> bool:
    """Whether nobody was there to answer."""
    return error.gone if isinstance(error, ServerFailed) else not isinstance(error, NoAccess)


async def _content(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, up to `most` bytes: `read` gives what has arrived."""
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) >= most:
            break
    return bytes(content[:most])
