"""Bad input, said so that a person can mend it."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError


class Problem(NamedTuple):
    """One thing wrong with one field. `field` is dotted, as in `constraints.requirements.2`."""

    field: str
    message: str


# Nobody mends more at a time, and somebody may send ten thousand.
MOST_PROBLEMS = 20
_REMEDIES = {
    "missing": "add this field",
    "extra_forbidden": "no such field; remove it or check its spelling",
    "string_too_short": "must not be empty",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "dict_type": "must be an object of names and values",
    "model_type": "must be an object of names and values",
}


def problems(error: ValidationError, prefix: str = "") -> list[Problem]:
    """Every problem of a validation error. Input values are left out: they may be long or secret."""
    found = []
    items = error.errors(include_url=False, include_input=False, include_context=False)
    more = len(items) - MOST_PROBLEMS
    items = items[:MOST_PROBLEMS]
    for item in items:
        # Entries that do not hold leave a list too short, which is no fault of its own.
        below = [
            other
            for other in items
            if len(other["loc"]) > len(item["loc"]) and other["loc"][: len(item["loc"])] == item["loc"]
        ]
        if item["type"] == "too_short" and below:
            continue
        path = ".".join(str(part)[:80] for part in item["loc"])
        field = ".".join(part for part in (prefix, path) if part) or "(whole entry)"
        message = _REMEDIES.get(item["type"], item["msg"].removeprefix("Value error, "))
        found.append(Problem(field, message))
    if more > 0:
        found.append(Problem(prefix or "(whole entry)", f"{more} more problems"))
    return found


def describe(error: ValidationError, prefix: str = "") -> str:
    """All problems in one line: `field: what to do; field: what to do`."""
    return "; ".join(f"{problem.field}: {problem.message}" for problem in problems(error, prefix))
