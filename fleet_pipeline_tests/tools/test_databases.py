"""PostgreSQL, Neo4j and SQLite: one statement, one database of the settings, and in read-only mode nothing that changes anything."""

import json
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from fleet_pipeline.tools.families.db import leads_out
from fleet_pipeline.tools.operation import Box
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.toolbox import Toolbox
from fleet_pipeline_tests.support import postgres
from fleet_pipeline_tests.support.listening import listening
from fleet_pipeline_tests.support.tool_world import World

pytestmark = [pytest.mark.instance, pytest.mark.skipif(not postgres.is_installed(), reason="Postgres is not installed")]
OPTIONS = ToolOptions(
    databases={
        "main": {"kind": "postgresql", "url_env": "MAIN_URL", "writable": True},
        "frozen": {"kind": "postgresql", "url_env": "READER_URL"},
        "gone": {"kind": "postgresql", "url_env": "GONE_URL"},
        "admin": {"kind": "postgresql", "url_env": "ADMIN_URL", "writable": True},
    }
)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.a_server() as one:
        one.execute("create user reader")
        one.execute("create user writer")
        one.execute("create database agents owner writer")
        yield one


@pytest.fixture
def tools(world: World, server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> Toolbox:
    monkeypatch.setenv("MAIN_URL", f"postgresql://writer@/agents?host={server.folder}")
    monkeypatch.setenv("ADMIN_URL", f"postgresql://fleet@/agents?host={server.folder}")
    monkeypatch.setenv("READER_URL", f"postgresql://reader@/agents?host={server.folder}")
    own = Toolbox(Box(world.workspace, world.box.sandbox, OPTIONS), world.audit)
    for text in ("create table if not exists t(a int)", "grant all on t to reader", "delete from t"):
        assert query(own, text).ok
    return own


def query(tools: Toolbox, text: str, database: str = "main", **more: Any) -> Any:
    return tools.call("db.postgresql_query", {"database": database, "query": text, **more})


def count(tools: Toolbox) -> int:
    return json.loads(query(tools, "select count(*) from t").output)["rows"][0][0]


def test_a_statement_with_values_changes_and_tells_rows(tools: Toolbox) -> None:
    assert query(tools, "insert into t values (%s), (%s)", params=[1, 2]).facts["rows_affected"] == 2
    assert json.loads(query(tools, "select a from t order by a").output) == {"columns": ["a"], "rows": [[1], [2]]}
    many = query(tools, "select generate_series(1, 5000)")
    assert many.facts["rows"] == 1_000
    assert "only the first 1,000" in many.output
    assert "syntax error" in query(tools, "selec 1").error


@pytest.mark.parametrize(
    "text",
    [
        *("insert into t values (1)", "delete from t", "drop table t", "truncate t", "create table u(a int)", "select 1; delete from t"),
        *("commit", "commit; delete from t", "rollback; delete from t", "begin read write", "set transaction read write"),
        *("set session characteristics as transaction read write", "set default_transaction_read_only = off; delete from t"),
        *("with d as (delete from t returning a) select * from d", "do $$ begin delete from t; end $$", "do $$ begin commit; delete from t; end $$"),
        *("copy t from program 'echo 9'", "copy (select 1) to '/tmp/fleet-pg'", "copy t to program 'cat > /tmp/fleet-pg'", "-- x\ndelete from t"),
        *("/* x */ delete from t", "explain analyze delete from t", "select nextval('s')", "select lo_create(0)", "vacuum", "lock table t"),
        *("prepare p as delete from t", "alter system set work_mem = '1MB'", "select set_config('transaction_read_only', 'off', false)"),
    ],
)  # fmt: skip
def test_a_database_that_is_only_read_is_not_changed_by_any_statement(tools: Toolbox, text: str) -> None:
    query(tools, "insert into t values (7)")
    for own, database in (
        (tools, "frozen"),
        (Toolbox(Box(tools.box.workspace, tools.box.sandbox, OPTIONS, read_only=True), tools.audit), "main"),
    ):
        query(own, text, database)
        assert query(own, "insert into t values (8)", database).ok is False  # nor does it last into the next call
    assert count(tools) == 1


def test_a_user_who_could_run_programs_on_the_server_is_refused(tools: Toolbox) -> None:
    """`COPY ... TO PROGRAM` runs one, in a read-only transaction too, and to change a database is not to run programs beside it."""
    for read_only in (True, False):
        own = Toolbox(Box(tools.box.workspace, tools.box.sandbox, OPTIONS, read_only=read_only), tools.audit)
        assert "may run programs" in query(own, "select 1", "admin").error
    assert query(tools, "select a from t", "frozen").ok


def test_a_user_who_could_ask_other_hosts_by_an_extension_is_refused(tools: Toolbox, server: postgres.Server) -> None:
    """With a password that it knows, `dblink` connects to any host, and writes there in a transaction that only reads here."""
    server.execute("create extension dblink", "agents")
    try:
        for database in ("main", "frozen"):
            assert "by the extension dblink; revoke EXECUTE" in query(tools, "select 1", database).error
        server.execute(
            "do $$ declare f regprocedure; begin for f in select objid::regprocedure from pg_depend d join pg_extension e on refobjid = e.oid "
            "where extname = 'dblink' and classid = 'pg_proc'::regclass loop execute format('revoke execute on function %s from public', f); "
            "end loop; end $$",
            "agents",
        )
        assert query(tools, "select 1", "frozen").ok
        assert "permission denied" in query(tools, "select dblink_connect('host=localhost')", "frozen").error
    finally:
        server.execute("drop extension dblink", "agents")


def test_a_value_that_cannot_be_sent_or_told_fails_its_call_alone(tools: Toolbox) -> None:
    deep = "select (repeat('[', 5000) || repeat(']', 5000))::json"
    for text, params in (("select %s", ["\ud800"]), (deep, []), (f"select '{'9' * 5_000}'::json", [])):
        result = query(tools, text, "frozen", params=params)
        assert (result.outcome, result.error[:11]) == ("failed", "postgresql:"), result


def test_who_may_write_makes_nothing_run_with_another_users_rights(tools: Toolbox, server: postgres.Server) -> None:
    """What is asked of a user before its statement is asked of the server alone, whatever functions others have made (CVE-2018-1058)."""
    for text in (
        "create function trap(name, name) returns name language plpgsql as $$ begin insert into t values (9); return $1; end $$",
        "create aggregate min(name) (sfunc = trap, stype = name, initcond = 'x')",
    ):
        assert query(tools, text).ok, text
    server.execute("alter role writer set search_path = public, pg_catalog")
    try:
        query(tools, "select 1", "frozen")
        query(tools, "select 1")
        assert count(tools) == 0
    finally:
        assert query(tools, "drop aggregate min(name)").ok
        assert query(tools, "drop function trap").ok
        server.execute("alter role writer reset search_path")


@pytest.mark.parametrize(
    "cypher",
    [
        *("LOAD CSV FROM 'http://10.0.0.1/' AS row RETURN row", "match (n) load /* x */ csv from n.url as r return r"),
        *(r"\u004cOAD CSV FROM 'file:///etc/passwd' AS row RETURN row", r"LO\uu0041D // x" + "\nCSV FROM 'file:///a' AS r RETURN r"),
        *("CALL apoc.load.json('http://10.0.0.1/')", "CALL`apoc`.`load`.`json`('x')", "CALL /*{*/ dbms.listConfig()", "CALL db.labels()"),
        *("RETURN apoc.cypher.runFirstColumnSingle('return 1', {})", "USE other MATCH (n) RETURN n", "RETURN `genai`.vector.encode('a', 'b', {})"),
    ],
)  # fmt: skip
def test_a_cypher_statement_that_reaches_files_hosts_or_other_databases_is_known(cypher: str) -> None:
    """Neo4j runs all of these in a session for reading. No server of it could be had here: they are known by their words."""
    assert leads_out(cypher)


@pytest.mark.parametrize(
    "cypher",
    ["MATCH (user:User)-[:CALLS]->(f) RETURN f.name", "MATCH (n) CALL { WITH n RETURN 1 AS x } RETURN x", "MATCH (n) CALL (n) { RETURN 1 AS x } RETURN x", "RETURN 'payload.csv'"],
)  # fmt: skip
def test_other_cypher_statements_are_taken(cypher: str) -> None:
    assert not leads_out(cypher)


def test_a_second_statement_is_never_run(tools: Toolbox) -> None:
    assert not query(tools, "insert into t values (1); insert into t values (2)").ok
    assert not query(tools, "select 1; -- x").output.startswith("[")
    assert count(tools) == 0


def test_what_is_read_is_taken_row_by_row_and_no_further_than_it_is_told(tools: Toolbox) -> None:
    """A table may be larger than the memory: these would be 100 GB."""
    result = query(tools, "select repeat('x', 1000000) from generate_series(1, 100000)", "frozen")
    assert result.ok, result.error
    assert result.facts["rows"] == 17
    arrays = query(tools, "select array_fill('x'::text, array[1000000]) from generate_series(1, 1000)", "frozen")
    assert arrays.facts["rows"] < 20
    assert query(tools, "select a from t where false", "frozen").facts["rows"] == 0
    assert query(tools, "set search_path = public").ok
    assert not query(tools, "select %s", "frozen").ok
    assert json.loads(query(tools, "select %s + 1", "frozen", params=[2]).output) == {
        "columns": ["?column?"],
        "rows": [[3]],
    }


def test_where_it_may_be_changed_no_more_is_read_either(tools: Toolbox) -> None:
    result = query(tools, "select repeat('x', 1000000) from generate_series(1, 100000)")
    assert result.ok, result.error
    assert result.facts["rows"] == 17
    assert "what it changed, if anything, was undone" in result.output.partition("\n")[0]
    assert query(tools, "insert into t values (1), (2)").facts["rows_affected"] == 2
    assert query(tools, "/* a comment */ insert into t values (3)").ok
    assert count(tools) == 3


def test_a_statement_that_takes_its_time_is_stopped(tools: Toolbox) -> None:
    for timeout in (1, 0.0005):
        assert "statement timeout" in query(tools, "select pg_sleep(60)", timeout=timeout).error


def test_what_a_commit_does_is_stopped_as_well(tools: Toolbox) -> None:
    told = query(tools, "DECLARE c CURSOR WITH HOLD FOR select pg_sleep(100000)", timeout=1).error
    assert "canceling statement" in told


def test_a_statement_that_catches_its_own_end_is_ended(tools: Toolbox, server: postgres.Server) -> None:
    """It caught the timeout and the cancel, held its locks, and wrote to the server's log after the call, for ever."""
    catches = (
        "do $$ begin loop begin perform pg_sleep(1000); exception when query_canceled then null; end; end loop; end $$"
    )
    assert not query(tools, catches, timeout=1).ok
    while server.execute("select 1 from pg_stat_activity where usename = 'writer' and state = 'active'"):
        time.sleep(0.05)


def test_notifications_are_not_kept(tools: Toolbox) -> None:
    """A call with 800 MB of them left as much in the process of the tools."""
    many = (
        "do $$ begin listen a; for i in 1..20000 loop perform pg_notify('a', i || repeat('x', 7000)); end loop; end $$"
    )
    tracemalloc.start()
    try:
        assert query(tools, many).ok
        assert tracemalloc.get_traced_memory()[1] < 70_000_000  # of 140,000,000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["prepare transaction 'x'", "/* a /* b */ */ PREPARE -- x\n TRANSACTION 'x'", "\nprepare\ttransaction 'x'"]
)
def test_no_transaction_outlives_its_call(tools: Toolbox, text: str) -> None:
    for database in ("main", "frozen"):
        assert "goes on after the call" in query(tools, text, database).error


