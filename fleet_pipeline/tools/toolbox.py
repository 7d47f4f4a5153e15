"""All operations under one roof: which there are for a role, and the one way to call them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from fleet_pipeline.common.errors import InvalidInput, Refused, SandboxUnavailable
from fleet_pipeline.common.text import bounded, shown
from fleet_pipeline.tools.audit import Audit, Caller, CallOutcome
from fleet_pipeline.tools.families import db, docker, files, git, http, tests
from fleet_pipeline.tools.operation import Box, Family, Operation, Output, absent

FAMILIES: dict[str, Family] = {one.FAMILY.name: one.FAMILY for one in (files, git, tests, http, db, docker)}

_NONE: Mapping[str, Family] = MappingProxyType({})
_ERROR_CHARS = 4_000
ENTRY_POINTS = "fleet_pipeline.tools"


@cache
def installed_families() -> Mapping[str, Family]:
    """The families of this package, and those of installed packages: entry points of `fleet_pipeline.tools`, each a `Family`.

    One that cannot be loaded is there without operations, and says why.
    """
    found = dict(FAMILIES)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in FAMILIES:
            continue  # the names of this package's own stay what they are
        try:
            family = point.load()
            if not isinstance(family, Family):
                raise TypeError(f"{point.value} is no Family")
        except Exception as error:  # noqa: BLE001 - another's package
            why = f"{point.value} cannot be loaded: {type(error).__name__}: {error}"
            family = absent(point.name, "Of an installed package.", why)
        found[point.name] = family
    return MappingProxyType(found)


@dataclass(frozen=True)
class Result:
    """What a call came to. `sandbox` names the layers, for those who keep it."""

    ok: bool
    output: str
    error: str
    sandbox: str
    outcome: CallOutcome
    facts: Mapping[str, Any] = field(default_factory=dict)


class Toolbox:
    """The operations that `role` may call (None: a person, all), on one workspace, with every call in the audit."""

    def __init__(
        self,
        box: Box,
        audit: Audit,
        role: str | None = None,
        servers: Mapping[str, Family] = _NONE,
        caller: Caller | None = None,
    ) -> None:
        """`servers`: the families of MCP servers, which are connected. Raises `InvalidInput` for options that name no family."""
        self.box = box
        self.audit = audit
        self.caller = caller
        self.role = role
        self.known = {**installed_families(), **servers}
        options = box.options
        if (
            unknown := {name for names in options.roles.values() for name in names}
            - self.known.keys()
            - options.mcp.keys()
        ):
            raise InvalidInput(f"tools.roles: there is no family {min(unknown)!r}; known are {', '.join(self.known)}")
        wanted = self.known if role is None else options.families_of(role)
        self.families = {name: self.known[name] for name in wanted if name in self.known}

    def call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """Call `family.operation`. Never raises for what a model may have written: it goes back as the result's error."""
        family, _, operation = str(name).partition(".")
        box = self.box
        try:
            begun = self.audit.begin(
                box.workspace.name, family, operation, arguments, box.read_only, box.sandbox.level, self.caller
            )
        except (OSError, ValueError) as error:  # without its record no call is made; a number may have too many digits
            return Result(False, "", f"the audit cannot be written: {error}", box.sandbox.level, "refused")
        began = time.monotonic()
        outcome: CallOutcome = "broke"
        output = Output("")
        try:
            output = self._call(family, operation, arguments)
            outcome = "ok" if output.ok else "failed"
        except (Refused, SandboxUnavailable) as refusal:
            outcome, output = "refused", Output("", ok=False, error=str(refusal))
        except RecursionError:
            outcome, output = "refused", Output("", ok=False, error=f"{name}: the arguments are nested too deeply")
        except Exception as error:  # noqa: BLE001 - a bug in one operation must not end the run of all agents
            output = Output("", ok=False, error=f"{name} broke: {type(error).__name__}: {error}"[:1_000])
        finally:
            error_text = bounded(shown(output.error), _ERROR_CHARS)
            with suppress(OSError):  # the call has been made, and its result is told; the record says unfinished
                self.audit.end(begun, outcome, error_text, len(output.text), time.monotonic() - began)
        text = shown(_cut(output.text, box.options.limits.output_kib * 1_024))
        return Result(output.ok, text, error_text, box.sandbox.level, outcome, output.facts)

    def _call(self, family_name: str, name: str, arguments: Mapping[str, Any]) -> Output:
        operation = self.find(family_name, name)
        if missing := self.known[family_name].missing(self.box):
            raise Refused(f"{family_name}: {missing}")
        if operation.executes and not self.box.sandbox.works:
            raise Refused(f"{family_name}.{name} runs a program, and no sandbox works here: {self.box.sandbox.reason}")
        if operation.writes:
            self.box.must_change(f"{family_name}.{name}")
        try:
            return operation.run(self.box, arguments)
        except Refused as refusal:
            if str(refusal).partition(":")[0] in operation.schema.get("properties", {}):  # of an argument
                raise Refused(f"{family_name}.{name}: {refusal}") from None
            raise

    def find(self, family: str, name: str) -> Operation:
        """Raises `Refused` for what there is not, or what the role may not call."""
        if family not in self.known or name not in self.known[family].operations:
            raise Refused(f"{family}.{name}: there is no such operation; `fleet tools list` shows them")
        if family not in self.families:
            raise Refused(f"{family}: the role {self.role} may call {', '.join(self.families)} alone (tools.roles)")
        return self.known[family].operations[name]

    def available(self) -> dict[str, Operation]:
        """By full name, what can be called here now."""
        found = {}
        for family in self.families.values():
            if family.missing(self.box):
                continue
            for operation in family.operations.values():
                if (operation.executes and not self.box.sandbox.works) or (operation.writes and self.box.read_only):
                    continue
                found[f"{family.name}.{operation.name}"] = operation
        return found


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}\n(cut: {len(text) - most:,} more characters; ask for less at a time)"


def call_schema(operations: Mapping[str, Operation], further: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The grammar of structured output for a call: one of these operations with its arguments, or one of `further`."""
    return {"anyOf": [*call_schemas(operations), *further]}


def call_schemas(operations: Mapping[str, Operation]) -> list[dict[str, Any]]:
    return [
        {
            "type": "object",
            "properties": {"tool": {"const": name}, "arguments": operation.schema},
            "required": ["tool", "arguments"],
            "additionalProperties": False,
        }
        for name, operation in operations.items()
    ]


def prompt_text(operations: Mapping[str, Operation]) -> str:
    """What a model is told: each operation with its signature, from the same declaration that checks its calls."""
    lines = []
    for name, operation in operations.items():
        required, known = operation.schema.get("required"), operation.schema.get("properties")
        arguments = ", ".join(
            f"{one}{'' if isinstance(required, list) and one in required else '?'}: {_type(facts)}"
            for one, facts in (known.items() if isinstance(known, Mapping) else ())
        )
        lines.append(f"{name}({arguments}): {operation.help.splitlines()[0]}")
    return "\n".join(lines)


def _type(schema: Any) -> str:
    if not isinstance(schema, Mapping):  # `true`, or what a server has made up
        return "any"
    if isinstance(schema.get("enum"), list):
        return "|".join(json.dumps(one) for one in schema["enum"])
    if isinstance(schema.get("anyOf"), list):
        return "|".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))
