"""The NATS service over a pipeline, as `fleet serve` runs it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.services.status import RequestStatusService, StatusService
from fleet_pipeline_tests.support.answering import answering
from fleet_pipeline_tests.support.pipeline import Pipeline


def status_service(pipeline: Pipeline) -> StatusService:
    return StatusService(pipeline.instance, pipeline.tasks)


def serving(pipeline: Pipeline, url: str) -> AbstractContextManager[None]:
    nats = NatsOptions(url=url)

    request_status = RequestStatusService(status_service(pipeline), nats)

    def answer(subject: str, key: str, request_id: str, texts: bool) -> dict:
        return request_status.stats() if subject == "fleet.stats" else request_status.status(key, request_id, texts)

    return answering(nats, answer)
