"""Answering questions on NATS: the micro service `fleet`, with `fleet.status`, `fleet.result`, `fleet.stats`.

A question is a JSON object, `{"id": "rate-limiter.dev"}`, or the id alone; with the id of a request beside it
(`"request"`) it is about that request. Answers are JSON objects; what cannot
be answered is an error of the service with a code and a sentence. Any number of processes may serve: each
question reaches one of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fleet_pipeline.common.errors import InvalidInput, treatment
from fleet_pipeline.events.connection import connect
from fleet_pipeline.events.options import NatsOptions

STATUS, RESULT, STATS = "fleet.status", "fleet.result", "fleet.stats"
MAX_QUESTION_BYTES = 4_096
# (subject, id or "", id of a request or "", whether texts are wanted) -> answer. May block; raises InvalidInput.
Answer = Callable[[str, str, str, bool], dict[str, Any]]


async def serve(
    options: NatsOptions, answer: Answer, version: str, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Answer questions until `stop` is set; `ready` is called when they can come. Survives the broker's restarts.

    Raises what connecting raises when there is no broker at the start.
    """
    from nats.micro import add_service

    async with connect(options, lasting=True) as connection:

        async def handle(request: Any) -> None:
            try:
                key, about = _asked(request.data) if request.subject != STATS else ("", "")
                found = await asyncio.to_thread(answer, request.subject, key, about, request.subject == RESULT)
                body = json.dumps(found).encode()
                if len(body) > connection.max_payload:
                    found = await asyncio.to_thread(answer, request.subject, key, about, False)
                    body = json.dumps(found).encode()
                await request.respond(body)
            except Exception as error:  # noqa: BLE001 - a question that fails must not end the service
                known = treatment(error)
                code = known.service_code if known else "500"
                said = str(error) if isinstance(error, InvalidInput) else f"{type(error).__name__}: {error}"
                await request.respond_error(code, said.splitlines()[0])

        description = "Where deliberations stand, and what came of them."
        service = await add_service(connection, name="fleet", version=version, description=description)
        for subject in (STATUS, RESULT, STATS):
            await service.add_endpoint(name=subject.partition(".")[2], subject=subject, handler=handle)
        await connection.flush()
        ready()
        await stop.wait()
        await service.stop()


def _asked(data: bytes) -> tuple[str, str]:
    """The deliberation's id in a question, and the request's. Raises `InvalidInput`."""
    if len(data) > MAX_QUESTION_BYTES:
        raise InvalidInput(f"a question of {len(data)} bytes; at most {MAX_QUESTION_BYTES} fit")
    text = data.decode("utf-8", "replace").strip()
    content: Any = {"id": text}
    if text.startswith("{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"not valid JSON: {error}") from None
    key, request = content.get("id", content.get("deliberation_id")), content.get("request", "")
    if not isinstance(key, str) or not key or not isinstance(request, str):
        raise InvalidInput('name a deliberation: {"id": "rate-limiter.dev"}')
    return key, request
