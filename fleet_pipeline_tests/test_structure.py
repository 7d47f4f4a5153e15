"""The house: which rooms there are, what each may import, and what may stand in it.

    cli  api  defs                                        programs: commands, services, Dagster definitions
      └────┴───┴──> services                              the use cases
                      └──> settings                       composes the rooms' own options
                             └──> events inference models scoring storage ingest reports instance tools
                                    └──> deliberation     the domain
                                           └──> common

An arrow may pass over floors and never runs up. Rooms on one floor do not know each other, but `cli` starts what is
in `defs` and `api`, and `evaluation` stands beside services. `training` is a workshop beside the house: nothing imports it, and it is not installed.
"""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fleet_pipeline"
TESTS = ROOT / "fleet_pipeline_tests"

ROOMS = ("events", "inference", "models", "scoring", "storage", "ingest", "reports", "instance", "tools")
GROUND = {"common", "deliberation"}
BELOW_SERVICES = {*GROUND, *ROOMS, "settings"}
MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "deliberation": {"common"},
    **dict.fromkeys(ROOMS, GROUND),
    "settings": {*GROUND, "events", "inference", "ingest", "scoring", "tools"},
    "services": BELOW_SERVICES,
    "evaluation": {*GROUND, "storage", "tools"},
    "defs": {*BELOW_SERVICES, "services"},
    "api": {*BELOW_SERVICES, "services"},
    "cli": {*BELOW_SERVICES, "services", "defs", "api", "evaluation"},
    "definitions": {"defs"},
    "client": {"api", "common", "events"},
    "training": {*BELOW_SERVICES, "services", "cli"},
}
# What the domain may not do: I/O, clocks, chance, and the packages around it.
FOREIGN_TO_THE_DOMAIN = {"dagster", "vllm", "nats", "pandas", "pyarrow", "time", "random", "os", "pathlib"}
CLOCKS = {"now", "today", "utcnow", "fromtimestamp"}
MAY_KNOW_DAGSTER = {"instance", "services", "defs", "cli", "training"}
# By one of these a module of `defs` holds a Dagster definition.
MAKES_DEFINITIONS = {
    *("asset", "graph_asset", "multi_asset_check", "op", "job", "define_asset_job", "sensor", "schedule", "logger"),
    *("Definitions", "ConfigurableResource", "ConfigurableIOManager"),
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def imported_names(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_by(room: str) -> set[str]:
    return {name for path in PACKAGE.rglob("*.py") if room_of(path) == room for name in imported_names(path)}


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_every_room_has_a_rule() -> None:
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == {*MAY_IMPORT, "__init__"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    rooms = {name.split(".")[1] for name in imported_by(room) if name.startswith("fleet_pipeline.")}
    assert rooms - {room} <= MAY_IMPORT[room]


def test_no_circle_of_modules() -> None:
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES}
    known = {name: path for path, name in names.items()}
    graph = {
        name: {module for found in imported_names(path) for module in (found, found.rpartition(".")[0])} & known.keys()
        for path, name in names.items()
    }
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("room", ["common", *ROOMS, "services", "evaluation", "defs", "api", "cli", "deliberation"])
def test_a_room_s_door_sign_says_what_belongs_there(room: str) -> None:
    sign = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(sign) > 40


def test_the_domain_does_no_input_or_output_and_reads_no_clock() -> None:
    assert tops(imported_by("deliberation")) & FOREIGN_TO_THE_DOMAIN == set()
    for path in (PACKAGE / "deliberation").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & CLOCKS == set()


def test_only_the_upper_rooms_and_the_instance_know_dagster() -> None:
    assert {room for room in MAY_IMPORT if "dagster" in tops(imported_by(room))} <= MAY_KNOW_DAGSTER


def test_private_dagster_is_imported_in_one_room_with_the_reason_beside_it() -> None:
    for path in PACKAGE.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if not line.lstrip().startswith(("from dagster._", "import dagster._")):
                continue
            assert room_of(path) == "instance", f"{path}:{number + 1}"
            above = next(n for n in range(number, -1, -1) if "dagster._" not in lines[n])
            assert "# Not exported by `dagster`" in " ".join(lines[above - 1 : above + 1]), f"{path}:{number + 1}"


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "defs"], ids=lambda path: path.stem)
def test_every_module_of_defs_holds_a_dagster_definition(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "dg"}
    assert used & MAKES_DEFINITIONS


def test_nothing_that_runs_needs_the_code_that_trains_and_it_is_not_installed() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if room_of(path) != "training"]
    assert not [path for path in others if any(".training" in name for name in imported_names(path))]
    from setuptools import find_packages

    where = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"][
        "find"
    ]
    installed = find_packages(str(ROOT), include=where["include"], exclude=where["exclude"])
    assert "fleet_pipeline.services" in installed
    assert not [name for name in installed if "training" in name or "tests" in name]


def test_the_public_client_is_what_it_was() -> None:
    import fleet_pipeline.client

    answers = {"DeliberationStatus", "Status", "Submitted"}
    names = {"AsyncClient", "BrokerUnavailable", "Client", "InvalidInput", "StreamMismatch", *answers}
    assert set(fleet_pipeline.client.__all__) == names
    assert all(hasattr(fleet_pipeline.client, name) for name in names)


TEST_MODULES = sorted(TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("path", TEST_MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_module_says_its_layer_and_imports_no_other_test(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "\npytestmark = " in text
    assert not [name for name in imported_names(path) if ".test_" in name]


def test_helpers_of_tests_hold_no_test() -> None:
    for path in (TESTS / "support").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not [name for name in functions if name.startswith("test_")], path


def test_the_unit_layer_can_be_collected_without_what_it_does_not_need() -> None:
    look = "import sys, pytest; code = pytest.main(['-m', 'unit', '--collect-only', '-q', '-p', 'no:cacheprovider']); "
    look += "print('IMPORTED', sorted({'dagster', 'vllm', 'torch', 'playwright', 'nats'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("IMPORTED []"), done.stdout[-2_000:]
