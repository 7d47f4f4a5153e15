"""Whatever stands in a file that we read, it is read, or refused with its place and a remedy."""

import functools
import json
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import CorruptFile, InvalidInput
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES
from fleet_pipeline.ingest.backlog import read_backlog
from fleet_pipeline.ingest.records import read_cases
from fleet_pipeline.ingest.roles import read_roles
from fleet_pipeline.settings import load_settings
from fleet_pipeline.storage.outbox import get_events
from fleet_pipeline.storage.pending import pending_batches
from fleet_pipeline.storage.schemas import TABLES, UTTERANCES, TableName
from fleet_pipeline.storage.store import Store
from fleet_pipeline.storage.tables import read_file, read_footer, read_rows
from fleet_pipeline.storage.task_store import TaskStore
from fleet_pipeline_tests.support.pipeline import Pipeline

pytestmark = pytest.mark.instance

CONFIG = b'storage = "s"\n[engine]\nmodel = "m"\nmax_num_seqs = 8\n[retention]\nmax_age_days = 3.5\n'
ROLES = b'[roles.SECURITY]\ntitle = "t"\nexpertise = "e"\nperspectives = [{name = "n", focus = "f"}]\n'
BATCH = b'{"rerun": false, "specs": [{"task_id": "a", "description": "d", "roles": ["DEV"], "request": {"id": "1"}}]}'
BACKLOG = b'{"task_id": "a", "description": "d"}\n{"task_id": "b", "description": "e", "roles": ["QA"]}\n'


@functools.cache
def stored() -> dict[str, bytes]:
    """A valid file of every kind, made by a run."""
    with tempfile.TemporaryDirectory() as folder, dg.instance_for_test() as instance:
        pipeline = Pipeline(instance, Path(folder))
        pipeline.run(pipeline.put("a", constraints={"requirements": ["r"]}))
        paths = [path for path in Path(folder).rglob("a.dev.*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def table(name: TableName) -> Callable[[Store], object]:
    return lambda store: (read_footer(store, TABLES[name], "a.dev"), read_file(store, TABLES[name], "a.dev").rows)


def config(store: Store) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEET_CONFIG_FILE", f"{store.root}/fleet.toml")
        return load_settings()


# Of each kind of file: its name, how it is read, and what a reader may raise.
READERS: dict[str, tuple[str, Callable[[Store], object]]] = {
    **{name: (f"{name}/a.dev.parquet", table(name)) for name in ("utterances", "proposals", "deliberations", "scores")},
    "task": ("tasks/a.dev.json", lambda store: TaskStore(store, BUILT_IN_ROLES).get("a.dev")),
    "outbox": ("outbox/a.dev.gz", lambda store: get_events(store, "a.dev")),
    "pending": ("pending/b-requests-c.json", lambda store: pending_batches(TaskStore(store, BUILT_IN_ROLES))),
    "backlog": ("backlog.jsonl", lambda store: read_backlog(f"{store.root}/backlog.jsonl", BUILT_IN_ROLES)),
    "csv": ("backlog.csv", lambda store: read_backlog(f"{store.root}/backlog.csv", BUILT_IN_ROLES)),
    "parquet backlog": ("backlog.parquet", lambda store: read_backlog(f"{store.root}/backlog.parquet", BUILT_IN_ROLES)),
    "cases": ("cases.json", lambda store: [n for n, _ in read_cases(f"{store.root}/cases.json")]),
    "config": ("fleet.toml", config),
    "roles": ("roles.toml", lambda store: read_roles(f"{store.root}/roles.toml")),
}
VALID = {
    "pending": BATCH, "backlog": BACKLOG, "csv": b"task_id,description\na,b\n", "cases": b'[{"task": "t"}]',
    "config": CONFIG, "roles": ROLES,
}  # fmt: skip


def valid(kind: str) -> bytes:
    return VALID.get(kind) or stored()[READERS[kind][0] if kind != "parquet backlog" else "proposals/a.dev.parquet"]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A valid file that was cut, lengthened, or changed in places; or something else altogether."""
    kind = draw(st.sampled_from(["cut", "change", "insert", "other"]))
    at = draw(st.integers(0, len(content)))
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=20)) + content[at:]
    if kind == "other":
        return draw(st.binary(max_size=200))
    changed = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        changed[place] = draw(st.integers(0, 255))
    return bytes(changed)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=150)
def test_a_file_is_read_or_refused_in_words_whatever_stands_in_it(kind: str, data: st.DataObject) -> None:
    path, read = READERS[kind]
    content = data.draw(damaged(valid(kind)))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.write(path, content)
        with suppress(InvalidInput, CorruptFile):
            read(store)


@pytest.mark.parametrize("kind", READERS)
def test_the_files_that_are_damaged_here_are_valid_to_begin_with(kind: str, tmp_path: Path) -> None:
    path, read = READERS[kind]
    store = Store(str(tmp_path))
    store.write(path, valid(kind))
    assert read(store) is not None


@given(st.data())
@settings(max_examples=40)
def test_a_changed_byte_in_what_was_said_is_noticed(data: st.DataObject) -> None:
    """Pages carry checksums: a flipped bit is a damaged file, not another proposal."""
    content = bytearray(stored()["utterances/a.dev.parquet"])
    pages_end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[data.draw(st.integers(pages_end // 4, pages_end // 2))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.write("utterances/a.dev.parquet", bytes(content))
        try:
            rows = read_rows(store, UTTERANCES, "a.dev")
        except CorruptFile:
            return
        store.write("utterances/a.dev.parquet", stored()["utterances/a.dev.parquet"])
        before = read_rows(store, UTTERANCES, "a.dev")
        assert rows == before  # a bit of a page's header that decides nothing


def test_columns_of_another_type_and_a_footer_that_says_too_little_are_damage(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = tmp_path / "utterances/a.dev.parquet"
    store.write("utterances/a.dev.parquet", stored()["utterances/a.dev.parquet"])
    rows = pq.read_table(path)
    footer = rows.schema.metadata
    other = rows.set_column(rows.schema.get_field_index("seed"), "seed", pa.array(["x"] * rows.num_rows))
    pq.write_table(other.replace_schema_metadata(footer), path)
    with pytest.raises(CorruptFile, match="delete it and run"):
        read_file(store, UTTERANCES, "a.dev")
    facts = json.loads(footer[b"fleet"])
    del facts["status"]
    pq.write_table(rows.replace_schema_metadata({b"fleet": json.dumps(facts)}), path)
    with pytest.raises(CorruptFile, match="its footer: status: add this field"):
        read_file(store, UTTERANCES, "a.dev")


def test_the_toml_of_this_test_is_toml() -> None:
    assert tomllib.loads(CONFIG.decode())["engine"]["max_num_seqs"] == 8
