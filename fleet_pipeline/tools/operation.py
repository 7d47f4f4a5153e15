"""What an operation is: a typed function, declared once.

    @operation(writes=True)
    def delete_file(box: Box, path: Annotated[str, Field(description="...")]) -> Output:
        \"""Remove a file.\"""

From its signature come the argument model (so validation, the schema for prompts and structured output, and docs/tools.md),
and from its docstring what a model is told of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.common.validation import describe
from fleet_pipeline.tools.options import ToolOptions
from fleet_pipeline.tools.sandbox.policy import Limits
from fleet_pipeline.tools.sandbox.sandbox import Outcome, Sandbox
from fleet_pipeline.tools.workspace import Workspace


@dataclass(frozen=True)
class Output:
    """What an operation has to say. `facts` are the same for programs, such as counts of tests."""

    text: str
    ok: bool = True
    error: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """What a call works on, and what it may do."""

    workspace: Workspace
    sandbox: Sandbox
    options: ToolOptions = field(default_factory=ToolOptions)
    read_only: bool = False

    def must_change(self, what: str) -> None:
        """Raises `Refused` in read-only mode."""
        if self.read_only:
            raise Refused(f"{what}: nothing may be changed here (read-only)")

    def limits(self, seconds: float | None = None) -> Limits:
        most = self.options.limits
        return Limits(
            seconds=min(seconds or most.seconds, most.seconds),
            memory_mib=most.memory_mib,
            processes=most.processes,
            disk_mib=most.disk_mib,
            output_bytes=most.output_kib * 1_024,
        )

    def make_ready(self, *, with_repository: bool = False) -> None:
        """Before each program that may write somewhere. Raises `Refused` where there is too much already."""
        if self.read_only:  # it may write to HOME alone
            # What an earlier call has left there, such as settings of a runner, or a second name of a file of the tree, must not serve
            # this one.
            self.workspace.empty_home()
            return
        self.workspace.make_room(self.options.limits.disk_mib * 2**20, with_repository=with_repository)

    def execute(
        self,
        *command: str,
        folder: str = ".",
        seconds: float | None = None,
        readable: Sequence[Path] = (),
        **environment: str,
    ) -> Outcome:
        """Run a program on the tree. In read-only mode it can change nothing but its own HOME.

        Raises `Refused` for a program that is not there, and `SandboxUnavailable`.
        """
        own = self.workspace
        at = own.tree.folder_of(folder)
        self.make_ready()
        writable = [own.home] if self.read_only else [own.tree_folder, own.home]
        try:
            policy = self.sandbox.policy(
                *(command, at, writable, self.limits(seconds), [own.tree_folder, *readable], own.home),
                environment={"PYTHONNOUSERSITE": "1"} | environment,
            )
        except FileNotFoundError as error:
            raise Refused(str(error)) from None
        return self.sandbox.run(policy)


Function = Callable[..., Output]


class Changes(Flag):
    """What a call can change with some arguments, where it may change anything.

    After one that can change the tree somebody looks for the change. A workspace that is lost is made again by the calls that can change
    the tree and nothing else; one that can change something elsewhere is never made twice.
    """

    NOTHING = 0
    TREE = auto()  # and HOME, and the repository: by writing, or because what the tree holds is run
    ELSEWHERE = auto()


@dataclass(frozen=True)
class Operation:
    """`writes`: refused in read-only mode, whatever its arguments. `executes`: it needs a sandbox that works."""

    name: str
    function: Function
    writes: bool
    executes: bool
    changes: Changes

    @cached_property
    def help(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")

    @cached_property
    def arguments(self) -> type[BaseModel]:
        hints = get_type_hints(self.function, include_extras=True)
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        fields: dict[str, Any] = {one.name: (hints[one.name], _default(one)) for one in parameters}
        return create_model(f"{self.name}_arguments", __config__=ConfigDict(extra="forbid", frozen=True), **fields)

    def run(self, box: Box, arguments: Mapping[str, Any]) -> Output:
        """Raises `Refused` for arguments that do not fit, or a call that is not carried out."""
        try:
            values = self.arguments.model_validate(arguments)
        except ValidationError as error:
            raise Refused(describe(error)) from None
        return self.function(box, **{name: getattr(values, name) for name in self.arguments.model_fields})

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The arguments' JSON schema, without titles: a prompt holds it."""
        schema: dict[str, Any] = _untitled(self.arguments.model_json_schema())
        return {**schema, "additionalProperties": False}


def _default(parameter: inspect.Parameter) -> Any:
    if isinstance(parameter.default, Mapping):  # read-only in the signature: no call may change what the next one gets
        return Field(default_factory=dict)
    return ... if parameter.default is parameter.empty else parameter.default


def _untitled(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _untitled(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    return [_untitled(one) for one in schema] if isinstance(schema, list) else schema


@dataclass
class Family:
    """Operations of one kind. `missing` says why they cannot be called here; empty when they can. `changes`: what those that write change."""

    name: str
    help: str
    missing: Callable[[Box], str] = lambda box: ""
    changes: Changes = Changes.TREE | Changes.ELSEWHERE
    operations: dict[str, Operation] = field(default_factory=dict)

    def operation(
        self, *, writes: bool = False, executes: bool = False, changes: Changes | None = None
    ) -> Callable[[Function], Function]:
        """`changes`: where it is not what those that write change, and else nothing."""
        what = changes if changes is not None else self.changes if writes else Changes.NOTHING

        def declare(function: Function) -> Function:
            name = function.__name__.strip("_")
            self.operations[name] = Operation(name, function, writes, executes, what)
            return function

        return declare


def absent(name: str, help_text: str, why: str) -> Family:
    """A family that is known and cannot be called."""
    return Family(name, help_text, lambda box: why)


def checked_argument(value: str, what: str) -> str:
    """A value that becomes an argument of a program: it is no option, whatever a model writes. Raises `Refused`."""
    if not value or value.startswith("-") or any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise Refused(f"{what} {value!r}: must not be empty, begin with a dash, or hold control characters")
    return value
