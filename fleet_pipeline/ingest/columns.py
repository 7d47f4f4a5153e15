"""From the columns of other people's files to the fields of a task.

Names are compared without case and surrounding blanks, and a blank is an underscore: `Task ID` is `task_id`. A mapping
says which columns a field is made of; presets hold the mappings of common exports. What no field is made of is ignored
and told, or refused where the reader is strict.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator

from fleet_pipeline.common.errors import InvalidRecord
from fleet_pipeline.common.json_input import JsonObject, reject_duplicate_keys
from fleet_pipeline.common.strict_model import StrictModel
from fleet_pipeline.deliberation.task import Constraints, Task
from fleet_pipeline.ingest.csv_records import Cells

Preset = Literal["github", "jira", "linear", "trello", "trello-csv"]
# By preset, the columns of each field. `gh issue list --json number,title,body,labels,url` and the others' CSV exports;
# Trello exports a board as JSON as well.
PRESETS: Mapping[Preset, Mapping[str, tuple[str, ...]]] = {
    "github": {
        "task_id": ("number",),
        "description": ("title", "body"),
        "metadata.labels": ("labels",),
        "metadata.url": ("url",),
    },
    "jira": {
        "task_id": ("Issue key",),
        "description": ("Summary", "Description"),
        "metadata.labels": ("Labels",),
        "metadata.type": ("Issue Type",),
        "metadata.priority": ("Priority",),
    },
    "linear": {
        "task_id": ("ID",),
        "description": ("Title", "Description"),
        "metadata.labels": ("Labels",),
        "metadata.priority": ("Priority",),
    },
    "trello": {"task_id": ("shortLink",), "description": ("name", "desc"), "metadata.labels": ("labels",)},
    "trello-csv": {
        "task_id": ("Card ID",),
        "description": ("Card Name", "Card Description"),
        "metadata.labels": ("Labels",),
    },
}
_TASK = frozenset(Task.model_fields)
# A table has no nesting: the fields of constraints may be columns of their own.
_CONSTRAINTS = frozenset(Constraints.model_fields)
_TEXTS = frozenset({"description", "context"})  # made of several columns, with a blank line between them
_JSON = frozenset({"constraints", "sampling", "cluster_spec", "metadata", "architect_rubric"})
_NESTED = _JSON  # their fields may be columns of their own, such as `metadata.team`
_LISTS = frozenset({"requirements", "rubric"})
# Keys under which programs wrap the list of what they export.
_WRAPPERS = ("tasks", "issues", "cards", "items", "records", "data", "nodes")


class BacklogOptions(StrictModel):
    """How backlogs of other programs are read."""

    preset: Preset | None = Field(default=None, description="Whose export it is: github, jira, linear, trello, ...")
    map: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description='Columns of each field, such as {task_id = ["Key"]}; wins over the preset.'
    )
    strict: bool = Field(
        default=False, description="Refuse columns that no field is made of, instead of ignoring them."
    )

    @field_validator("map", mode="before")
    @classmethod
    def _texts_are_lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: columns.split(",") if isinstance(columns, str) else columns for name, columns in value.items()}

    @field_validator("map")
    @classmethod
    def _known_fields(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name in value:
            if name not in _TASK | _CONSTRAINTS and not name.startswith("metadata."):
                raise ValueError(f"{name} is no field of a task; there are {', '.join(sorted(_TASK | _CONSTRAINTS))}")
        return value

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """The columns of each field, with the preset's."""
        return {**(PRESETS[self.preset] if self.preset else {}), **self.map}


@dataclass
class ColumnReader:
    """Reads the records of one file. `ignored` and `seen` are names of columns, as the file has them."""

    options: BacklogOptions = field(default_factory=BacklogOptions)
    typed: bool = False  # its names were typed by a person or a program of theirs: a near miss is a misspelling
    ignored: dict[str, None] = field(default_factory=dict)  # in the order of the file
    seen: set[str] = field(default_factory=set)

    def records(self, entry: Any) -> Iterator[Any]:
        """The record, or the records of the list that it wraps, as `{"tasks": [...]}` does."""
        if isinstance(entry, dict) and not self._has_id(entry):
            lists = {name: value for name, value in entry.items() if _is_list_of_objects(value)}
            name = next(iter(lists), "") if len(lists) == 1 else next((one for one in _WRAPPERS if one in lists), "")
            if name:
                yield from lists[name]
                return
        yield entry

    def fields(self, record: Mapping[str, Any]) -> JsonObject:
        """The fields of a task. Raises `InvalidRecord` for a column that is given twice, or that a strict reader refuses."""
        self.seen.update(record)
        by_name: dict[str, str] = {}
        for column in record:
            earlier = by_name.setdefault(_folded(column), column)
            if earlier != column:
                raise InvalidRecord(f"is given twice, as {earlier} and as {column}; keep one", field=column[:80])
        used: set[str] = set()
        task: JsonObject = {}
        constraints: JsonObject = {}
        for name, columns in self.options.columns.items():
            present = [by_name[_folded(column)] for column in columns if _folded(column) in by_name]
            used.update(present)
            values = [record[column] for column in present if record[column] not in (None, "", [])]
            if values:
                _put(task, constraints, name, _joined(name, values))
        for column, value in record.items():
            name = _folded(column)
            if column in used:
                continue
            if name in self.options.columns:  # the field is made of other columns
                self.ignored.setdefault(column)
            elif name in _TASK or name in _CONSTRAINTS or name.partition(".")[0] in _NESTED:
                if isinstance(value, Cells) and name not in _LISTS | {"roles"}:
                    raise InvalidRecord("is given twice; keep one column of that name", field=column[:80])
                _put(task, constraints, name, value)
            elif self.options.strict or (self.typed and hint(column) and not self.options.columns):
                raise InvalidRecord(_unknown(name), field=column[:80])
            else:
                self.ignored.setdefault(column)
        for name, value in constraints.items():
            _put_into(_object(task, "constraints"), name, value)
        return {name: _parsed(name, value) for name, value in task.items()}

    def absent(self) -> list[str]:
        """Columns that the mapping of a person names and no record has."""
        seen = {_folded(column) for column in self.seen}
        wanted = (column for columns in self.options.map.values() for column in columns)
        return [column for column in wanted if _folded(column) not in seen]

    def _has_id(self, entry: Mapping[str, Any]) -> bool:
        columns = self.options.columns.get("task_id", ("task_id",))
        return not {_folded(name) for name in entry}.isdisjoint(map(_folded, columns))


