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

from fleet_pipeline.deliberation.errors import InvalidInput, describe
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task, deliberation_id, safe_key
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


def put_task(store: Store, task: Task) -> list[str]:
    """Store one spec per role of the task; returns the deliberation ids."""
    return [put_spec(store, spec) for spec in specs(task)]


def put_spec(store: Store, spec: Spec) -> str:
    store.write(_path(spec.key), json.dumps(spec.document()).encode())
    return spec.key


def get_task(store: Store, key: str, roles: Mapping[str, Role]) -> tuple[Task, Role]:
    """The task and role of a deliberation. Raises `InvalidInput` when it is absent or does not hold."""
    task = get_spec(store, key, roles).task
    return task, roles[task.roles[0]]


def get_spec(store: Store, key: str, roles: Mapping[str, Role]) -> Spec:
    """Raises `InvalidInput` when it is absent or does not hold."""
    content = store.read(_path(key))
    place = store.full_path(_path(key))
    if content is None:
        raise InvalidInput(f"no task is stored at {place}; put it in a backlog and run that")
    try:
        spec = Spec.parse(json.loads(content), roles)
    except ValidationError as error:
        raise InvalidInput(f"{place}: {describe(error)}") from error
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error}") from error
    except ValueError as error:
        raise InvalidInput(f"{place}: not valid JSON: {error}") from error
    if spec.key != key:
        raise InvalidInput(f"{place}: holds another deliberation than its name says")
    return spec


def remove_spec(store: Store, key: str) -> None:
    store.delete(_path(key))


def is_stored(store: Store, key: str) -> bool:
    return store.read(_path(key)) is not None


def stored_keys(store: Store) -> list[str]:
    """The ids of all deliberations that have a spec, sorted."""
    return store.names("tasks", ".json")


def _path(key: str) -> str:
    return f"tasks/{safe_key(key)}.json"
