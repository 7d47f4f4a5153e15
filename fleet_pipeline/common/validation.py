"""Validation errors in words that tell a person how to fix the input."""

import re
from typing import NamedTuple

from pydantic import ValidationError


class Problem(NamedTuple):
    """One problem of one field. `field` is a dotted path, as in `constraints.requirements.2`."""

    field: str
    message: str


# Nobody fixes more at a time, and one input may have ten thousand.
MOST_PROBLEMS = 20
_REMEDIES = {
    "missing": "add this field",
    "extra_forbidden": "no such field; remove it or check its spelling",
    "string_too_short": "must not be empty",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "dict_type": "must be an object of names and values",
    "list_type": "must be a list",
    "model_type": "must be an object of names and values",
    "dataclass_type": "must be an object of names and values",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is larger than any number that fits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
# Pydantic speaks of inputs and of Python's types. People have fields.
_SUBJECT = re.compile(
    r"^(?:Value error, |(?:Input|Value|Tuple|List|Set|Dictionary|String|Data|Bytes|Object) (?:should|must) )"
)
_AFTER_VALIDATION = re.compile(r" after validation(?=,|$)")


def problems(error: ValidationError, prefix: str = "") -> list[Problem]:
    """At most `MOST_PROBLEMS` problems, then a count. Input values are omitted: they may be long or secret."""
    result = []
    items = error.errors(include_url=False, include_input=False, include_context=False)
    containers = {item["loc"][:depth] for item in items for depth in range(len(item["loc"]))}
    # Pydantic also calls a list too short because of its invalid entries. Only the entries are at fault.
    items = [item for item in items if item["type"] != "too_short" or item["loc"] not in containers]
    omitted = len(items) - MOST_PROBLEMS
    for item in items[:MOST_PROBLEMS]:
        path = ".".join(str(part)[:80] for part in item["loc"])
        field = ".".join(part for part in (prefix, path) if part) or "(whole entry)"
        message = _REMEDIES.get(item["type"]) or _in_plain_words(item["msg"])
        result.append(Problem(field, message))
    if omitted > 0:
        result.append(Problem(prefix or "(whole entry)", f"{omitted} more problems"))
    return result


def _in_plain_words(message: str) -> str:
    match = _SUBJECT.match(message)
    if match is None:
        return message
    rest = _AFTER_VALIDATION.sub("", message[match.end() :])
    return rest if match.group().startswith("Value error") else f"must {rest}"


def describe(error: ValidationError, prefix: str = "") -> str:
    """The same problems on one line: `field: what to do; field: what to do`."""
    return "; ".join(f"{problem.field}: {problem.message}" for problem in problems(error, prefix))
