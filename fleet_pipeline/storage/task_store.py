"""Stored tasks: `<storage>/tasks/<deliberation_id>.json`.

A deliberation's spec is durable here before its partition key is added, so that a run, wherever it
executes, needs no more than the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from fleet_pipeline.deliberation.errors import InvalidInput, describe
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task, deliberation_id, safe_key
from fleet_pipeline.storage.store import Store


def put_task(store: Store, task: Task) -> list[str]:
    """Store one spec per role of the task; returns the deliberation ids."""
    ids = []
    for role in task.roles:
        spec = task.model_copy(update={"roles": (role,)})
        key = deliberation_id(task.task_id, role)
        store.write(_path(key), spec.model_dump_json().encode())
        ids.append(key)
    return ids


def get_task(store: Store, key: str, roles: Mapping[str, Role]) -> tuple[Task, Role]:
    """The task and role of a deliberation. Raises `InvalidInput` when it is absent or does not hold."""
    content = store.read(_path(key))
    place = store.full_path(_path(key))
    if content is None:
        raise InvalidInput(f"no task is stored at {place}; put it in a backlog and run that")
    try:
        task = Task.model_validate(json.loads(content), context={"roles": roles})
    except ValidationError as error:
        raise InvalidInput(f"{place}: {describe(error)}") from error
    except ValueError as error:
        raise InvalidInput(f"{place}: not valid JSON: {error}") from error
    if len(task.roles) != 1 or deliberation_id(task.task_id, task.roles[0]) != key:
        raise InvalidInput(f"{place}: holds another deliberation than its name says")
    return task, roles[task.roles[0]]


def _path(key: str) -> str:
    return f"tasks/{safe_key(key)}.json"
