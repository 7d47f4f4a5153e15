"""All code checks of one proposal."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fleet_pipeline.scoring.code_checks.blocks import Block, code_blocks
from fleet_pipeline.scoring.code_checks.kubernetes import manifest_findings, manifests
from fleet_pipeline.scoring.code_checks.parsers import PARSERS, Finding, python_lint
from fleet_pipeline.scoring.code_checks.policy import policy_findings

CHECKS_VERSION = "1"
MAX_FINDINGS = 20  # kept per code check
MAX_MANIFESTS = 50  # validated per block
# Marks of templates. Charts and playbooks may not be YAML until rendered, and rendering needs values from elsewhere.
_TEMPLATE = ("{{", "{%")


@dataclass(frozen=True)
class CodeCheck:
    """The findings of one code check in all blocks that it applies to. Lines count within the proposal."""

    check: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return not self.findings


def check_code(text: str) -> list[CodeCheck]:
    """The code checks that applied to the text, sorted by name. None for a text without code or secrets."""
    blocks = list(code_blocks(text))
    by_check: dict[str, list[Finding]] = defaultdict(list)
    for block in blocks:
        for name, findings in _block_findings(block).items():
            by_check[name] += findings
    # Without readable code, no check counts as passed. A secret is still a finding.
    readable = any(block.language for block in blocks)
    for name, findings in policy_findings(text, blocks).items():
        if readable or findings:
            by_check[name] += findings
    return [CodeCheck(name, tuple(findings[:MAX_FINDINGS])) for name, findings in sorted(by_check.items())]


def _block_findings(block: Block) -> dict[str, list[Finding]]:
    by_check = {}
    for name, parse in PARSERS.get(block.language, {}).items():
        findings = _located(parse, block)
        if findings is not None:
            by_check[name] = findings
    faulty = any(by_check.values())
    if block.language in ("yaml", "json", "toml") and faulty and any(mark in block.code for mark in _TEMPLATE):
        return {}
    if block.language in ("yaml", "json") and not faulty:
        by_check |= _kubernetes(block)
    return by_check


def _kubernetes(block: Block) -> dict[str, list[Finding]]:
    findings: list[Finding] = []
    has_schema = False
    try:
        for line, manifest in manifests(block.code)[:MAX_MANIFESTS]:
            faults = manifest_findings(manifest)
            if faults is not None:
                has_schema = True
                findings += [Finding(block.line + line - 1, fault) for fault in faults]
    except Exception:  # noqa: BLE001 - any error concerns this block alone
        # Libraries break on what models write (an unfinished `!!int`). The parser has already checked the syntax.
        return {}
    return {"kubernetes schema": findings} if has_schema else {}


def _located(parse: Callable[[str], Iterator[Finding]], block: Block) -> list[Finding] | None:
    """Findings with the proposal's lines. None where the check is not installed, or broke on code that may be right.

    Any error of a library is caught: one block of one proposal must never cost a run.
    """
    last = max(1, len(block.code.splitlines()))  # a fault after the end is reported on the last line
    try:
        return [Finding(block.line + min(max(line, 1), last) - 1, text[:300]) for line, text in parse(block.code)]
    except ImportError:  # of the extra `checks`, which is not installed
        return None
    except (RecursionError, MemoryError):
        return [Finding(block.line, "nested too deeply to be checked")]
    except Exception as error:  # noqa: BLE001
        if parse is python_lint:
            return None
        return [Finding(block.line, f"cannot be read ({type(error).__name__})")]