@pytest.mark.parametrize(
    "text",
    [
        "alter role writer password 'theirs'",
        "alter user writer set statement_timeout = '1ms'",
        "do $$ begin execute 'alter ro' || 'le writer password ''theirs'''; end $$",
        "alter database agents set default_transaction_read_only = on",
        "alter database agents connection limit 0",
        "revoke connect on database agents from public",
        "do $$ begin create temp table pg_locks(pid int, relation oid, mode text); alter role writer set work_mem = 64; end $$",
        "do $$ begin create temp table pg_database as select * from pg_database; revoke connect on database agents from public; end $$",
        "insert into later values (1)",  # whose trigger does it in the COMMIT
    ],
)
def test_who_may_write_changes_no_user_and_no_database(tools: Toolbox, server: postgres.Server, text: str) -> None:
    """An agent gave its user another password: it knew one then, and all others, and all later runs, were locked out."""
    assert query(tools, "create table if not exists later(a int)").ok
    assert query(tools, "create or replace function ends() returns trigger language plpgsql as $$ begin alter role writer set work_mem = 64; return null; end $$").ok  # fmt: skip
    assert query(tools, "create constraint trigger late after insert on later deferrable initially deferred for each row execute function ends()").ok  # fmt: skip
    try:
        told = query(tools, text)
        assert told.outcome == "refused", told
        assert "the whole server's" in told.error
        assert not server.execute("select 1 from pg_db_role_setting")
        assert server.execute("select 1 from pg_roles where rolname = 'writer' and rolconnlimit = -1")
    finally:
        assert query(tools, "drop table later").ok


