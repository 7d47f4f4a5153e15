"""Roles: who sits on a council, what they know, and from which perspectives they look.

A council has one role. Its seats share the role's expertise; in diversity mode each seat also gets
a perspective of its own. The five built-in roles are those of the system this project replaces;
`load_roles` adds or replaces roles from a TOML file.
"""

import tomllib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.common.strict_model import StrictModel
from fleet_pipeline.common.validation import describe
from fleet_pipeline.deliberation.sampling import Sampling

RoleName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,31}$")]


class Perspective(StrictModel):
    """One way of looking at a task. Seats of a diverse council each take another one."""

    name: str = Field(pattern=r"^[a-z][a-z0-9 -]{0,39}$", description="Short name, as in tables and reports.")
    focus: str = Field(
        min_length=1, max_length=2_000, description="What this seat weighs most, in one or two sentences."
    )


class ModelChoice(StrictModel):
    """Which model speaks."""

    model: str = Field(min_length=1, max_length=500, description="A name of [models], a hub name or a folder.")


PhaseName = Literal["propose", "critique", "revise"]


class Role(StrictModel):
    """What the members of a council are."""

    name: RoleName
    title: str = Field(min_length=1, max_length=200, description="As in 'You are a ...'.")
    expertise: str = Field(min_length=1, max_length=4_000)
    perspectives: tuple[Perspective, ...] = Field(min_length=1, max_length=64)
    model: str | None = Field(default=None, description="Model for councils of this role; the run's model when absent.")
    seats: tuple[ModelChoice, ...] = Field(
        default=(), max_length=64, description="Models of the seats in turn, from the first again; win over model."
    )
    phases: dict[PhaseName, ModelChoice] = Field(
        default_factory=dict, description="Models of phases, such as a stronger critic; win over seats."
    )
    sampling: Sampling = Field(
        default=Sampling(), description="Sampling for this role; wins over the run's, loses to the task's."
    )


def _role(name: str, title: str, expertise: str, **perspectives: str) -> Role:
    return Role(
        name=name,
        title=title,
        expertise=expertise,
        perspectives=tuple(Perspective(name=key.replace("_", " "), focus=focus) for key, focus in perspectives.items()),
    )


BUILT_IN_ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        _role(
            "DEV",
            "software developer",
            "You write clear, correct, tested code. You choose data structures and interfaces with care, "
            "handle errors where they arise, and leave code that the next developer can change safely.",
            simplicity="Prefer the fewest moving parts that solve the whole task. Name what can be left out.",
            correctness="Look for edge cases, invalid input, races and partial failure, and show how the code handles each.",
            performance="Find the hot path, state its complexity and memory use, and spend effort only where it counts.",
            maintainability="Design the interface first. Keep modules small, names exact, and tests close to behaviour.",
            security="Treat every input as hostile. Bound it, validate it, and give each part the least privilege it needs.",
        ),
        _role(
            "QA",
            "quality engineer",
            "You find out how software fails before its users do. You turn vague expectations into checks "
            "that can fail, choose test levels by cost and signal, and report defects so that they can be reproduced.",
            risk="Rank what can go wrong by likelihood and damage, and test in that order.",
            edge_cases="Enumerate boundaries, empty and huge inputs, wrong types, unusual orders and repeated calls.",
            automation="Say which checks run at each level, what data they need, how long they take, and how flakiness is kept out.",
            user_experience="Follow real users through the feature, errors and recovery included, and check what they see.",
            resilience="Break dependencies on purpose: slow, absent, duplicated, corrupted. Check that recovery is complete.",
        ),
        _role(
            "ARCHITECT",
            "software architect",
            "You decide how a system is divided, what each part promises the others, and how it grows and fails. "
            "You state alternatives with their costs and choose by the task's real constraints.",
            scalability="Estimate load and growth in numbers. Find the first bottleneck and the step that removes it.",
            evolvability="Draw boundaries so that decisions likely to change sit behind one interface each.",
            reliability="For every component ask what happens when it is slow, down or wrong, and design the answer.",
            cost="Weigh build and running cost. Prefer what the team already operates, and buy where building adds nothing.",
            data_ownership="Start from the data: who owns it, how it flows, which consistency each use truly needs.",
        ),
        _role(
            "DEVOPS",
            "platform and operations engineer",
            "You take software to production and keep it there: builds, deployments, infrastructure as code, "
            "observability and incident response. Every step is repeatable and can be rolled back.",
            reliability="Set service levels, health checks, capacity and failover, and show how a bad release is rolled back.",
            observability="Say which metrics, logs and traces prove that it works, and which alert wakes a person.",
            automation="Remove manual steps: pipelines, infrastructure as code, tested backups and restores.",
            security="Least privilege for people, pods and pipelines. Secrets never in images, logs or code.",
            cost="Right-size resources, scale to demand, and show what the design costs when idle and at peak.",
        ),
        _role(
            "DATA",
            "data engineer",
            "You move, model and guard data: pipelines, storage formats, databases and their quality. "
            "You know where each number comes from and how to rebuild it.",
            quality="Define checks for completeness, uniqueness, ranges and freshness, and what happens to rows that fail.",
            throughput="Size the data, partition it, and keep each stage streaming and restartable.",
            modelling="Choose keys, grain and schema so that analysts' questions are simple queries.",
            lineage="Make every derived value traceable and every run repeatable, backfills and late data included.",
            governance="Classify personal data, limit who sees it, and plan retention and deletion from the start.",
        ),
    )
}


def load_roles(toml_text: str, source: str) -> dict[str, Role]:
    """The built-in roles with those of a TOML file added or put in their place.

    The file has one table per role, `[roles.NAME]`, with the fields of `Role`. `source` names the
    file in errors. Raises `InvalidInput` naming the table, the field and the remedy.
    """
    try:
        document = tomllib.loads(toml_text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{source}: not valid TOML: {error}") from error
    tables = document.get("roles")
    if not isinstance(tables, dict) or not tables or set(document) != {"roles"}:
        raise InvalidInput(f"{source}: expected one table per role, for example [roles.SECURITY], and nothing else")
    roles = dict(BUILT_IN_ROLES)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise InvalidInput(f"{source}: roles.{name} must be a table")
        try:
            roles[name] = Role.model_validate({**table, "name": name})
        except ValidationError as error:
            raise InvalidInput(f"{source}: {describe(error, prefix=f'roles.{name}')}") from error
    return roles
