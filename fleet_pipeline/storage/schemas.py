"""The tables: their Parquet schemas, their versions, and how files of earlier versions are read.

The rows and footers are declared in `fleet_pipeline.deliberation.rows`. Tables are tall, with one row per thing:
pandas, DuckDB and Polars read a folder of files as one table. All files of a version have the same columns in the
same order, null columns included, so that a folder never mixes types.

A change of a table's rows raises its version, and every file carries the version it was written with. A file of an
earlier version is read through `UPGRADES`, and keeps its results. Without an upgrade it counts as damaged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from fleet_pipeline.deliberation.action_rows import ArtifactRow, OperationRow, ToolCallRow
from fleet_pipeline.deliberation.rows import (
    JudgementRow,
    JudgementsFooter,
    NoFooter,
    OutcomeFooter,
    OutcomeRow,
    ProposalRow,
    ProposalsFooter,
    RewardRow,
    RewardsFooter,
    ScoreRow,
    TranscriptFooter,
    UtteranceRow,
)

# A literal type, so that the type checker finds a misspelt table.
TableName = Literal[
    "utterances",
    "proposals",
    "deliberations",
    "scores",
    "judgements",
    "rewards",
    "operations",
    "artifacts",
    "tool_calls",
]
Row = TypeVar("Row")
Footer = TypeVar("Footer")

_TYPES: Mapping[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True)
class Table(Generic[Row, Footer]):
    """One table: `<storage>/<name>/<deliberation_id>.parquet`."""

    name: TableName
    version: int
    row: type[Row]
    footer: type[Footer]

    @cached_property
    def schema(self) -> pa.Schema:
        """Its columns in order, each with its description."""
        columns = get_type_hints(self.row, include_extras=True)
        return pa.schema([_field(column.name, columns[column.name]) for column in fields(self.row)])  # type: ignore[arg-type]

    @cached_property
    def rows_adapter(self) -> TypeAdapter[list[Row]]:
        """Checks and converts rows, from and to plain values."""
        return TypeAdapter(list[self.row])  # type: ignore[name-defined]

    @cached_property
    def footer_adapter(self) -> TypeAdapter[Footer]:
        return TypeAdapter(self.footer)


def _field(name: str, annotation: Any) -> pa.Field:
    type_, description = get_args(annotation)
    return pa.field(name, _arrow_type(type_), metadata={"description": description})


def _arrow_type(type_: Any) -> pa.DataType:
    """The Arrow type of a field: of what may be null, of texts with a closed set of values, of lists and of rows."""
    if get_origin(type_) is Annotated:
        return _arrow_type(get_args(type_)[0])
    if type(None) in get_args(type_):
        (present,) = [option for option in get_args(type_) if option is not type(None)]
        return _arrow_type(present)
    if get_origin(type_) is Literal or (isinstance(type_, type) and issubclass(type_, StrEnum)):
        return pa.string()
    if get_origin(type_) is list:
        return pa.list_(_arrow_type(get_args(type_)[0]))
    if is_dataclass(type_):
        hints = get_type_hints(type_)
        return pa.struct([pa.field(column.name, _arrow_type(hints[column.name])) for column in fields(type_)])
    return _TYPES[type_]


UTTERANCES = Table("utterances", 8, UtteranceRow, TranscriptFooter)
PROPOSALS = Table("proposals", 7, ProposalRow, ProposalsFooter)
DELIBERATIONS = Table("deliberations", 8, OutcomeRow, OutcomeFooter)
SCORES = Table("scores", 2, ScoreRow, NoFooter)
JUDGEMENTS = Table("judgements", 5, JudgementRow, JudgementsFooter)
REWARDS = Table("rewards", 1, RewardRow, RewardsFooter)
# Of councils whose agents use tools.
OPERATIONS = Table("operations", 1, OperationRow, NoFooter)
ARTIFACTS = Table("artifacts", 1, ArtifactRow, NoFooter)
# One file for each process that called tools, and not for each deliberation.
TOOL_CALLS = Table("tool_calls", 1, ToolCallRow, NoFooter)

TABLES: Mapping[TableName, Table[Any, Any]] = {
    table.name: table
    for table in (UTTERANCES, PROPOSALS, DELIBERATIONS, SCORES, JUDGEMENTS, REWARDS, OPERATIONS, ARTIFACTS)
}


def _with_by_lot(rows: pa.Table) -> pa.Table:
    """`won_by` was a sentence: "score, by lot"."""
    sentences = rows.column("won_by")
    by_lot = pc.fill_null(pc.ends_with(sentences, pattern=", by lot"), False)
    index = rows.schema.get_field_index("won_by")
    rows = rows.set_column(index, "won_by", pc.replace_substring(sentences, pattern=", by lot", replacement=""))
    return rows.append_column("by_lot", by_lot)


def _with_not_checked(rows: pa.Table) -> pa.Table:
    """Until then the one engine was vLLM, which checked every prompt."""
    return _with_nulls(rows, {"not_checked": pa.string()})


def _with_raw_text(rows: pa.Table) -> pa.Table:
    """Until then an answer counted as it came, or not at all."""
    return _with_nulls(rows, {"raw_text": pa.string(), "shortened": pa.string()})


def _with_shortened(rows: pa.Table) -> pa.Table:
    return _with_nulls(rows, {"shortened": pa.string(), "unfinished_text": pa.string()})


def _with_rounds_done(rows: pa.Table) -> pa.Table:
    """Until then a completed deliberation did all its rounds, no answer was shortened, and its deadline was nowhere
    written.
    """
    done = pc.if_else(pc.equal(rows.column("status"), "completed"), rows.column("rounds"), pa.scalar(None, pa.int64()))
    none = pa.array([0] * rows.num_rows, pa.int64())
    for name, column in {"rounds_done": done, "truncated": none, "looped": none}.items():
        rows = rows.append_column(name, column)
    return _with_nulls(rows, {"timeout_seconds": pa.float64()})


def _with_certainty(rows: pa.Table) -> pa.Table:
    return _with_nulls(rows, {"mean_logprob": pa.float64(), "self_certainty": pa.float64()})


def _with_form(rows: pa.Table) -> pa.Table:
    return _with_nulls(rows, {"form": pa.float64(), "consensus": pa.float64(), "confidence": pa.float64()})


def _with_rewards(rows: pa.Table) -> pa.Table:
    return _with_nulls(rows, {"reward": pa.float64(), "preferred": pa.float64()})


def _with_confidence(rows: pa.Table) -> pa.Table:
    """Until then every winner was one, however small its lead."""
    return _with_nulls(rows, {"confidence": pa.float64(), "clear_winner": pa.bool_()})


def _with_cost(rows: pa.Table) -> pa.Table:
    """Until then no model had a price."""
    return _with_nulls(rows, {"cost": pa.float64()})


def _with_tested(rows: pa.Table) -> pa.Table:
    """Until then no agent changed anything."""
    return _with_nulls(rows, {"tested": pa.string()})


def _with_tools(rows: pa.Table) -> pa.Table:
    """Until then no outcome said whether there were tools."""
    return rows.append_column("tools", pa.array([False] * rows.num_rows, pa.bool_()))


def _with_marks_by_criterion(rows: pa.Table) -> pa.Table:
    """Until then there was one mark over all criteria."""
    for name in ("first_mark", "second_mark"):
        marks = [None if mark is None else [mark] for mark in rows.column(name).to_pylist()]
        rows = rows.append_column(f"{name}s", pa.array(marks, pa.list_(pa.int64())))
    return rows.append_column("criteria", pa.array([[]] * rows.num_rows, pa.list_(pa.string())))


def _with_nulls(rows: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    for name, type_ in columns.items():
        rows = rows.append_column(name, pa.nulls(rows.num_rows, type_))
    return rows


# (table, version of the file) -> the rows as the next version has them.
UPGRADES: Mapping[tuple[TableName, int], Callable[[pa.Table], pa.Table]] = {
    ("utterances", 3): _with_not_checked,
    ("proposals", 2): _with_by_lot,
    ("deliberations", 3): _with_by_lot,
    ("judgements", 2): _with_not_checked,
    ("utterances", 4): _with_raw_text,
    ("proposals", 3): _with_shortened,
    ("deliberations", 4): _with_rounds_done,
    ("utterances", 5): _with_certainty,
    ("proposals", 4): _with_form,
    ("deliberations", 5): _with_confidence,
    ("proposals", 5): _with_rewards,
    ("judgements", 3): _with_marks_by_criterion,
    ("utterances", 6): _with_cost,
    ("utterances", 7): _with_tested,
    ("proposals", 6): _with_tested,
    ("deliberations", 6): _with_cost,
    ("judgements", 4): _with_cost,
    ("deliberations", 7): _with_tools,
}