def hint(column: str) -> str:
    """What an ignored column may have meant, or ""."""
    close = get_close_matches(_folded(column), sorted(_TASK | _CONSTRAINTS), n=1, cutoff=0.8)
    return close[0] if close else ""


def fitting_preset(record: Mapping[str, Any]) -> Preset | None:
    """The preset whose columns for a task's id and description the record has."""
    names = {_folded(name) for name in record}
    for preset, fields in PRESETS.items():
        if {_folded(column) for name in ("task_id", "description") for column in fields[name]} <= names:
            return preset
    return None


def _unknown(name: str) -> str:
    close = hint(name)
    return f"no such field; did you mean {close}?" if close else "no such field; remove it or check its spelling"


def _put(task: JsonObject, constraints: JsonObject, name: str, value: Any) -> None:
    """Put a value where the field is: `requirements`, `constraints.requirements`, `metadata.labels`, `sampling.seed`."""
    head, _, rest = name.partition(".")
    if head == "constraints" and rest:
        head, _, rest = rest.partition(".")
    if head in _TASK and not rest:
        _put_into(task, head, value)
    elif head == "sampling":
        _put_into(_object(task, head), rest, value)
    elif rest:
        _put_into(_object(constraints, head), rest, value)
    else:
        _put_into(constraints, head, _parsed(head, value))


def _object(parent: JsonObject, name: str) -> JsonObject:
    """The object under a name, where a table may have it as text; a new one if there is none."""
    found = _parsed(name, parent.get(name) or {})
    if not isinstance(found, dict):
        raise InvalidRecord("must be an object of names and values, since other columns add to it", field=name)
    parent[name] = found
    return found


def _put_into(parent: JsonObject, name: str, value: Any) -> None:
    """Set a value, or add to the object that is there. Raises `InvalidRecord` for what would take another's place."""
    if name in parent:
        there, more = _parsed(name, parent[name]), _parsed(name, value)
        if not (isinstance(there, dict) and isinstance(more, dict)) or there.keys() & more.keys():
            raise InvalidRecord("is given by two columns; keep one", field=name[:80])
        value = {**there, **more}
    parent[name] = value


def _joined(name: str, values: Sequence[Any]) -> Any:
    if name in _TEXTS:
        return "\n\n".join(str(value) for value in values)
    if name.startswith("metadata."):
        named = [_names(value) for value in values]
        return named[0] if len(named) == 1 else named
    if len(values) == 1:
        return values[0]
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _names(value: Any) -> Any:
    """Labels as people read them: trackers export them as objects with a name."""
    if isinstance(value, list):
        return [
            item["name"] if isinstance(item, dict) and isinstance(item.get("name"), str) else item for item in value
        ]
    return value


def _parsed(name: str, value: Any) -> JsonValue:
    """A field that a table had to write as text: roles with commas, lists with one on each line, others as JSON."""
    if name == "task_id" and isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value):
        return str(int(value))  # pandas writes numbers as 12.0 where others are missing
    if not isinstance(value, str):
        return value  # type: ignore[no-any-return]
    text = value.strip()
    if name == "roles":
        return _json(name, text) if text.startswith("[") else [*text.replace(";", ",").split(",")]
    if name in _LISTS:
        return _list_or_text(value)
    return _json(name, text) if name in _JSON else value


def _list_or_text(text: str) -> JsonValue:
    """A list that is written as JSON; else the text, which may begin like one: `[ ] it opens` is a box to tick."""
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=reject_duplicate_keys)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (list, dict)) else text


def _json(name: str, text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=reject_duplicate_keys)
        return value
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(f"this column holds JSON, and it does not parse: {error}", field=name) from None


def _folded(name: str) -> str:
    return "_".join(name.strip().casefold().split())


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
