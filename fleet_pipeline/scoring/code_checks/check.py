"""All checks on one proposal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fleet_pipeline.scoring.code_checks.blocks import Block, code_blocks
from fleet_pipeline.scoring.code_checks.kubernetes import manifest_findings, manifests
from fleet_pipeline.scoring.code_checks.parsers import PARSERS, Finding, python_lint
from fleet_pipeline.scoring.code_checks.policy import policy_findings

CHECKS_VERSION = "1"
MAX_FINDINGS = 20  # of a check that are kept
MAX_MANIFESTS = 50  # of a block that are validated
# Charts and playbooks may be no YAML before they are rendered, and need values that are not here.
_TEMPLATE = ("{{", "{%")


@dataclass(frozen=True)
class CodeCheck:
    """What one check found in all blocks of a proposal that it applies to. Lines are the proposal's."""

    check: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return not self.findings


def check_code(text: str) -> list[CodeCheck]:
    """Every check that had something to look at, by name; none for a text without code or secrets."""
    blocks = list(code_blocks(text))
    found: dict[str, list[Finding]] = defaultdict(list)
    for block in blocks:
        for name, findings in _of_block(block).items():
            found[name] += findings
    # A text without code that can be read has nothing that could pass; a secret in it is a finding all the same.
    readable = any(block.language for block in blocks)
    for name, findings in policy_findings(text, blocks).items():
        if readable or findings:
            found[name] += findings
    return [CodeCheck(name, tuple(findings[:MAX_FINDINGS])) for name, findings in sorted(found.items())]


def _of_block(block: Block) -> dict[str, list[Finding]]:
    found = {}
    for name, parse in PARSERS.get(block.language, {}).items():
        findings = _located(parse, block)
        if findings is not None:
            found[name] = findings
    faulty = any(found.values())
    if block.language in ("yaml", "json", "toml") and faulty and any(mark in block.code for mark in _TEMPLATE):
        return {}
    if block.language in ("yaml", "json") and not faulty:
        found |= _kubernetes(block)
    return found


def _kubernetes(block: Block) -> dict[str, list[Finding]]:
    findings: list[Finding] = []
    known = False
    try:
        for line, manifest in manifests(block.code)[:MAX_MANIFESTS]:
            faults = manifest_findings(manifest)
            if faults is not None:
                known = True
                findings += [Finding(block.line + line - 1, fault) for fault in faults]
    except Exception:  # noqa: BLE001 - whatever it is, it concerns this block alone
        # Libraries break on what models write (an unfinished `!!int`). That it parses has been looked at.
        return {}
    return {"kubernetes schema": findings} if known else {}


def _located(parse: Callable[[str], Iterator[Finding]], block: Block) -> list[Finding] | None:
    """Findings with the proposal's lines; None where the check itself broke on code that may be right.

    Whatever a library raises: one block of one proposal must never cost a run.
    """
    last = max(1, len(block.code.splitlines()))  # what is missing at the end is missing on the last line
    try:
        return [Finding(block.line + min(max(line, 1), last) - 1, text[:300]) for line, text in parse(block.code)]
    except (RecursionError, MemoryError):
        return [Finding(block.line, "nested too deeply to be checked")]
    except Exception as error:  # noqa: BLE001
        if parse is python_lint:
            return None
        return [Finding(block.line, f"cannot be read ({type(error).__name__})")]
