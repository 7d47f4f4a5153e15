"""Databases that the settings name, and SQLite files of the workspace.

A call names a database and never its address: addresses hold passwords. In read-only mode, and for a database that is not
`writable`, the server itself refuses changes: PostgreSQL in a read-only transaction, Neo4j in a session for reading. Redis knows
no such mode, so only commands that its server calls read-only are sent. One statement a call: the protocols used take no second.
Each call ends at its time, whatever its server does: its connection is cut.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.families.db_addresses import is_address, user_apart, without_password
from fleet_pipeline.tools.families.files import PathArgument
from fleet_pipeline.tools.operation import Box, Changes, Family, Output, checked_argument
from fleet_pipeline.tools.options import DatabaseOptions

_log = logging.getLogger(__name__)
FAMILY = Family("db", "Query databases that the settings name, and SQLite files of the workspace.")
Name = Annotated[str, Field(min_length=1, max_length=100, description="A database of the settings.")]
Statement = Annotated[str, Field(min_length=1, max_length=100_000, description="One statement.")]
Seconds = Annotated[float, Field(gt=0, le=600)]
MOST_ROWS = 1_000
_MOST_BYTES = 16_000_000
_GRACE_SECONDS, _LATE_SECONDS, _AGAIN_SECONDS = 2.0, 20.0, 0.2
_Found = tuple[list[str], list[Any], int]  # columns, rows, and how many were concerned
_REDIS_REPEATS = frozenset({"SRANDMEMBER", "ZRANDMEMBER", "HRANDFIELD"})
# Of these the number of rows is told. All others are read row by row: a table may be larger than the memory.
_TELLS_A_NUMBER = re.compile(r"\s*(insert|update|delete|merge)\b", re.IGNORECASE)
# Redis calls them commands that write. They reach other hosts, or the other databases of the same server.
_REDIS_ELSEWHERE = ("MIGRATE", "SWAPDB", "FLUSHALL", "MOVE", "SELECT")
_PRIVILEGED = """
SELECT bool_or(rolsuper OR rolcreaterole OR rolreplication OR rolname IN ('pg_execute_server_program', 'pg_write_server_files',
'pg_read_server_files', 'pg_signal_backend', 'pg_create_subscription', 'pg_checkpoint'))
FROM pg_roles WHERE pg_has_role(current_user, oid, 'member')
"""
# It outlives its call, with its locks, also in a transaction that only reads. Looked for wherever it stands.
_OUTLIVES = re.compile(r"\bprepare\b[\s\S]*\btransaction\b", re.IGNORECASE)
# Extensions whose functions ask other hosts. Installed by an administrator, they are for everybody unless that is revoked.
_FAR_REACHING = """
SELECT extname FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE extname IN ('dblink', 'http', 'pg_net', 'aws_s3', 'aws_lambda') AND d.classid = 'pg_proc'::regclass
AND has_function_privilege(d.objid, 'EXECUTE') LIMIT 1
"""
# Catalogs of the whole server that this transaction has changed: who changes a role or a database keeps a lock on them until the COMMIT.
# Words would not do: a block of code puts them together. Those left out hold who owns and describes what.
_SERVER_WIDE = """
SELECT relname FROM pg_catalog.pg_locks JOIN pg_catalog.pg_class c ON c.oid = relation WHERE pid = pg_backend_pid() AND relisshared AND relkind = 'r'
AND mode <> 'AccessShareLock' AND relname NOT IN ('pg_shdepend', 'pg_shdescription', 'pg_shseclabel') LIMIT 1
"""
# Who may do what with the databases that its user owns, and so may change: GRANT and REVOKE keep no lock.
_OWN_DATABASES = """
SELECT string_agg(concat_ws(' ', oid, datname, datdba, datacl, datconnlimit, datallowconn), ',' ORDER BY oid) FROM pg_catalog.pg_database
WHERE pg_has_role(datdba, 'MEMBER')
"""
# No function, operator or table of somebody else's may stand in (CVE-2018-1058). Tables of the session come first where they are not named.
_OWN_NAMES_LAST = "SET LOCAL search_path = pg_catalog, pg_temp"
# A read-only transaction lets ANALYZE change the catalog for good, and LOCK and blocks of code keep everybody else out.
_READS = re.compile(
    r"(\s|\(|--[^\r\n]*[\r\n]|/\*([^*/]|\*(?!/)|/(?!\*))*\*/)*(select|with|values|table|explain|show)\b", re.IGNORECASE
)
# Cypher reads files and other hosts in a session for reading, too: by LOAD CSV, and by procedures and functions of plugins. Words are looked for
# wherever they stand, and letters that are written by their number are read as the server does.
_CYPHER_ELSEWHERE = re.compile(r"\bload\b[\s\S]*\bcsv\b|\bcall\b(?!\s*[{(])|\bapoc\b|\bgenai\b|\buse\b", re.IGNORECASE)
_CYPHER_ESCAPE = re.compile(r"\\u+([0-9a-f]{4})", re.IGNORECASE)


@FAMILY.operation(changes=Changes.ELSEWHERE)
def postgresql_query(
    box: Box,
    database: Name,
    query: Statement,
    params: Annotated[tuple[Any, ...], Field(max_length=1_000, description="For %s in the statement.")] = (),
    timeout: Seconds = 30.0,
) -> Output:
    """Run one SQL statement, and get up to 1,000 rows."""
    url, changes = _named(box, database, "postgresql", "psycopg")
    if _OUTLIVES.search(query):
        raise Refused("query: PREPARE TRANSACTION is not taken: it goes on after the call")
    if not changes and not _READS.match(query):
        raise Refused(f"query: {database} is only read here: begin with SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW")
    import psycopg

    milliseconds = max(math.ceil(timeout * 1_000), 1)  # 0 means no limit
    try:
        with (
            psycopg.connect(
                url, connect_timeout=min(int(timeout) + 1, 30), autocommit=True, application_name="fleet-tools"
            ) as link,
            _ended_after(timeout + _GRACE_SECONDS, lambda ended: _end_session(link, url, ended)),
            closing(link),  # while there is still a time: to leave the connection asks its server for a ROLLBACK
        ):
            link.add_notify_handler(lambda _: None)  # without one it keeps them all
            link.execute(f"SET statement_timeout = {milliseconds}")
            before = _must_reach_no_further(link, database)
            link.execute("BEGIN READ WRITE" if changes else "BEGIN READ ONLY")
            by_number = changes and _TELLS_A_NUMBER.match(query)
            columns, rows, count = (_changing if by_number else _reading)(link, query, params)
            undone = link.info.transaction_status == psycopg.pq.TransactionStatus.INERROR  # there was more than is told
            if changes and not undone:
                _must_stay_in_database(link, database, before)
            link.execute("COMMIT" if changes and not undone else "ROLLBACK")
    except (psycopg.Error, ValueError) as error:  # half a character, or a number with too many digits
        return Output("", ok=False, error=without_password("postgresql", url, error))
    except RecursionError:
        return Output("", ok=False, error="postgresql: a value is nested too deeply to be told")
    told = _rows(columns, rows, count)
    if changes and undone:  # before the rows, of which the end may be cut
        return replace(
            told, text=f"(there is more than is told: what it changed, if anything, was undone)\n{told.text}"
        )
    return told


def _must_reach_no_further(link: Any, database: str) -> tuple[Any, ...]:
    """Raises `Refused` for a user with rights beyond its database. Returns how the server's databases are before the statement."""
    link.execute("BEGIN READ ONLY")
    link.execute(_OWN_NAMES_LAST)
    if link.execute(_PRIVILEGED).fetchone() != (False,):
        raise Refused(
            f"{database}: its user may run programs on the server, end others' sessions, or make users, also where it only reads; "
            "name one without such rights in its URL"
        )
    if extension := link.execute(_FAR_REACHING).fetchone():
        raise Refused(
            f"{database}: its user may ask other hosts by the extension {extension[0]}; revoke EXECUTE on its functions from PUBLIC"
        )
    before: tuple[Any, ...] = link.execute(_OWN_DATABASES).fetchone()
    link.execute("ROLLBACK")
    return before


