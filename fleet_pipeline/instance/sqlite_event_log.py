"""Dagster's event log in SQLite, with connections that stay open.

Dagster makes a new SQLAlchemy engine for every access: it opens the file, compiles every statement anew, and closes the file
again. An event is two to six accesses, and a deliberation six events. With open connections an asset's event takes a third of
the time or less (2.3 ms in place of 10.6, benchmarks.event_log). The files are Dagster's own: an instance may change from one class to
the other at any time.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from dagster import DagsterInvariantViolationError

# Not exported by `dagster`, which names them in dagster.yaml only.
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import StaticPool

# Files kept open: the index, and the runs that are being written or looked at. Dagster has a file for each run.
MAX_OPEN = 8


class _Open(NamedTuple):
    engine: Engine
    process: int  # SQLite connections must not be used in a forked child
    file: tuple[int, int]  # device and inode; a pruned run's file may be gone, and one of that name be new


class SqliteEventLog(SqliteEventLogStorage):
    """Configured in dagster.yaml as `event_log_storage`. The files are in `history/runs` of DAGSTER_HOME, as without it."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._open: OrderedDict[str, _Open] = OrderedDict()
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        home = os.environ.get("DAGSTER_HOME")  # Dagster tells a storage nothing of the folder of its instance
        if not home:
            raise DagsterInvariantViolationError("the event log is looked for in DAGSTER_HOME, which is not set")
        return cls(str(Path(home) / "history/runs"), inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _engine(self, shard: str) -> Engine:
        """The open engine of a file, made first where it is not there."""
        path = self.path_for_shard(shard)
        if kept := self._open.pop(shard, None):
            if kept.process == os.getpid() and kept.file == _identity(path):
                self._open[shard] = kept
                return kept.engine
            if kept.process == os.getpid():
                kept.engine.dispose()
        # One connection, whichever thread asks: `_db_lock` lets one in at a time.
        engine = create_engine(
            self.conn_string_for_shard(shard),
            poolclass=StaticPool,
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        )
        if shard not in self._initialized_dbs or not Path(path).exists():
            self._initdb(engine)
            self._initialized_dbs.add(shard)
        self._open[shard] = _Open(engine, os.getpid(), _identity(path))
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].engine.dispose()
        return engine

    def dispose(self) -> None:
        super().dispose()
        with self._db_lock:
            while self._open:
                self._open.popitem()[1].engine.dispose()


def _identity(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return (0, 0)
    return status.st_dev, status.st_ino
