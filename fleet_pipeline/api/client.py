"""The client for other services: submit tasks, ask for their status. It needs only the broker's URL.

    from fleet_pipeline.api.client import Client

    with Client("nats://broker:4222") as fleet:
        submitted = fleet.submit({"task_id": "rate-limiter", "description": "...", "roles": ["DEV", "QA"]})
        result = fleet.wait(submitted.deliberation_ids[0], submitted.request_id)

`AsyncClient` has the same methods as coroutines. `fleet serve` answers the questions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from fleet_pipeline.api.nats_service import RESULT, STATS, STATUS
from fleet_pipeline.common.errors import BrokerUnavailable, InvalidInput, StreamMismatch
from fleet_pipeline.common.messages import REQUESTED
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES, Role
from fleet_pipeline.deliberation.task import Task, deliberation_id
from fleet_pipeline.events.connection import connect, unavailable
from fleet_pipeline.events.envelope import Envelope
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.payloads import DeliberationStatus
from fleet_pipeline.events.streams import REQUESTS, ensure_streams

T = TypeVar("T")
ACK_SECONDS = 5.0
ANSWER_SECONDS = 10.0
MOST_PENDING = 256


@dataclass(frozen=True)
class Submitted:
    """A task that the broker has stored. `duplicate`: it already had the same request, within the last hour."""

    task_id: str
    deliberation_ids: tuple[str, ...]
    duplicate: bool
    request_id: str


class AsyncClient:
    """Submits tasks and asks about them over one connection. Use it as an async context manager.

    Methods raise `InvalidInput` for invalid arguments, `BrokerUnavailable` if the broker or the service does
    not answer, and `StreamMismatch` if no stream takes requests.
    """

    def __init__(self, broker: str | NatsOptions) -> None:
        self.options = NatsOptions(url=broker) if isinstance(broker, str) else broker
        self._stack = AsyncExitStack()
        self._refused: list[str] = []
        self._connection: Any = None
        self._jetstream: Any = None

    async def __aenter__(self) -> AsyncClient:
        with unavailable(self.options):
            connection = connect(self.options, lasting=True, refused=self._refused)
            self._connection = await self._stack.enter_async_context(connection)
        self._jetstream = self._connection.jetstream(publish_async_max_pending=MOST_PENDING)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def submit(self, task: Task | Mapping[str, Any], *, rerun: bool = False) -> Submitted:
        """Submit one task with the fields of a backlog line; returns once the broker has stored it.

        The same task submitted twice is one deliberation. `rerun` replaces an earlier task of the same id.
        """
        return (await self.submit_all([task], rerun=rerun))[0]

    async def submit_all(self, tasks: Iterable[Task | Mapping[str, Any]], *, rerun: bool = False) -> list[Submitted]:
        """Submit many tasks; returns once the broker has stored all. All are validated before any is sent."""
        sealed = [_sealed(_validated(task), rerun) for task in tasks]
        for task, _, body in sealed:
            if reason := self._oversize(body):
                raise InvalidInput(f"{task.task_id}: {reason}")
        with unavailable(self.options, self._refused):
            try:
                return await self._publish(sealed)
            except _no_stream():
                await self._make_stream()
                return await self._publish(sealed)

    def oversize(self, task: Task, *, rerun: bool = False) -> str | None:
        """Why the broker would not take this task, or None if it fits."""
        return self._oversize(_sealed(task, rerun)[2])

    def _oversize(self, body: bytes) -> str | None:
        if len(body) <= self._connection.max_payload - 1_024:
            return None
        return f"{len(body)} bytes, and the broker takes {self._connection.max_payload}; shorten its texts, or put it into the inbox"

    async def status(self, deliberation: str, request_id: str = "") -> DeliberationStatus:
        """The status of a deliberation: UNKNOWN, PENDING, IN_PROGRESS, COMPLETED, FAILED or TIMEOUT, with counts.

        With a `request_id`, the status of that request: PENDING until it is taken, even if an earlier request
        has results, and FAILED with the reason if it was rejected.
        """
        return _status(STATUS, await self._ask(STATUS, deliberation, request_id))

    async def result(self, deliberation: str, request_id: str = "") -> DeliberationStatus:
        """Like `status`, plus the texts of the proposals. If they are too large, it names the file with them."""
        return _status(RESULT, await self._ask(RESULT, deliberation, request_id))

    async def stats(self) -> dict[str, int]:
        """The number of deliberations of each status, of requests that wait, and of rejected requests."""
        counts: dict[str, int] = json.loads(await self._ask(STATS, "", ""))
        return counts

    async def wait(
        self,
        deliberation: str,
        request_id: str = "",
        timeout: float = 3_600.0,  # noqa: ASYNC109 - bounds a polling loop
        every: float = 1.0,
    ) -> DeliberationStatus:
        """The result, once the deliberation has ended. Polls; times are in seconds. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        while not (answer := await self.status(deliberation, request_id)).status.ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{deliberation} is still {answer.status} after {timeout:g} s")
            await asyncio.sleep(every)
        return await self.result(deliberation, request_id)

    async def _publish(self, sealed: list[tuple[Task, str, bytes]]) -> list[Submitted]:
        submitted: list[Submitted] = []
        for start in range(0, len(sealed), MOST_PENDING):
            chunk = sealed[start : start + MOST_PENDING]
            acks = [
                await self._jetstream.publish_async(REQUESTED, body, headers={"Nats-Msg-Id": key})
                for _, key, body in chunk
            ]
            for (task, key, _), ack in zip(
                chunk, await asyncio.wait_for(asyncio.gather(*acks), ACK_SECONDS), strict=True
            ):
                ids = tuple(deliberation_id(task.task_id, role) for role in task.roles)
                submitted.append(Submitted(task.task_id, ids, bool(ack.duplicate), key))
        return submitted

    async def _make_stream(self) -> None:
        """On a fresh broker, the first submission may come before anything has created the streams."""
        try:
            await ensure_streams(self._jetstream, (REQUESTS,))
        except TimeoutError:  # not permitted
            raise StreamMismatch(f"no stream takes {REQUESTED}; make them with `fleet events check`") from None

    async def _ask(self, subject: str, deliberation: str, request_id: str) -> bytes:
        from nats.errors import NoRespondersError

        with unavailable(self.options, self._refused):
            try:
                reply = await self._connection.request(
                    subject, json.dumps({"id": deliberation, "request": request_id}).encode(), timeout=ANSWER_SECONDS
                )
            except NoRespondersError:
                raise BrokerUnavailable(f"nobody answers on {subject}: start `fleet serve`") from None
        headers = reply.headers or {}
        if "Nats-Service-Error-Code" in headers:
            error = f"{subject}: {headers.get('Nats-Service-Error', '')}"
            raise InvalidInput(error) if headers["Nats-Service-Error-Code"] == "400" else BrokerUnavailable(error)
        return bytes(reply.data)