def _must_stay_in_database(link: Any, database: str, before: tuple[Any, ...]) -> None:
    """Raises `Refused` after a statement that changed more: an agent gave its user another password, and locked all others out."""
    # What would be done by the COMMIT. First, because triggers look for their tables in the search path of their user.
    link.execute("SET CONSTRAINTS ALL IMMEDIATE")
    link.execute(_OWN_NAMES_LAST)
    changed = link.execute(_SERVER_WIDE).fetchone()
    if changed or link.execute(_OWN_DATABASES).fetchone() != before:
        what = changed[0] if changed else "pg_database"
        raise Refused(f"query: changes {what}, which is the whole server's and not {database}'s; nothing was changed")


@contextmanager
def _ended_after(seconds: float, end: Callable[[threading.Event], None]) -> Iterator[None]:
    """Calls `end` in a thread of its own where what is done takes longer than `seconds`. It is told when that has ended."""
    ended = threading.Event()

    def quietly() -> None:
        with suppress(Exception):  # a driver's, whose text may hold the address
            end(ended)

    timer = threading.Timer(seconds, quietly)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        ended.set()
        timer.cancel()
        timer.join(_LATE_SECONDS)  # a process that ends here would take it along


def _end_session(link: Any, url: str, ended: threading.Event) -> None:
    """Ends what a connection does. `statement_timeout` does not hold for what a COMMIT does, such as deferred triggers, and a block of
    code can catch it, and a cancel as well, and go on for ever: by its own number a session can be ended for good. The connection is
    cut first, because a server that answers nothing does not answer this either, and held its call for ever.
    """
    pid = link.info.backend_pid
    with suppress(Exception):
        link.cancel_safe(timeout=_GRACE_SECONDS)
    if ended.wait(_GRACE_SECONDS):
        return
    _cut(link)
    try:
        with link.__class__.connect(url, connect_timeout=10, autocommit=True) as another:
            too_late = threading.Timer(_GRACE_SECONDS, _cut, [another])
            too_late.start()
            try:
                another.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
            finally:
                too_late.cancel()
    except Exception as error:  # noqa: BLE001 - of a driver; its text may hold the address
        _log.warning("a session of PostgreSQL could not be ended and may go on: %s", type(error).__name__)


