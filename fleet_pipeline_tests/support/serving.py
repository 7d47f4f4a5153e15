"""The NATS service over a pipeline, as `fleet serve` runs it."""

from contextlib import AbstractContextManager
from typing import Any

from fleet_pipeline.api.nats_service import Answer
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.services.status import RequestStatusService, StatusService
from fleet_pipeline_tests.support.answering import answering
from fleet_pipeline_tests.support.pipeline import Pipeline


def status_service(pipeline: Pipeline) -> StatusService:
    return StatusService(pipeline.instance, pipeline.tasks)


def serving(pipeline: Pipeline, url: str) -> AbstractContextManager[None]:
    requests = RequestStatusService(status_service(pipeline))

    async def answer(connection: Any, subject: str, key: str, request_id: str, texts: bool) -> Answer:
        if subject == "fleet.stats":
            return await requests.stats(connection)
        return await requests.status(connection, key, request_id, texts)

    return answering(NatsOptions(url=url), answer)
