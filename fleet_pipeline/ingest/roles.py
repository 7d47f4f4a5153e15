"""Reading a roles file."""

from collections.abc import Mapping

import fsspec

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.roles import BUILT_IN_ROLES, Role, load_roles


def read_roles(location: str | None) -> Mapping[str, Role]:
    """The built-in roles, plus those of the roles file if one is named. Raises `InvalidInput` for a bad file."""
    if location is None:
        return BUILT_IN_ROLES
    try:
        with fsspec.open(location, "rt", encoding="utf-8") as file:
            text = file.read()
    except (OSError, ImportError, ValueError) as error:
        raise InvalidInput(f"roles file {location}: cannot be read: {error}") from error
    return load_roles(text, location)
