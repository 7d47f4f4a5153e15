"""Dagster's storage in Postgres, with an event log whose connections stay open.

Dagster connects anew for every access to the event log, two or more for each event. The
tables are Dagster's own: an instance may change from one class to the other at any time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

# Not exported by `dagster`, which names it in dagster.yaml only.
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, get_token_provider_from_config, pg_url_from_config
from sqlalchemy import Connection

if TYPE_CHECKING:
    from dagster_postgres.auth import PgTokenProvider

# Of one instance. Beyond them a thread connects anew, as with Dagster's own class, so that no thread waits for another.
KEPT_OPEN = 2
# Load balancers close connections that have been idle for longer than this or so.
RECYCLE_SECONDS = 300


class PostgresStorage(DagsterPostgresStorage):
    """Configured in dagster.yaml as `storage: {custom: {module, class, config}}`, with the configuration of Dagster's own."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: PgTokenProvider | None = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data, token_provider)
        self._event_log_storage = PostgresEventLog(
            postgres_url, should_autocreate_tables, token_provider=token_provider
        )

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
            get_token_provider_from_config(config_value),
        )


class PostgresEventLog(PostgresEventLogStorage):
    """The event log of `PostgresStorage`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._process = os.getpid()
        super().__init__(*arguments, **keywords)
        self._engine = create_pg_engine(
            self.postgres_url,
            self._token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=KEPT_OPEN,
            max_overflow=-1,
            pool_recycle=RECYCLE_SECONDS,
            pool_pre_ping=True,  # a server that was restarted costs one connection and no event
        )

    def _connect(self) -> AbstractContextManager[Connection]:
        if self._process != os.getpid():  # connections must not be used in a forked child
            self._engine.dispose(close=False)
            self._process = os.getpid()
        return super()._connect()

    def dispose(self) -> None:
        super().dispose()
        self._engine.dispose()
