"""Reading backlogs: JSON Lines, JSON, CSV or Parquet, one task a record.

Every record becomes a task or a refusal that names the line, the field and the remedy. A bad record
never affects its neighbours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from fleet_pipeline.common.errors import InvalidInput, InvalidRecord
from fleet_pipeline.common.json_input import drop_nulls
from fleet_pipeline.common.validation import Problem, problems
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.ingest.columns import BacklogOptions, ColumnReader, fitting_preset
from fleet_pipeline.ingest.records import KINDS, Refusal, is_table, kind_of, read_records

_DEFAULTS = BacklogOptions()


@dataclass
class Backlog:
    """What a file holds. `ignored` are columns that no field of a task is made of."""

    tasks: list[Task] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_backlog(location: str, roles: Mapping[str, Role], options: BacklogOptions = _DEFAULTS) -> Backlog:
    """Read a path, an fsspec URL, or standard input ("-", JSON in any form).

    Raises `InvalidInput` if the file as a whole cannot be read, or lacks a column that `options` name.
    """
    backlog, columns = Backlog(), ColumnReader(options, typed=not is_table(location))
    first_line: dict[str, int] = {}
    for line, parse in read_records(location):
        try:
            for record in columns.records(parse()):
                _take(backlog, line, _task(record, columns, roles), first_line)
        except InvalidRecord as error:
            backlog.refused.append(Refusal(line, error.field, str(error)))
        except RecursionError:
            backlog.refused.append(Refusal(line, InvalidRecord.WHOLE, "nested too deeply; flatten it"))
    if columns.seen and (absent := columns.absent()):
        there = ", ".join(sorted(columns.seen)[:20])
        raise InvalidInput(f"{location}: has no column {', '.join(absent)}; there are {there}")
    backlog.ignored = list(columns.ignored)
    return backlog


def _task(record: Any, columns: ColumnReader, roles: Mapping[str, Role]) -> Task | list[Problem]:
    """The task of a record, or what is wrong with it."""
    if not isinstance(record, dict):
        raise InvalidRecord("expected an object with task_id and description")
    fields = drop_nulls(columns.fields(record))
    try:
        return Task.model_validate(fields, context={"roles": roles})
    except ValidationError as error:
        missing = {"task_id", "description"} - fields.keys()
        return [
            Problem(problem.field, _remedy(problem.field, record)) if problem.field in missing else problem
            for problem in problems(error)
        ]


def _remedy(field: str, record: Mapping[str, Any]) -> str:
    """What to do where a task's id or description is missing: often another column holds it."""
    if preset := fitting_preset(record):
        return f"add this field; this looks like an export that --preset {preset} reads"
    return f"add this field, or name the column that holds it: --map {field}=COLUMN"


def _take(backlog: Backlog, line: int, task: Task | list[Problem], first_line: dict[str, int]) -> None:
    if not isinstance(task, Task):
        backlog.refused += [Refusal(line, problem.field, problem.message) for problem in task]
        return
    # Case-folded: the id is a file name, and some file systems ignore case.
    earlier = first_line.get(task.task_id.casefold())
    if earlier is not None:
        message = f"{task.task_id!r} on line {line} is already on line {earlier}; give one of them another id"
        backlog.refused.append(Refusal(line, "task_id", message))
        return
    first_line[task.task_id.casefold()] = line
    backlog.tasks.append(task)


def read_backlogs(
    locations: str | Iterable[str], roles: Mapping[str, Role], options: BacklogOptions = _DEFAULTS
) -> dict[str, Backlog]:
    """The backlogs of files, folders or globs (paths or fsspec URLs). Keys are files, in order of their names.

    A file that cannot be read gives a refusal on line 0. So does a task whose id is already in an earlier file.
    Neither affects its neighbours. Raises `InvalidInput` if a location has no file at all.
    """
    backlogs: dict[str, Backlog] = {}
    first_file: dict[str, str] = {}
    for location in [locations] if isinstance(locations, str) else locations:
        for file in _files(location):
            if file in backlogs:
                continue
            try:
                backlog = read_backlog(file, roles, options)
            except InvalidInput as error:
                backlog = Backlog(refused=[Refusal(0, "(whole file)", str(error))])
            kept = []
            for task in backlog.tasks:
                earlier = first_file.setdefault(task.task_id.casefold(), file)
                if earlier == file:
                    kept.append(task)
                else:
                    message = f"{task.task_id!r} is in {earlier} already; give one of them another id"
                    backlog.refused.append(Refusal(0, "task_id", message))
            backlogs[file] = Backlog(kept, backlog.refused, backlog.ignored)
    return backlogs


def _files(location: str) -> list[str]:
    if location == "-":
        return [location]
    try:
        fs, path = fsspec.core.url_to_fs(location)
        # Object store drivers cache listings, by default forever.
        fs.invalidate_cache()
        if fs.isdir(path):
            paths = fs.ls(path, detail=False)
        elif any(mark in path for mark in "*?[") and not fs.exists(path):
            paths = fs.glob(path)
        else:  # a named file is always read or refused; the filter below is for listings
            return [location]
    except Exception as error:
        # Object store drivers pass on any exception of their client libraries.
        raise InvalidInput(f"{location}: cannot be read: {error}") from error
    names = [str(entry) for entry in paths if not str(entry).rsplit("/", 1)[-1].startswith(".")]
    files = [name if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(name)) for name in names]
    chosen = [file for file in files if kind_of(file)]
    if not chosen:
        raise InvalidInput(f"{location}: no backlog there; one has {KINDS}")
    return sorted(chosen)
