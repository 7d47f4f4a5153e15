"""The faults of a code block, by language. Nothing here runs the code."""

import ast
import json
import logging
import tomllib
from collections.abc import Callable, Iterator
from textwrap import dedent
from typing import Any, NamedTuple

MAX_ALIASES = 50  # in a YAML block: aliases of aliases grow without bound when they are followed


class Finding(NamedTuple):
    """`line` counts from 1. Parsers count within the block, reports within the proposal."""

    line: int
    message: str


def python_parses(code: str) -> Iterator[Finding]:
    try:
        ast.parse(dedent(code))
    except SyntaxError as error:
        yield Finding(error.lineno or 1, error.msg)
    except ValueError as error:  # null bytes
        yield Finding(1, str(error))


def python_lint(code: str) -> Iterator[Finding]:
    """Pyflakes, without the messages that are no fault in a fragment, such as names defined elsewhere."""
    from pyflakes import checker, messages

    fragment_messages = (
        messages.UndefinedName,
        messages.UndefinedExport,
        messages.UnusedImport,
        messages.ImportStarUsed,
        messages.ImportStarUsage,
        messages.ReturnOutsideFunction,
        messages.YieldOutsideFunction,
        messages.ContinueOutsideLoop,
        messages.BreakOutsideLoop,
    )
    try:
        tree = ast.parse(dedent(code))
    except (SyntaxError, ValueError):
        return  # `python_parses` reports it
    for message in sorted(checker.Checker(tree).messages, key=lambda message: message.lineno):
        if not isinstance(message, fragment_messages):
            yield Finding(message.lineno, message.message % message.message_args)


def shell_parses(code: str) -> Iterator[Finding]:
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    nodes = [Parser(Language(tree_sitter_bash.language())).parse(code.encode()).root_node]
    while nodes:
        node = nodes.pop()
        if node.is_missing:
            yield Finding(node.start_point.row + 1, f"{node.type} is missing")
        elif node.is_error:
            yield Finding(node.start_point.row + 1, "syntax error")
        elif node.has_error:
            nodes.extend(reversed(node.children))


def json_parses(code: str) -> Iterator[Finding]:
    try:
        json.loads(code)
    except json.JSONDecodeError as error:
        yield Finding(error.lineno, error.msg)


def toml_parses(code: str) -> Iterator[Finding]:
    try:
        tomllib.loads(code)
    except tomllib.TOMLDecodeError as error:
        message, _, location = str(error).partition(" (at line ")
        yield Finding(int(location.partition(",")[0]) if location[:1].isdigit() else code.count("\n") + 1, message)


def yaml_parses(code: str) -> Iterator[Finding]:
    """Syntax errors, and keys given twice: YAML silently keeps only one of them."""
    import yaml

    try:
        for document in yaml.compose_all(code, Loader=yaml.SafeLoader):
            yield from _repeated_keys(document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        yield Finding(mark.line + 1 if mark else 1, error.problem or str(error))
    except yaml.YAMLError as error:
        yield Finding(1, str(error))


def yaml_documents(code: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of each document. A block with more than `MAX_ALIASES` aliases gives none."""
    import yaml

    # An alias is written with an asterisk. Without one there is no need to read all tokens, half of the work.
    if (
        "*" in code
        and sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(code, Loader=yaml.SafeLoader)) > MAX_ALIASES
    ):
        return
    for node in yaml.compose_all(code, Loader=yaml.SafeLoader):
        if node is not None:
            yield node.start_mark.line + 1, _plain(node)


def dockerfile_parses(code: str) -> Iterator[Finding]:
    import dockerfile

    try:
        commands = dockerfile.parse_string(code)
    except dockerfile.GoParseError as error:
        yield Finding(1, str(error))
        return
    started = False
    for command in commands:
        name = command.cmd.upper()
        if name not in _INSTRUCTIONS:
            yield Finding(command.start_line, f"unknown instruction {name[:30]}")
        elif not started and name not in ("FROM", "ARG"):
            yield Finding(command.start_line, f"{name} before the first FROM")
        started = started or name != "ARG"


def sql_parses(code: str) -> Iterator[Finding]:
    """Passes code that is right in any of the large dialects. The finding is that of standard SQL."""
    import sqlglot

    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    first_error: sqlglot.ParseError | sqlglot.TokenError | None = None
    for dialect in _DIALECTS:
        try:
            sqlglot.parse(code, dialect=dialect)
        except (sqlglot.ParseError, sqlglot.TokenError) as error:
            first_error = first_error or error
        else:
            return
    details = getattr(first_error, "errors", None) or [{}]
    yield Finding(details[0].get("line") or 1, details[0].get("description") or "cannot be read as SQL")


PARSERS: dict[str, dict[str, Callable[[str], Iterator[Finding]]]] = {
    "python": {"python parses": python_parses, "python lint": python_lint},
    "shell": {"shell parses": shell_parses},
    "json": {"json parses": json_parses},
    "toml": {"toml parses": toml_parses},
    "yaml": {"yaml parses": yaml_parses},
    "dockerfile": {"dockerfile parses": dockerfile_parses},
    "sql": {"sql parses": sql_parses},
}

_DIALECTS = ("", "postgres", "mysql", "sqlite", "tsql", "bigquery", "snowflake", "oracle", "spark", "clickhouse")
_INSTRUCTIONS = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)


def _repeated_keys(root: Any) -> Iterator[Finding]:
    import yaml

    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # seen before, through an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                nodes.append(value)
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in keys:
                        yield Finding(key.start_mark.line + 1, f"key {key.value[:60]!r} is given twice")
                    keys.add(key.value)


def _plain(node: Any) -> Any:
    """The value of a node. Tags that only their own program knows (!Ref, !vault) become strings."""
    import yaml

    class Plain(yaml.SafeLoader):
        pass

    Plain.add_multi_constructor("", lambda loader, suffix, tagged: str(getattr(tagged, "value", "")))
    loader = Plain("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError):  # an unhashable key, a date that does not exist
        return None
    finally:
        loader.dispose()
