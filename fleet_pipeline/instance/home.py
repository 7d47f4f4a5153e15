"""Finds and opens the Dagster instance."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from pathlib import Path

import dagster as dg
import yaml
from sqlalchemy.exc import SQLAlchemyError

from fleet_pipeline.common.errors import InvalidInput

HOME = Path(".fleet/dagster")


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The instance in DAGSTER_HOME, or else the one in `HOME`, set up on first use. Raises `InvalidInput`."""
    home = instance_home()
    try:
        with _alone(home):
            instance = dg.DagsterInstance.get()
    except (dg.DagsterError, yaml.YAMLError, SQLAlchemyError, ImportError) as error:
        raise InvalidInput(_broken(home, error)) from error
    with instance:
        yield instance


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Let one command at a time set `home` up: two that make Dagster's databases together fail on each other's tables."""
    with ExitStack() as stack:
        # A home that cannot be written to is a cluster's, whose database has locks of its own; some file systems have none.
        with suppress(OSError):
            fcntl.flock(stack.enter_context((home / ".lock").open("a")), fcntl.LOCK_EX)
        yield


def _broken(home: Path, error: Exception) -> str:
    """What is wrong with an instance that cannot be opened, on one line, with its place and the remedy."""
    said = " ".join(str(error).split())[:400]
    if isinstance(error, SQLAlchemyError):
        return f"the database of runs in {home} cannot be read: {said}; mend it, or move it away: the results stay"
    return f"{home / 'dagster.yaml'} cannot be used: {said}"


def instance_home() -> Path:
    """DAGSTER_HOME, or else `HOME` in the working directory, set up on first use. Raises `InvalidInput`."""
    if configured := os.environ.get("DAGSTER_HOME"):
        if not Path(configured).is_absolute() or not Path(configured).is_dir():
            raise InvalidInput(f"DAGSTER_HOME is {configured}: it must be an absolute path of a folder that exists")
        home = Path(configured)
        # One with runs and no file was made by Dagster alone: another event log would hide them.
        if not (home / "dagster.yaml").exists() and not (home / "history").exists():
            with suppress(OSError):  # a home that cannot be written to is a cluster's
                _set_up(home)
                sys.stderr.write(f"fleet: {home} had no dagster.yaml: it got the one of this package\n")
        return home
    home = HOME.absolute()
    home.mkdir(parents=True, exist_ok=True)
    _set_up(home)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _set_up(home: Path) -> None:
    """Put the package's `dagster.yaml` there, if none is. Raises `OSError`."""
    with _alone(home), resources.as_file(resources.files("fleet_pipeline") / "dagster.yaml") as template:
        if not (home / "dagster.yaml").exists():
            shutil.copyfile(template, home / "dagster.yaml")