def test_a_deferred_trigger_finds_the_names_that_it_was_written_with(tools: Toolbox) -> None:
    for text in (
        "create table first(a int)",
        "create function follows() returns trigger language plpgsql as $$ begin insert into t values (new.a); return null; end $$",
        "create constraint trigger late after insert on first deferrable initially deferred for each row execute function follows()",
        "insert into first values (7)",
        *("create index on first(a)", "create schema more", "comment on table t is 'x'", "grant select on first to reader", "truncate first"),
        *("alter table first add b int", "notify a", "drop schema more"),
    ):  # fmt: skip
        done = query(tools, text)
        assert done.ok, (text, done.error)
    assert count(tools) == 1
    assert query(tools, "drop table first").ok


@pytest.mark.parametrize(
    "text",
    ["analyze t", "-- x\ranalyze t", "/* /* */ select */ analyze t", "lock table t", "do $$ begin perform pg_sleep(1); end $$", "set role writer", "listen a"],
)  # fmt: skip
def test_where_it_is_only_read_a_statement_begins_as_one_that_reads(tools: Toolbox, text: str) -> None:
    """A read-only transaction lets ANALYZE change the catalog, and a block of code hold a lock for as long as it may take."""
    assert "is only read here" in query(tools, text, "frozen").error
    for reads in (
        "-- why\n  select a from t",
        "/* of a client */ (select 1) union (select 2)",
        f"/*{'x' * 90_000}*/ table t",
    ):
        assert query(tools, reads, "frozen").ok


