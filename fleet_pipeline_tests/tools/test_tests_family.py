"""Runners of tests: what they tell, and what does not keep them from it."""

import json
import shutil

import pytest

from fleet_pipeline_tests.support.tool_world import World

pytestmark = pytest.mark.unit


def test_settings_of_pytest_above_the_workspaces_do_not_keep_tests_from_being_run(world: World) -> None:
    """Workspaces lie in the project's own `.fleet`: its pyproject.toml was found, and could not be read."""
    for name in ("pyproject.toml", "pytest.ini"):
        (world.root / name).write_text(
            "[pytest]\naddopts = --no-such-option\n[tool.pytest.ini_options]\naddopts = '--no-such-option'\n"
        )
    assert world.call("tests.pytest").facts["passed"] == 1
    world.workspace.tree.write("pytest.ini", b"[pytest]\npython_files = check_*.py\n")  # one's own counts
    assert world.call("tests.pytest").facts["tests"] == 0


def test_tests_are_run_and_counted(world: World) -> None:
    passed = world.call("tests.pytest")
    assert passed.ok, passed
    assert (passed.facts["tests"], passed.facts["passed"]) == (1, 1)
    world.call("files.write_file", path="app.py", content="def one():\n    return 3\n")
    failed = world.call("tests.pytest", path="test_app.py", verbose=True)
    assert (failed.ok, failed.outcome, failed.facts["failures"]) == (False, "failed", 1)
    assert "assert 3 == 1" in failed.output
    marked = world.call("tests.pytest", markers="not slow")
    assert marked.facts["tests"] == 1
    assert world.call("tests.pytest", markers="-p evil").outcome == "refused"


def test_unittest_and_make_run_in_the_workspace(world: World) -> None:
    world.call(
        "files.write_file",
        path="test_u.py",
        content="import unittest\nclass T(unittest.TestCase):\n def test(self): pass\n",
    )
    assert world.call("tests.unittest").facts["tests"] == 1
    world.call("files.write_file", path="Makefile", content="check:\n\t@echo made > made.txt; cat made.txt\n")
    assert world.call("tests.make_test", target="check").output == "made"
    assert world.call("tests.make_test", target="--eval=x:;id").outcome == "refused"


@pytest.mark.parametrize(("program", "name"), [("npm", "npm_test"), ("cargo", "cargo_test"), ("go", "go_test")])
def test_a_runner_that_is_not_there_says_so(world: World, program: str, name: str) -> None:
    if shutil.which(program, path="/usr/local/bin:/usr/bin:/bin"):
        assert world.call(f"tests.{name}").outcome == "failed"  # there is no package here
    else:
        assert world.call(f"tests.{name}").error == f"{program} is not installed here"


def test_a_test_that_hangs_is_stopped_with_what_it_said(world: World) -> None:
    world.call("files.write_file", path="test_h.py", content="def test_h():\n    import time\n    time.sleep(100)\n")
    result = world.call("tests.pytest", path="test_h.py", timeout=3)
    assert (result.outcome, result.error) == ("failed", "stopped by the bound on time")
    world.unharmed()


def test_a_report_that_a_test_has_written_itself_is_read_without_harm(world: World) -> None:
    """Entities that grow, and numbers that are none."""
    hidden = '<?x <testsuite ?><!DOCTYPE r [<!ENTITY a "3">]><r><testsuite tests="&a;"/></r>'
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><testsuite tests="&b;"/>'
    for text in (
        bomb,
        hidden,
        "<r>" + '<testsuite tests="' + "9" * 4_300 + '"/></r>',
        '<testsuite tests="many"/>',
        "<",
        '<testsuite tests="1"' + " " * 1_000,
    ):
        code = f"import os\ndef pytest_unconfigure(config):\n    for p in os.listdir(os.environ['HOME']): open(os.path.join(os.environ['HOME'], p), 'w').write({text!r})\n"
        world.call("files.write_file", path="conftest.py", content=code)
        result = world.call("tests.pytest")
        assert result.outcome in ("ok", "failed")
        assert not result.facts.get("tests"), text
        json.dumps(dict(result.facts))


def test_a_file_of_arguments_is_no_way_to_give_pytest_options(world: World) -> None:
    world.workspace.tree.write("@args", b"")
    world.workspace.tree.write("args", b"--collect-only\n")
    assert not world.call("tests.pytest", path="@args").ok
    assert world.call("tests.pytest", path="test_app.py").facts["passed"] == 1


def test_settings_of_cargo_above_the_workspaces_are_named_with_the_remedy(world: World) -> None:
    """Cargo reads every folder above, and its tests failed with a denial that no agent could do anything about."""
    (world.root / "Cargo.toml").touch()
    result = world.call("tests.cargo_test")
    assert result.outcome == "refused"
    assert f"{world.root / 'Cargo.toml'}" in result.error
    assert "tools.workspaces" in result.error
