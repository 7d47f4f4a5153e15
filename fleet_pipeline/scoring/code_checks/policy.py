"""Applies the rules of `policy.toml` to a proposal."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fleet_pipeline.scoring.code_checks.blocks import Block
from fleet_pipeline.scoring.code_checks.parsers import Finding

_COMMENTS = ("#", "//", "-- ")
MAX_LINE = 1_000  # characters of a line that patterns see, which bounds their time


class Pattern(NamedTuple):
    """`hints`: one of them stands in every text that `regex` matches, in whatever case. None: not known, every text is
    searched."""

    regex: re.Pattern[str]
    hints: tuple[str, ...] | None

    def may_match(self, folded: str) -> bool:
        return self.hints is None or any(hint in folded for hint in self.hints)


class Rule(NamedTuple):
    name: str
    where: frozenset[str]
    message: str
    patterns: tuple[Pattern, ...]


@cache
def rules() -> tuple[Rule, ...]:
    document = tomllib.loads(Path(__file__).with_name("policy.toml").read_text(encoding="utf-8"))
    return tuple(
        Rule(
            rule["name"],
            frozenset(rule["where"]),
            rule["message"],
            tuple(_pattern(entry) for entry in rule["patterns"]),
        )
        for rule in document["rule"]
    )


def _pattern(entry: str | dict[str, Any]) -> Pattern:
    if isinstance(entry, str):
        return Pattern(re.compile(entry, re.MULTILINE), None)
    return Pattern(re.compile(entry["pattern"], re.MULTILINE), tuple(entry["hints"]))


def policy_findings(text: str, blocks: Iterable[Block]) -> dict[str, list[Finding]]:
    """The findings of each rule that applied: at most one per line, without the matched text."""
    blocks = list(blocks)
    by_rule: dict[str, list[Finding]] = {}
    for rule in rules():
        if "text" in rule.where:
            by_rule[rule.name] = list(_matches(rule, text, 1))
            continue
        applicable = [block for block in blocks if block.language in rule.where]
        if applicable:
            by_rule[rule.name] = [finding for block in applicable for finding in _matches(rule, block.code, block.line)]
    return by_rule


def _matches(rule: Rule, text: str, first_line: int) -> Iterator[Finding]:
    folded = text.casefold()
    patterns = [pattern.regex for pattern in rule.patterns if pattern.may_match(folded)]
    if not any(pattern.search(text) for pattern in patterns):  # ten times as fast as line by line
        return
    for number, line in enumerate(text.splitlines(), start=first_line):
        code = line[:MAX_LINE]
        comment = "text" not in rule.where and code.lstrip().startswith(_COMMENTS)
        if not comment and any(pattern.search(code) for pattern in patterns):
            yield Finding(number, rule.message)
