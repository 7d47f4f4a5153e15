"""A real Postgres server, started for a test or a benchmark."""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

PROGRAMS = ("postgres", "initdb")
# Debian's packages leave them out of the PATH.
PATH = os.pathsep.join([os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))])
DAGSTERS_OWN = {"module": "dagster_postgres", "class": "DagsterPostgresStorage"}
OURS = {"module": "fleet_pipeline.instance.postgres_storage", "class": "PostgresStorage"}


def is_installed() -> bool:
    return all(shutil.which(name, path=PATH) for name in PROGRAMS)


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found, f"{name} is not installed"
    return found


class Server:
    """Listens on a socket in its own folder, and on no port."""

    def __init__(self, folder: Path, user: str) -> None:
        self.folder = folder
        self.user = user
        self.process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [_program("initdb"), "-D", folder / "data", "-U", "fleet", "--auth", "trust", "-E", "UTF8", "--no-sync"],
            check=True, capture_output=True, user=user, env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        command = [_program("postgres"), "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses="]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, user=self.user)
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg2

        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """As the server's administrator. The rows, where there are any."""
        connection = self._connect(database)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    def _connect(self, database: str = "postgres") -> Any:
        import psycopg2

        return psycopg2.connect(host=str(self.folder), user="fleet", dbname=database)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # does not wait for clients to leave
        self.process.wait()

    def storage(self, which: dict[str, str]) -> dict[str, Any]:
        """A new database, as `storage` of dagster.yaml."""
        name = f"dagster_{uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        url = f"postgresql+psycopg2://fleet@/{name}?host={self.folder}"
        return {"custom": which | {"config": {"postgres_url": url}}}


@contextmanager
def a_server() -> Iterator[Server]:
    """Postgres refuses to run as root. Then it runs as the user that its packages create."""
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    with tempfile.TemporaryDirectory(prefix="pg") as name:  # short: the path of a socket has at most 107 bytes
        account = pwd.getpwnam(user)
        os.chown(name, account.pw_uid, account.pw_gid)
        server = Server(Path(name), user)
        try:
            server.start()
            yield server
        finally:
            server.stop()
