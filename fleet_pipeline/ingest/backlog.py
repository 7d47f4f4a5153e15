"""Reading backlogs: JSON Lines, CSV or Parquet, one task a line.

Every line becomes a task or a refusal that names the line, the field and the remedy. A bad line
never affects its neighbours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import JsonValue, ValidationError

from fleet_pipeline.common.errors import InvalidInput, InvalidRecord
from fleet_pipeline.common.json_input import JsonObject, drop_nulls
from fleet_pipeline.common.validation import problems
from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.deliberation.task import Task
from fleet_pipeline.ingest.records import Records, Refusal, csv_rows, json_cell, json_lines, parquet_rows, read_content

ENDINGS = ("jsonl", "ndjson", "json", "csv", "parquet")
_JSON_COLUMNS = ("constraints", "sampling")


@dataclass
class Backlog:
    tasks: list[Task] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def read_backlog(location: str, roles: Mapping[str, Role]) -> Backlog:
    """Read a path, an fsspec URL, or standard input ("-", JSON Lines).

    Raises `InvalidInput` if the file as a whole cannot be read.
    """
    suffix = "jsonl" if location == "-" else location.lower().rsplit(".", 1)[-1]
    readers = {"jsonl": json_lines, "ndjson": json_lines, "json": json_lines, "csv": csv_rows, "parquet": parquet_rows}
    if suffix not in readers:
        raise InvalidInput(f"{location}: a backlog's name ends in .jsonl, .csv or .parquet")
    return _collect(readers[suffix](read_content(location)), roles)


def _collect(lines: Records, roles: Mapping[str, Role]) -> Backlog:
    backlog = Backlog()
    first_line: dict[str, int] = {}
    for number, parse in lines:
        try:
            entry = parse()
            if not isinstance(entry, dict):
                raise InvalidRecord("expected an object with task_id and description")
            task = Task.model_validate(drop_nulls(_expand_text_columns(entry)), context={"roles": roles})
        except InvalidRecord as error:
            backlog.refused.append(Refusal(number, error.field, str(error)))
            continue
        except ValidationError as error:
            backlog.refused += [Refusal(number, problem.field, problem.message) for problem in problems(error)]
            continue
        # Case-folded: the id is a file name, and some file systems ignore case.
        earlier = first_line.setdefault(task.task_id.casefold(), number)
        if earlier != number:
            message = f"{task.task_id!r} on line {number} is already on line {earlier}; give one of them another id"
            backlog.refused.append(Refusal(number, "task_id", message))
        else:
            backlog.tasks.append(task)
    return backlog


def _expand_text_columns(entry: JsonObject) -> JsonObject:
    """Parse nested fields given as text, as some formats and tools lack nesting: roles with commas, others as JSON."""
    texts = {name: text for name in _JSON_COLUMNS if isinstance(text := entry.get(name), str)}
    expanded = entry | {name: json_cell(name, text) for name, text in texts.items()}
    if isinstance(roles := entry.get("roles"), str):
        roles = roles.strip()
        names: list[JsonValue] = [*roles.replace(";", ",").split(",")]
        expanded["roles"] = json_cell("roles", roles) if roles.startswith("[") else names
    return expanded


def read_backlogs(location: str, roles: Mapping[str, Role]) -> dict[str, Backlog]:
    """The backlogs of a file, a folder or a glob (a path or any fsspec URL). Keys are files, in order of their names.

    A file that cannot be read gives a refusal on line 0. So does a task whose id is already in an earlier file.
    Neither affects its neighbours. Raises `InvalidInput` if there is no file at all.
    """
    backlogs: dict[str, Backlog] = {}
    first_file: dict[str, str] = {}
    for file in _files(location):
        try:
            backlog = read_backlog(file, roles)
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
        backlogs[file] = Backlog(kept, backlog.refused)
    return backlogs


def _files(location: str) -> list[str]:
    try:
        fs, path = fsspec.core.url_to_fs(location)
        # Object store drivers cache listings, by default forever.
        fs.invalidate_cache()
        if fs.isdir(path):
            paths = fs.ls(path, detail=False)
        elif any(mark in path for mark in "*?[") and not fs.exists(path):
            paths = fs.glob(path)
        else:  # a named file is always read or refused; the suffix filter below is for listings
            return [location]
    except Exception as error:
        # Object store drivers pass on any exception of their client libraries.
        raise InvalidInput(f"{location}: cannot be read: {error}") from error
    names = [str(entry) for entry in paths if not str(entry).rsplit("/", 1)[-1].startswith(".")]
    files = [name if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(name)) for name in names]
    chosen = [file for file in files if file.lower().rsplit(".", 1)[-1] in ENDINGS]
    if not chosen:
        raise InvalidInput(f"{location}: no backlog there; its name ends in .jsonl, .csv or .parquet")
    return sorted(chosen)