class Client:
    """`AsyncClient` for synchronous code: the connection lives in its own thread."""

    def __init__(self, broker: str | NatsOptions) -> None:
        self._client = AsyncClient(broker)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet-client", daemon=True)

    def __enter__(self) -> Client:
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._client.__aexit__())
        finally:
            self._end()

    def submit(self, task: Task | Mapping[str, Any], *, rerun: bool = False) -> Submitted:
        """See `AsyncClient.submit`."""
        return self._run(self._client.submit(task, rerun=rerun))

    def submit_all(self, tasks: Iterable[Task | Mapping[str, Any]], *, rerun: bool = False) -> list[Submitted]:
        """See `AsyncClient.submit_all`."""
        return self._run(self._client.submit_all(tasks, rerun=rerun))

    def oversize(self, task: Task, *, rerun: bool = False) -> str | None:
        """See `AsyncClient.oversize`."""
        return self._client.oversize(task, rerun=rerun)

    def status(self, deliberation: str, request_id: str = "") -> DeliberationStatus:
        """See `AsyncClient.status`."""
        return self._run(self._client.status(deliberation, request_id))

    def result(self, deliberation: str, request_id: str = "") -> DeliberationStatus:
        """See `AsyncClient.result`."""
        return self._run(self._client.result(deliberation, request_id))

    def stats(self) -> dict[str, int]:
        """See `AsyncClient.stats`."""
        return self._run(self._client.stats())

    def wait(
        self, deliberation: str, request_id: str = "", timeout: float = 3_600.0, every: float = 1.0
    ) -> DeliberationStatus:
        """See `AsyncClient.wait`."""
        return self._run(self._client.wait(deliberation, request_id, timeout, every))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _AnyRole(dict[str, Role]):
    """Accepts any role name: only the deployment that runs the councils knows its roles."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and 0 < len(name) <= 32


_ANY_ROLE = _AnyRole(BUILT_IN_ROLES)


def _validated(task: Task | Mapping[str, Any]) -> Task:
    if isinstance(task, Task):
        return task
    try:
        return Task.model_validate(dict(task), context={"roles": _ANY_ROLE})
    except ValidationError as error:
        raise InvalidInput(f"task {task.get('task_id')!r:.80}: {describe(error)}") from error


def _sealed(task: Task, rerun: bool) -> tuple[Task, str, bytes]:
    """(task, idempotency key, body). The key is a hash of the content, or random for a rerun."""
    payload = task.model_dump(mode="json", exclude_unset=True) | ({"rerun": True} if rerun else {})
    digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:32]
    key = f"request:{task.task_id}:{uuid.uuid4().hex if rerun else digest}"
    envelope = Envelope(event_type=REQUESTED, idempotency_key=key, correlation_id=task.task_id, payload=payload)
    return task, key, envelope.sealed()[2]


def _status(subject: str, answer: bytes) -> DeliberationStatus:
    try:
        return DeliberationStatus.model_validate_json(answer)
    except ValidationError as error:
        why = describe(error)
        raise BrokerUnavailable(f"{subject}: answered in a form unknown here ({why}); update this client") from None


def _no_stream() -> type[Exception]:
    from nats.js.errors import NoStreamResponseError

    error: type[Exception] = NoStreamResponseError
    return error
