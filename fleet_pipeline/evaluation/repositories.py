"""Twenty small repositories, each with a task, tests that agents see, and tests that they do not.

description = what is to be done
[files]     = the repository: one or two modules and a visible test, which passes before and after
[hidden]    = tests of the task; some fail before
[solution]  = files that make them all pass: it shows that the task can be done, and no agent sees it
"""

import ast
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fleet_pipeline.common.errors import InvalidInput


@dataclass(frozen=True)
class Repository:
    """Files are texts by their names, all in one folder."""

    name: str
    description: str
    files: Mapping[str, str]
    hidden: Mapping[str, str]
    solution: Mapping[str, str]

    @property
    def hidden_tests(self) -> frozenset[str]:
        """As pytest names them, without parameters: `file.py::test_name`."""
        return frozenset(
            f"{file}::{function.name}"
            for file, text in self.hidden.items()
            for function in ast.parse(text).body
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
        )

    def write(self, folder: Path) -> Path:
        """Write its files into a folder of its name below `folder`, in place of what was there of them."""
        own = folder / self.name
        own.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (own / name).write_text(text, encoding="utf-8")
        return own


def repositories(names: Sequence[str] = ()) -> list[Repository]:
    """Those of these names, or all, by name. Raises `InvalidInput` for one that is not there."""
    folder = resources.files("fleet_pipeline.evaluation") / "repositories"
    found = {
        one.name.removesuffix(".toml"): one.read_text(encoding="utf-8")
        for one in folder.iterdir()
        if one.name.endswith(".toml")
    }
    if unknown := set(names) - set(found):
        raise InvalidInput(f"no repository {', '.join(sorted(unknown))}; there are {', '.join(sorted(found))}")
    return [Repository(name=name, **tomllib.loads(found[name])) for name in sorted(names or found)]
