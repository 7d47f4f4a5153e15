"""Stored tasks: `<storage>/tasks/<deliberation_id>.json`.

A deliberation's spec is durable here before its partition key is added, so that a run, wherever it
executes, needs no more than the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task, checked_id, deliberation_id
from fleet_pipeline.storage.store import Store

# Beside the task's own fields in its file: the id of the request that brought it.
_REQUEST = "request"


@dataclass(frozen=True)
class Spec:
    """What one deliberation is about: a task of one role, and the id of the request that brought it."""

    task: Task
    request_id: str = ""
    requested_at: str = ""  # ISO 8601 in UTC, so that later ones sort after earlier ones

    @property
    def key(self) -> str:
        return deliberation_id(self.task.task_id, self.task.roles[0])

    def document(self) -> dict[str, Any]:
        request = {_REQUEST: {"id": self.request_id, "at": self.requested_at}} if self.request_id else {}
        return self.task.model_dump(mode="json") | request

    @classmethod
    def parse(cls, document: Any, roles: Mapping[str, Role]) -> Spec:
        """Raises `ValidationError`; `InvalidInput` for another number of roles than one."""
        fields = dict(document) if isinstance(document, dict) else document
        request = fields.pop(_REQUEST, None) if isinstance(fields, dict) else None
        request = request if isinstance(request, dict) else {}
        task = Task.model_validate(fields, context={"roles": roles})
        if len(task.roles) != 1:
            raise InvalidInput("holds a task of several roles; a spec has one")
        return cls(task, str(request.get("id", "")), str(request.get("at", "")))


def specs(task: Task, request_id: str = "", requested_at: str = "") -> list[Spec]:
    """One for each role of the task."""
    return [Spec(task.model_copy(update={"roles": (role,)}), request_id, requested_at) for role in task.roles]


class TaskStore:
    """The stored tasks of one storage. They are read with the roles in force, which say whether a task still holds."""

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
        """The task and role of a deliberation. Raises `InvalidInput` when it is absent or does not hold."""
        task = self.get_spec(key).task
        return task, self.roles[task.roles[0]]

    def get_spec(self, key: str) -> Spec:
        """Raises `InvalidInput` when it is absent or does not hold."""
        content = self.store.read(_path(key))
        place = self.store.full_path(_path(key))
        if content is None:
            raise InvalidInput(f"no task is stored at {place}; put it in a backlog and run that")
        try:
            spec = Spec.parse(json.loads(content), self.roles)
        except ValidationError as error:
            raise InvalidInput(f"{place}: {describe(error)}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{place}: {error}") from error
        except ValueError as error:
            raise InvalidInput(f"{place}: not valid JSON: {error}") from error
        if spec.key != key:
            raise InvalidInput(f"{place}: holds another deliberation than its name says")
        return spec

    def remove(self, key: str) -> None:
        self.store.delete(_path(key))

    def has(self, key: str) -> bool:
        return self.store.read(_path(key)) is not None

    def keys(self) -> list[str]:
        """The ids of all deliberations that have a spec, sorted."""
        return self.store.names("tasks", ".json")


def _path(key: str) -> str:
    return f"tasks/{checked_id(key)}.json"