def test_a_server_that_answers_nothing_holds_no_call(tools: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets everybody in. Two such calls held the whole run: the end of the first was asked for on a connection that waited as well."""

    def message(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("!I", len(content) + 4) + content

    welcome = message(b"R", struct.pack("!I", 0)) + message(b"K", struct.pack("!II", 1, 7)) + message(b"Z", b"I")

    def serve(link: socket.socket) -> None:
        if link.recv(65_536)[4:8] == b"\x04\xd2\x16\x2e":  # a cancel
            link.close()
            return
        link.sendall(welcome)
        while link.recv(65_536):
            pass

    with listening(serve) as port:
        monkeypatch.setenv(
            "GONE_URL", f"postgresql://u:s3cret-word@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable"
        )
        assert not query(tools, "select 1", "gone", timeout=1).ok


def test_a_user_who_makes_users_is_refused(tools: Toolbox, server: postgres.Server) -> None:
    """Who may make users may run programs: it makes one with the right, or takes it (PostgreSQL before 16)."""
    for right in ("createrole", "replication"):
        server.execute(f"alter role writer {right}")
        try:
            assert "make users" in query(tools, "select 1").error
        finally:
            server.execute(f"alter role writer no{right}")


def test_sqlite_reads_and_writes_a_file_of_the_workspace_and_nothing_else(world: World) -> None:
    def query(text: str, path: str = "d.db", **more: Any) -> Any:
        return world.call("db.sqlite_query", path=path, query=text, **more)

    assert query("create table t(a)").ok
    assert query("insert into t values (?), (?)", params=["x", 2]).facts["rows_affected"] == 2
    assert json.loads(query("select a from t").output) == {"columns": ["a"], "rows": [["x"], [2]]}
    assert not query("select 1; drop table t").ok
    assert not query(f"attach '{world.outside}/data.db' as other").ok
    assert not query("select a from t", path=str(world.outside / "data.db")).ok
    assert not query("select load_extension('/lib/x.so')").ok
    many = query("with recursive n(i) as (select 1 union all select i + 1 from n) select i from n")
    assert many.facts["rows"] == 1_000
    endless = query("with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n", timeout=2)
    assert endless.error == "stopped by the bound on time"
    world.unharmed()
