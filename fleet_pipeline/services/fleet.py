"""The composition root: builds the store, the inbox, the roles and the task store from the settings.

The CLI builds a `Fleet` from the settings in force. Sensors and ops build it from the resources of their run, which
the launchpad may have changed. Nothing else builds a store, an inbox or a task store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from fleet_pipeline.deliberation.roles import Role
from fleet_pipeline.ingest.columns import BacklogOptions
from fleet_pipeline.ingest.options import RequestOptions
from fleet_pipeline.ingest.roles import read_roles
from fleet_pipeline.settings import Settings
from fleet_pipeline.storage.local_copies import LocalCopies
from fleet_pipeline.storage.store import NO_RETRIES, Retries, Store
from fleet_pipeline.storage.task_store import TaskStore

if TYPE_CHECKING:
    from fleet_pipeline.services.status import StatusService


@dataclass(frozen=True)
class Fleet:
    """One storage, with its roles and its inbox. Each part is built on first use.

    `retries` says how long to wait for storage that does not answer. Ops wait, because ending costs them more. A
    person, or a sensor that ticks again, should get the error at once. `copies` are those of a run.
    """

    storage_url: str
    roles_file: str | None = None
    requests: RequestOptions = field(default_factory=RequestOptions)
    retries: Retries = NO_RETRIES
    copies: LocalCopies | None = None
    backlog_options: BacklogOptions = field(default_factory=BacklogOptions)

    @classmethod
    def of(cls, settings: Settings) -> Fleet:
        roles_file, requests = settings.council.roles_file, settings.requests
        return cls(settings.storage, roles_file, requests, backlog_options=settings.backlog)

    @cached_property
    def store(self) -> Store:
        return Store(self.storage_url, self.retries, self.copies)

    @cached_property
    def inbox(self) -> Store:
        """The folder for incoming backlogs. No retries: a file missed now is taken in the next tick."""
        return Store(self.requests.inbox_url(self.storage_url))

    @cached_property
    def roles(self) -> Mapping[str, Role]:
        """The built-in roles and those of the roles file, by name. Raises `InvalidInput`."""
        return read_roles(self.roles_file)

    @cached_property
    def tasks(self) -> TaskStore:
        return TaskStore(self.store, self.roles)

    @contextmanager
    def open_status(self) -> Iterator[StatusService]:
        """A `StatusService` on the Dagster instance, which is open while the block runs."""
        # Imported here: callers that need no instance do not wait for Dagster's import.
        from fleet_pipeline.instance.home import open_instance
        from fleet_pipeline.services.status import StatusService

        with open_instance() as instance:
            yield StatusService(instance, self.tasks)
