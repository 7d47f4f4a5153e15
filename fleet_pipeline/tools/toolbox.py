"""All operations under one roof: which there are for a role, and the one way to call them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from fleet_pipeline.common.errors import Refused, SandboxUnavailable
from fleet_pipeline.common.text import printable
from fleet_pipeline.common.validation import describe
from fleet_pipeline.tools.audit import Audit, CallOutcome
from fleet_pipeline.tools.families import db, docker, files, git, http, tests
from fleet_pipeline.tools.operation import Box, Family, Operation, Output

FAMILIES: dict[str, Family] = {one.FAMILY.name: one.FAMILY for one in (files, git, tests, http, db, docker)}


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

    def __init__(self, box: Box, audit: Audit, role: str | None = None) -> None:
        self.box = box
        self.audit = audit
        self.role = role
        self.families = {name: FAMILIES[name] for name in box.options.families_of(role)}

    def call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """Call `family.operation`. Never raises for what a model may have written: it goes back as the result's error."""
        family, _, operation = name.partition(".")
        box = self.box
        begun = self.audit.begin(box.workspace.name, family, operation, arguments, box.read_only, box.sandbox.level)
        began = time.monotonic()
        outcome: CallOutcome = "broke"
        output = Output("")
        try:
            output = self._call(family, operation, arguments)
            outcome = "ok" if output.ok else "failed"
        except (Refused, SandboxUnavailable) as refusal:
            outcome, output = "refused", Output("", ok=False, error=str(refusal))
        except Exception as error:  # noqa: BLE001 - a bug in one operation must not end the run of all agents
            output = Output("", ok=False, error=f"{name} broke: {type(error).__name__}: {error}"[:1_000])
        finally:
            error_text = printable(output.error)
            self.audit.end(begun, outcome, error_text, len(output.text), time.monotonic() - began)
        return Result(output.ok, printable(output.text), error_text, box.sandbox.level, outcome, output.facts)

    def _call(self, family_name: str, name: str, arguments: Mapping[str, Any]) -> Output:
        operation = self.find(family_name, name)
        if missing := FAMILIES[family_name].missing(self.box):
            raise Refused(f"{family_name}: {missing}")
        if operation.executes and not self.box.sandbox.works:
            raise Refused(f"{family_name}.{name} runs a program, and no sandbox works here: {self.box.sandbox.reason}")
        if operation.writes:
            self.box.must_change(f"{family_name}.{name}")
        try:
            values = operation.arguments.model_validate(arguments)
        except ValidationError as error:
            raise Refused(f"{family_name}.{name}: {describe(error)}") from None
        return operation.function(self.box, **{one: getattr(values, one) for one in operation.arguments.model_fields})

    def find(self, family: str, name: str) -> Operation:
        """Raises `Refused` for what there is not, or what the role may not call."""
        if family not in FAMILIES or name not in FAMILIES[family].operations:
            raise Refused(f"{family}.{name}: there is no such operation; `fleet tools list` shows them")
        if family not in self.families:
            raise Refused(f"{family}: the role {self.role} may call {', '.join(self.families)} alone (tools.roles)")
        return FAMILIES[family].operations[name]

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


def call_schema(operations: Mapping[str, Operation], further: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The grammar of structured output for a call: one of these operations with its arguments, or one of `further`."""
    calls = [
        {
            "type": "object",
            "properties": {"tool": {"const": name}, "arguments": operation.schema},
            "required": ["tool", "arguments"],
            "additionalProperties": False,
        }
        for name, operation in operations.items()
    ]
    return {"anyOf": [*calls, *further]}


def prompt_text(operations: Mapping[str, Operation]) -> str:
    """What a model is told: each operation with its signature, from the same declaration that checks its calls."""
    lines = []
    for name, operation in operations.items():
        arguments = ", ".join(
            f"{one}{'' if one in operation.schema.get('required', []) else '?'}: {_type(facts)}"
            for one, facts in operation.schema.get("properties", {}).items()
        )
        lines.append(f"{name}({arguments}): {operation.help.splitlines()[0]}")
    return "\n".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "|".join(json.dumps(one) for one in schema["enum"])
    if "anyOf" in schema:
        return "|".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))