def _cut(link: Any) -> None:
    """By a descriptor of its own: libpq's must not be closed beside it."""
    with suppress(Exception), socket.socket(fileno=os.dup(link.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


def _changing(link: Any, query: str, params: tuple[Any, ...]) -> _Found:
    # A prepared statement goes by the extended protocol, which takes one statement and no second.
    cursor = link.execute(query.encode(), params or None, prepare=True)
    rows = cursor.fetchmany(MOST_ROWS + 1) if cursor.description else []
    return [column.name for column in cursor.description or ()], rows, cursor.rowcount


def _reading(link: Any, query: str, params: tuple[Any, ...]) -> _Found:
    """Row by row, by the extended protocol as well: a table may be larger than the memory."""
    import psycopg

    cursor = link.cursor()
    rows: list[Any] = []
    size = 0
    try:
        for row in cursor.stream(query.encode(), params or None):
            rows.append(row)
            size += sum(len(cursor.pgresult.get_value(0, column) or b"") for column in range(len(row)))  # as it came
            if len(rows) > MOST_ROWS or size > _MOST_BYTES:
                break
    except psycopg.ProgrammingError as error:
        if "didn't produce a result" not in str(error):  # psycopg's own words for a statement without rows
            raise
    return [column.name for column in cursor.description or ()], rows, len(rows)


@FAMILY.operation(changes=Changes.ELSEWHERE)
def redis_command(
    box: Box,
    database: Name,
    command: Annotated[tuple[str, ...], Field(min_length=1, max_length=1_000, description="Such as [GET, key].")],
    timeout: Seconds = 30.0,
) -> Output:
    """Send one command to Redis."""
    url, changes = _named(box, database, "redis", "redis")
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # The client's own time holds for each piece of an answer: one letter a second went on for ever.
    late = threading.Event()

    def give_up(link: redis.Redis, ended: threading.Event) -> None:
        late.set()
        while not ended.wait(_AGAIN_SECONDS):  # one that is still being made is not there to be cut
            link.connection_pool.disconnect()

    within = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
    try:
        with (
            redis.Redis.from_url(url, **within, decode_responses=True) as link,
            _ended_after(timeout, lambda ended: give_up(link, ended)),
        ):
            try:
                flags = {str(flag) for flag in _flags(link.execute_command("COMMAND", "INFO", command[0]))}
            except TypeError:  # the client's, of a command that the server does not know
                flags = set()
            if _leads_elsewhere(command) or not flags or flags & {"admin", "blocking", "pubsub", "noscript"}:
                raise Refused(
                    f"redis {command[0]!r}: is unknown there, for administrators, or reaches what is not this database's"
                )
            if command[0].upper() in _REDIS_REPEATS and any(word.startswith("-") for word in command[1:]):
                raise Refused(f"redis {command[0]!r}: a negative count repeats what there is as often as it says")
            if not changes and "readonly" not in flags:
                raise Refused(f"redis {command[0]!r}: may change something, and {database} is only read here")
            answer = link.execute_command(*command)
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it came upon without its connection, or a driver's, whose text may hold the address
        if late.is_set():
            return Output("", ok=False, error=f"redis: took longer than {timeout:g} s")
        return Output("", ok=False, error=without_password("redis", url, error))
    return Output(json.dumps(answer, default=str)[:1_000_000])


@FAMILY.operation(changes=Changes.ELSEWHERE)
def neo4j_query(
    box: Box,
    database: Name,
    query: Statement,
    params: Annotated[Mapping[str, Any], Field(max_length=1_000)] = MappingProxyType({}),
    timeout: Seconds = 30.0,
) -> Output:
    """Run one Cypher statement, and get up to 1,000 records."""
    url, changes = _named(box, database, "neo4j", "neo4j")
    if leads_out(query):
        raise Refused(
            "query: LOAD CSV, CALL of procedures, USE, and functions of apoc and genai reach what is not this database's"
        )
    import neo4j

    address, user = user_apart(url)
    try:
        with (
            neo4j.GraphDatabase.driver(
                address, auth=user, connection_timeout=timeout, connection_acquisition_timeout=timeout
            ) as driver,
            _ended_after(timeout + _GRACE_SECONDS, lambda _: driver.close()),
        ):
            access = neo4j.WRITE_ACCESS if changes else neo4j.READ_ACCESS
            with driver.session(default_access_mode=access) as session:
                result = session.run(neo4j.Query(query, timeout=timeout), dict(params))
                records = [dict(record) for record in result.fetch(MOST_ROWS + 1)]
    except (neo4j.exceptions.Neo4jError, neo4j.exceptions.DriverError) as error:
        return Output("", ok=False, error=without_password("neo4j", url, error))
    columns = list(records[0]) if records else []
    return _rows(columns, [tuple(record.values()) for record in records], len(records))


# Runs in the sandbox: SQLite reads any file that it is told to (ATTACH, readfile), and its C code reads a file of anybody's.
_SQLITE = """
import json, sqlite3, sys
from urllib.parse import quote
path, query, params, most, changes = json.load(sys.stdin)
link = sqlite3.connect(path if changes else f"file:{quote(path)}?mode=ro", uri=not changes)
link.execute("PRAGMA trusted_schema = OFF")
rows = link.execute(query, params)
found = rows.fetchmany(most + 1)
link.commit()
print(json.dumps([[c[0] for c in rows.description or ()], found, rows.rowcount], default=repr))
"""


@FAMILY.operation(executes=True, changes=Changes.TREE)
def sqlite_query(
    box: Box,
    path: PathArgument,
    query: Statement,
    params: Annotated[tuple[Any, ...], Field(max_length=1_000, description="For ? in the statement.")] = (),
    timeout: Seconds = 30.0,
) -> Output:
    """Run one SQL statement on a SQLite file of the workspace."""
    checked_argument(path, "path")
    own = box.workspace
    box.make_ready()
    writable = [own.home] if box.read_only else [own.tree_folder, own.home]
    if box.read_only:
        own.tree.status(path)
    policy = box.sandbox.policy(
        *(
            (sys.executable, "-I", "-S", "-c", _SQLITE),
            own.tree_folder,
            writable,
            box.limits(timeout),
            [own.tree_folder],
            own.home,
        )
    )
    question = json.dumps([path, query, params, MOST_ROWS, not box.read_only]).encode()
    done = box.sandbox.run(policy, question)
    if not done.ok:
        said = done.errors.decode(errors="replace").strip().splitlines()
        return Output("", ok=False, error=done.end if done.stopped else (said or ["broke"])[-1])
    try:
        columns, rows, count = json.loads(done.output)
    except ValueError:
        return Output("", ok=False, error="sqlite: more rows than can be told; select fewer")
    return _rows(columns, rows, count)


def _named(box: Box, name: str, kind: str, package: str) -> tuple[str, bool]:
    """The address, and whether anything may be changed. Raises `Refused`."""
    known = box.options.databases
    if name not in known or known[name].kind != kind:
        there = ", ".join(sorted(one for one, options in known.items() if options.kind == kind)) or "none"
        raise Refused(f"database {name!r}: is none of the settings' ({kind}: {there}); name it in tools.databases")
    if find_spec(package) is None:
        raise Refused(f"{kind}: the package {package} is not installed here")
    options: DatabaseOptions = known[name]
    url = os.environ.get(options.url_env)
    if not url:
        raise Refused(f"database {name!r}: the environment variable {options.url_env} is not set")
    if not is_address(kind, url):
        raise Refused(
            f"database {name!r}: what the environment variable {options.url_env} holds is no address of {kind} that all read alike; within "
            "its user, password and options write @ : / ? # [ ] and % as %40 %3A %2F %3F %23 %5B %5D and %25"
        )
    return url, options.writable and not box.read_only


def leads_out(cypher: str) -> bool:
    """Whether a Cypher statement may reach files, other hosts or other databases. One that only has such words in a text counts as well."""
    return bool(_CYPHER_ELSEWHERE.search(_CYPHER_ESCAPE.sub(lambda found: chr(int(found[1], 16)), cypher)))


def _leads_elsewhere(command: tuple[str, ...]) -> bool:
    words = [word.upper() for word in command]
    return words[0] in _REDIS_ELSEWHERE or (words[0] == "COPY" and "DB" in words[3:])


def _flags(facts: Any) -> list[Any]:
    """Of Redis' COMMAND INFO, as the client's versions hand it over."""
    if isinstance(facts, dict):
        return [flag for one in facts.values() for flag in one.get("flags", [])]
    return [flag for one in facts or [] if one for flag in one[2]]


def _rows(columns: list[str], rows: list[Any], count: int) -> Output:
    more = len(rows) > MOST_ROWS
    kept = [list(row) for row in rows[:MOST_ROWS]]
    text = json.dumps({"columns": columns, "rows": kept}, default=str, ensure_ascii=False)
    note = f"\n(only the first {MOST_ROWS:,} rows)" if more else ""
    return Output(text + note, facts={"rows": len(kept), "rows_affected": count})
