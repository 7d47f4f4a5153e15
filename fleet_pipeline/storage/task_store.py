"""Stored tasks: `<storage>/tasks/<deliberation_id>.json`.

A deliberation's spec is durable here before its partition key is added. A run on any machine therefore needs
only the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.json_input import JsonObject
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task, checked_id, deliberation_id
from fleet_pipeline.storage.store import Store

# The field of a spec's file that holds the id and time of its request, beside the task's own fields.
_REQUEST = "request"


@dataclass(frozen=True)
class Spec:
    """The subject of one deliberation: a task of one role, and the id of the request that asked for it."""

    task: Task
    request_id: str = ""
    requested_at: str = ""  # ISO 8601 in UTC: text order is time order

    @property
    def key(self) -> str:
        return deliberation_id(self.task.task_id, self.task.roles[0])

    def document(self) -> JsonObject:
        request = {_REQUEST: {"id": self.request_id, "at": self.requested_at}} if self.request_id else {}
        return self.task.model_dump(mode="json") | request

    @classmethod
    def parse(cls, document: Any, roles: Mapping[str, Role]) -> Spec:
        """Raises `ValidationError`, and `InvalidInput` unless the task has exactly one role."""
        fields = dict(document) if isinstance(document, dict) else document
        request = fields.pop(_REQUEST, None) if isinstance(fields, dict) else None
        request = request if isinstance(request, dict) else {}
        task = Task.model_validate(fields, context={"roles": roles})
        if len(task.roles) != 1:
            raise InvalidInput("holds a task of several roles; a spec has one")
        return cls(task, str(request.get("id", "")), str(request.get("at", "")))


def specs(task: Task, request_id: str = "", requested_at: str = "") -> list[Spec]:
    """One spec for each role of the task."""
    return [Spec(task.model_copy(update={"roles": (role,)}), request_id, requested_at) for role in task.roles]


class TaskStore:
    """The stored tasks of one storage. Every read validates a task against the current roles."""

    def __init__(self, store: Store, roles: Mapping[str, Role]) -> None:
        self.store = store
        self.roles = roles

    def put(self, task: Task) -> list[str]:
        """Store one spec per role of the task; returns the deliberation ids."""
        return [self.put_spec(spec) for spec in specs(task)]

    def put_spec(self, spec: Spec) -> str:
        self.store.write(_path(spec.key), json.dumps(spec.document()).encode())
        return spec.key

    def get(self, key: str) -> tuple[Task, Role]:
        """The task and role of a deliberation. Raises `InvalidInput` when its spec is absent or invalid."""
        task = self.get_spec(key).task
        return task, self.roles[task.roles[0]]

    def get_spec(self, key: str) -> Spec:
        """The spec of a deliberation. Raises `InvalidInput` when it is absent or invalid."""
        content = self.store.read(_path(key))
        full_path = self.store.full_path(_path(key))
        if content is None:
            raise InvalidInput(f"no task is stored at {full_path}; put it in a backlog and run that")
        try:
            spec = Spec.parse(json.loads(content), self.roles)
        except ValidationError as error:
            raise InvalidInput(f"{full_path}: {describe(error)}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{full_path}: {error}") from error
        except ValueError as error:
            raise InvalidInput(f"{full_path}: not valid JSON: {error}") from error
        if spec.key != key:
            raise InvalidInput(f"{full_path}: holds another deliberation than its name says")
        return spec

    def remove(self, key: str) -> None:
        self.store.delete(_path(key))

    def has(self, key: str) -> bool:
        return self.store.read(_path(key)) is not None

    def keys(self) -> list[str]:
        """The sorted ids of all deliberations that have a spec."""
        return self.store.names("tasks", ".json")


def _path(key: str) -> str:
    return f"tasks/{checked_id(key)}.json"
