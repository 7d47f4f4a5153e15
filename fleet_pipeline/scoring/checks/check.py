"""All checks on one proposal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fleet_pipeline.scoring.checks.blocks import Block, code_blocks
from fleet_pipeline.scoring.checks.kubernetes import manifest_findings, manifests
from fleet_pipeline.scoring.checks.parsers import PARSERS, Finding
from fleet_pipeline.scoring.checks.policy import policy_findings

CHECKS_VERSION = "1"
MAX_FINDINGS = 20  # of a check that are kept
# Charts and playbooks are no YAML before they are rendered, and need values that are not here.
_TEMPLATE = ("{{", "{%")


@dataclass(frozen=True)
class Check:
    """What one check found in all blocks of a proposal that it applies to. Lines are the proposal's."""

    check: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return not self.findings


def check(text: str) -> list[Check]:
    """Every check that had something to look at, by name; none for a text without code or secrets."""
    blocks = list(code_blocks(text))
    found: dict[str, list[Finding]] = defaultdict(list)
    for block in blocks:
        if block.language in ("yaml", "json", "toml") and any(mark in block.code for mark in _TEMPLATE):
            continue
        for name, parse in PARSERS.get(block.language, {}).items():
            found[name] += _located(parse, block)
        if block.language == "yaml" and not found["yaml parses"]:
            for name, findings in _kubernetes(block).items():
                found[name] += findings
    policy = policy_findings(text, blocks)
    # A text without code has nothing that could pass; a secret in it is a finding all the same.
    found |= {name: findings for name, findings in policy.items() if blocks or findings}
    return [Check(name, tuple(findings[:MAX_FINDINGS])) for name, findings in sorted(found.items())]


def _kubernetes(block: Block) -> dict[str, list[Finding]]:
    findings: list[Finding] = []
    known = False
    for line, manifest in manifests(block.code):
        faults = manifest_findings(manifest)
        if faults is not None:
            known = True
            findings += [Finding(block.line + line - 1, fault) for fault in faults]
    return {"kubernetes schema": findings} if known else {}


def _located(parse: Callable[[str], Iterator[Finding]], block: Block) -> list[Finding]:
    """Findings with the proposal's lines. Code too deep to be read is a finding and no crash."""
    last = max(1, len(block.code.splitlines()))  # what is missing at the end is missing on the last line
    try:
        return [Finding(block.line + min(max(line, 1), last) - 1, text[:300]) for line, text in parse(block.code)]
    except (RecursionError, MemoryError):
        return [Finding(block.line, "nested too deeply to be checked")]
