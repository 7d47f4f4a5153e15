"""Answering questions on NATS: the micro service `fleet`, with `fleet.status`, `fleet.result`, `fleet.stats`.

A question is a JSON object, `{"id": "rate-limiter.dev"}`, or the id alone. If the object also has the id of a
request (`"request"`), the question is about that request. Answers are JSON objects. A question that cannot be
answered gets a service error with a code and a sentence. Any number of processes may serve: each question
reaches one of them.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fleet_pipeline.common.errors import InvalidInput, treatment
from fleet_pipeline.events.connection import connect, unavailable
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.payloads import DeliberationStatus

STATUS, RESULT, STATS = "fleet.status", "fleet.result", "fleet.stats"
MAX_QUESTION_BYTES = 4_096
Answer = DeliberationStatus | Mapping[str, int]
# (connection, subject, id or "", request id or "", whether to include texts) -> answer. Raises InvalidInput.
Answering = Callable[[Any, str, str, str, bool], Awaitable[Answer]]


async def serve(
    options: NatsOptions, answer: Answering, version: str, stop: asyncio.Event, ready: Callable[[Any], None]
) -> None:
    """Answer questions until `stop` is set. `ready` is called with the connection once they can arrive. Survives broker
    restarts.

    Raises the errors of `connect` if there is no broker at the start.
    """
    from nats.micro import add_service

    denials: list[str] = []
    async with connect(options, lasting=True, refused=denials) as connection:

        async def handle(request: Any) -> None:
            try:
                key, request_id = _parse_question(request.data) if request.subject != STATS else ("", "")
                with unavailable(options, denials):
                    body = _body(await answer(connection, request.subject, key, request_id, request.subject == RESULT))
                    if len(body) > connection.max_payload:
                        body = _body(await answer(connection, request.subject, key, request_id, False))
                await request.respond(body)
            except Exception as error:  # noqa: BLE001 - a question that fails must not end the service
                treated = treatment(error)
                code = treated.service_code if treated else "500"
                message = str(error) if isinstance(error, InvalidInput) else f"{type(error).__name__}: {error}"
                await request.respond_error(code, message.splitlines()[0])

        description = "Where deliberations stand, and what came of them."
        service = await add_service(connection, name="fleet", version=version, description=description)
        for subject in (STATUS, RESULT, STATS):
            await service.add_endpoint(name=subject.partition(".")[2], subject=subject, handler=handle)
        await connection.flush()
        ready(connection)
        await stop.wait()
        await service.stop()


def _body(answer: Answer) -> bytes:
    return (answer.model_dump_json() if isinstance(answer, DeliberationStatus) else json.dumps(answer)).encode()


def _parse_question(data: bytes) -> tuple[str, str]:
    """(id of the deliberation, id of the request or "") in a question. Raises `InvalidInput`."""
    if len(data) > MAX_QUESTION_BYTES:
        raise InvalidInput(f"a question of {len(data)} bytes; at most {MAX_QUESTION_BYTES} fit")
    text = data.decode("utf-8", "replace").strip()
    content: Any = {"id": text}
    if text.startswith("{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"not valid JSON: {error}") from None
    key, request_id = content.get("id", content.get("deliberation_id")), content.get("request", "")
    if not isinstance(key, str) or not key or not isinstance(request_id, str):
        raise InvalidInput('name a deliberation: {"id": "rate-limiter.dev"}')
    return key, request_id
