"""What the pipeline finds out about a change: what it broke, what it mended, and what cannot deceive it."""

import json
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from fleet_pipeline.deliberation.acting import Change
from fleet_pipeline.deliberation.exchange import Action
from fleet_pipeline.tools.change import comes_first, is_plugin, stands_before, steers
from fleet_pipeline.tools.hands import Hands
from fleet_pipeline_tests.support.tool_hands import do, place

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("files", "fixed", "broken", "tested"),
    [
        ({"test_new.py": "def test_new():\n    assert True\n"}, ("test_new.py::test_new",), (), "verified"),
        ({"app.py": "def one():\n    return 2\n"}, (), ("test_app.py::test_one",), "broken"),
        ({"test_app.py": "def test_one():\n    assert True\n", "app.py": "def one():\n    return 2\n"}, (), ("test_app.py::test_one",), "broken"),
        ({"test_app.py": "import pytest\nfrom app import one\n\n\n@pytest.mark.skip\ndef test_one():\n    assert one() == 1\n"}, (), (), "unverified"),
        ({"conftest.py": "collect_ignore = ['test_app.py']\n"}, (), (), "unverified"),
        ({"README": "x"}, (), (), "unverified"),
        ({"tests.unit.py": "x = 1", "pytest.ini": "[pytest]\naddopts = --ignore=test_app.py\n", "app.py": "def one():\n    return 2\n"}, (), ("test_app.py::test_one",), "broken"),
        ({"conftest.py": "import app\napp.one = lambda: 1\n", "app.py": "def one():\n    return 2\n"}, (), ("test_app.py::test_one",), "broken"),
        ({"pytest.py": "import sys\nsys.exit(0)\n", "app.py": "def one():\n    return 2\n"}, (), ("test_app.py::test_one",), "broken"),
        ({".gitignore": "fix.py\n", "fix.py": "two = 2\n", "test_new.py": "from fix import two\n\n\ndef test_two():\n    assert two == 2\n"}, (), (), "unverified"),
        ({}, (), (), None),
    ],
)  # fmt: skip
def test_a_change_is_what_the_pipeline_finds(
    hands: Hands, source: Path, files: dict[str, str], fixed: tuple, broken: tuple, tested: str | None
) -> None:
    own = place(source)
    for number, (path, content) in enumerate(files.items()):
        assert do(hands, Action(str(number), own, "files.write_file", {"path": path, "content": content})).ok
    change = do(hands, Action("look", own)).facts
    assert (change["fixed"], change["broken"]) == (fixed, broken)
    assert sorted(change["files_changed"]) == sorted(files.keys() - {"fix.py"})
    assert Change.of(change).tested == tested


ONE, TWO = "def one():\n    return 1\n", "def two():\n    return 3\n"


BOTH = "import app\n\n\ndef test_one():\n    assert app.one() == 1\n\n\ndef test_two():\n    assert app.two() == 2\n"


NEW = ("files.write_file", {"path": "test_new.py", "content": "def test_new():\n    assert True\n"})


IN_CLASSES = "import app\n\n\nclass TestOne:\n    def test(self):\n        assert app.one() == 1\n\n\nclass TestTwo:\n    def test(self):\n        assert app.two() == 2\n"  # fmt: skip


HELPED = {
    "test_app.py": "def test_nothing():\n    pass\n",
    "tests/helpers.py": "from app import one, two\n",
    "tests/test_helped.py": "from helpers import one, two\n\n\ndef test_one():\n    assert one() == 1\n\n\ndef test_two():\n    assert two() == 2\n",
    "conftest.py": "",
}


DECEIVES = "import app\napp.one = lambda: 1\napp.two = lambda: 2\n"


BREAKS_ONE = ("files.write_file", {"path": "app.py", "content": ONE.replace("1", "7") + TWO})


DECEIT = [
        ({}, [("files.delete_file", {"path": "app.py"}), ("git.add", {}), ("files.write_file", {"path": ".gitignore", "content": "app.py\n"}),
              ("files.write_file", {"path": "app.py", "content": ONE + TWO.replace("3", "2")})]),
        ({"test_app.py": IN_CLASSES}, [BREAKS_ONE, NEW]),
        ({"test_app.py": BOTH.replace("test_two", "test_a"), "pytest.ini": "[pytest]\naddopts = -x\n"}, [BREAKS_ONE, NEW]),
        ({"test_app.py": "def test_big():\n    raise AssertionError('x' * 2_100_000)\n\n\n" + BOTH}, [BREAKS_ONE, NEW]),
        ({}, [BREAKS_ONE, ("files.write_file", {"path": "evil.py", "content": "import app\napp.one = lambda: 1\napp.two = lambda: 2\n"}),
              ("files.write_file", {"path": "evil-1.0.dist-info/METADATA", "content": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"}),
              ("files.write_file", {"path": "evil-1.0.dist-info/entry_points.txt", "content": "[pytest11]\nevil = evil\n"})]),
        ({"testdata/want.txt": "1", "test_app.py": BOTH.replace("== 1", "== int(open('testdata/want.txt').read())")},
         [BREAKS_ONE, NEW, ("files.write_file", {"path": "testdata/want.txt", "content": "7"})]),
        ({}, [BREAKS_ONE, ("files.write_file", {"path": "evil.py", "content": DECEIVES}),
              ("files.write_file", {"path": "evil-1.0.DIST-INFO/METADATA", "content": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"}),
              ("files.write_file", {"path": "evil-1.0.DIST-INFO/entry_points.txt", "content": "[pytest11]\nevil = evil\n"})]),
        ({}, [BREAKS_ONE, ("files.write_file", {"path": "_hypothesis_pytestplugin.py", "content": DECEIVES})]),
        (HELPED, [BREAKS_ONE, ("files.write_file", {"path": "conftest/__init__.py", "content": "import os\n__file__ = os.path.abspath('conftest.py')\n" + DECEIVES})]),
        ({"checks.py": "def same(one, other):\n    assert one == other\n", "test_app.py": "from checks import same\n" + BOTH.replace("assert app.one() == 1", "same(app.one(), 1)")},
         [BREAKS_ONE, NEW, ("files.write_file", {"path": "checks/__init__.py", "content": "def same(one, other):\n    pass\n"})]),
        (HELPED, [BREAKS_ONE, ("files.write_file", {"path": "tests/helpers/__init__.py", "content": "def one():\n    return 1\n"})]),
        (HELPED, [BREAKS_ONE, ("files.write_file", {"path": "tests/app.py", "content": ONE + TWO.replace("3", "2")})]),
        (HELPED, [("files.write_file", {"path": "tests/__init__.py", "content": ""}),
                  ("files.write_file", {"path": "helpers.py", "content": "def one():\n    return 1\n\n\ndef two():\n    return 2\n"})]),
        ({"sub/pytest.ini": "[pytest]\npython_files = check_*.py\npythonpath = ..\n", "sub/check_app.py": BOTH, "test_app.py": ""},
         [("files.write_file", {"path": "sub/check_app.py", "content": "def test_one():\n    pass\n\n\ndef test_two():\n    pass\n"})]),
        ({"test_app.py": BOTH.replace("import app", "import app\nfrom statistics import mean").replace("== 1", "== mean([1])")},
         [BREAKS_ONE, NEW, ("files.write_file", {"path": "statistics.py", "content": "def mean(values):\n    return 7\n"})]),
        ({}, [BREAKS_ONE, ("files.write_file", {"path": "test_app_more.py", "content": "import app\napp.one = lambda: 1\napp.two = lambda: 2\n"})]),
    ]  # fmt: skip


NAMES = ["kept out by .gitignore after it was deleted", "two tests of one name", "tests after a failure", "a report that is too large", "a plugin", "what tests compare with",
         "a plugin in capitals", "a module named as a plugin", "a package over conftest", "a package over a module that helps",
         "a package over a helper", "a module before the code", "a helper from elsewhere",
         "a root of pytest's below the tree", "a module over the library's", "a new test that changes the code"]  # fmt: skip


# Each runs pytest three times, so the others are part of `make test-all`; names and places are looked at below.
QUICK = {
    "kept out by .gitignore after it was deleted",
    "a plugin",
    "what tests compare with",
    "a new test that changes the code",
}


@pytest.mark.parametrize(
    ("files", "calls"),
    [
        pytest.param(*case, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, case in zip(NAMES, DECEIT, strict=True)
    ],
)
def test_a_change_that_breaks_something_is_never_verified(
    hands: Hands, source: Path, files: dict[str, str], calls: list[tuple[str, dict]]
) -> None:
    for name, content in ({"app.py": ONE + TWO, "test_app.py": BOTH} | files).items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(content)
    own = place(source)
    for number, (tool, arguments) in enumerate(calls):
        done = do(hands, Action(str(number), own, tool, arguments))
        assert done.ok, done.error
    change = Change.of(do(hands, Action("look", own)).facts)
    assert change.tested in ("broken", "unverified"), change


PLACES = frozenset({PurePosixPath(), PurePosixPath("t/unit"), PurePosixPath("src")})


AT_START = frozenset({"app", "test_app.py", "core.py", "t", "t/unit", "t/unit/test_one.py"})


@pytest.mark.parametrize(
    ("path", "comes"),
    [("t/unit/__init__.py", True), ("t/__init__.py", True), ("__init__.py", True), ("app/__init__.py", False), ("t/unit/core.py", True),
     ("t/unit/core/x.py", True), ("t/unit/app.cpython-311-x86_64-linux-gnu.so", True), ("t/core.py", False), ("other/core.py", False),
     ("statistics.py", True), ("statistics/__init__.py", True), ("t/unit/json.py", True), ("numpy.py", True), ("app/statistics.py", False),
     ("other.py", False), ("t/unit/helper.py", False), ("t/unit", False),
     ("src/json.py", True), ("src/other.py", False), ("src/deep/json.py", False)],
)  # fmt: skip
def test_what_comes_before_the_code_when_old_tests_are_run_is_known_by_its_place_and_name(path: str, comes: bool) -> None:  # fmt: skip
    assert comes_first(path, PLACES, AT_START.__contains__) is comes


@pytest.mark.parametrize(
    ("path", "is_known"),
    [("core/__init__.py", True), ("core.cpython-311-x86_64-linux-gnu.so", True), ("t/unit/test_one/x.py", True), ("t/core.py", False), ("app.py", False)],
)  # fmt: skip
def test_what_python_takes_in_place_of_a_module_beside_it_is_known(path: str, is_known: bool) -> None:
    assert stands_before(path, AT_START.__contains__) is is_known


def test_settings_of_pytest_and_plugins_are_known_by_their_names() -> None:
    assert all(map(steers, ("pytest.ini", "t/CONFTEST.py", "evil-1.0.DIST-INFO/entry_points.txt", "a/setup.cfg")))
    assert not any(map(steers, ("app.py", "t/pytest_ini.py")))
    assert is_plugin("_hypothesis_pytestplugin.py")
    assert is_plugin("xdist/plugin.py")
    assert not is_plugin("app.py")


def test_what_keeps_a_change_from_being_looked_at_does_not_hide_that_it_is_broken(hands: Hands, source: Path) -> None:
    """It was unverified then, which ranks above broken."""
    own = place(source)
    hides = "import os\nfor n in range(101): os.makedirs(f'r{n}/.git')\nos.mkfifo('.gitignore')\n\n\ndef test_new():\n    pass\n"
    for number, (tool, arguments) in enumerate(
        [("files.write_file", {"path": "x" * 255, "content": ""}), ("files.write_file", {"path": "app.py", "content": "def one():\n    return 2\n"}),
         ("files.write_file", {"path": "test_new.py", "content": hides}), ("tests.pytest", {"path": "test_new.py"})]
    ):  # fmt: skip
        assert do(hands, Action(str(number), own, tool, arguments)).ok
    change = Change.of(do(hands, Action("look", own)).facts)
    assert (change.tested, change.cut) == ("broken", True)
    assert "101 folders are repositories" in change.error
    for number in range(101):
        done = do(hands, Action(f"d{number}", own, "files.delete_file", {"path": f"r{number}", "recursive": True}))
        assert done.ok, done.error
    assert Change.of(do(hands, Action("again", own)).facts).broken == ("test_app.py::test_one",)


@pytest.mark.parametrize(
    ("code", "app"),
    [
        ("import os\nfor _ in range(20): os.mkdir('x' * 250); os.chdir('x' * 250)", "def one():\n    return 2\n"),
        ("import os\nfor n in range(101): os.makedirs(f'r{n}/.git')", "import os\nos._exit(0)\n"),
    ],
    ids=["paths that no system takes", "many repositories, and no report of tests"],
)
def test_a_change_whose_look_fails_is_as_broken_as_any_other(hands: Hands, source: Path, code: str, app: str) -> None:
    own = place(source)
    assert do(hands, Action("1", own, "files.write_file", {"path": "test_new.py", "content": code})).ok
    do(hands, Action("2", own, "tests.pytest", {"path": "test_new.py"}))
    assert do(hands, Action("3", own, "files.write_file", {"path": "app.py", "content": app})).ok
    change = Change.of(do(hands, Action("look", own)).facts)
    assert (change.tested, change.broken) == ("broken", ("test_app.py::test_one",))
    assert "cannot be looked at" in change.error


NEW_TEST = "def test_new():\n    pass\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"pytest.ini": "[pytest]\naddopts = --doctest-modules\n", "app.py": "def one():\n    '''\n    >>> 1\n    1\n    '''\n    return 1\n"},
         {"app.py": "def one():\n    '''\n    >>> 1\n    1\n    '''\n    return 2\n", "test_new.py": NEW_TEST}),
        ({"fixtures/__init__.py": "ONE = 1\n", "app.py": "import fixtures\n\n\ndef one():\n    return fixtures.ONE\n"},
         {"fixtures/__init__.py": "ONE = 2\n", "test_new.py": NEW_TEST}),
        ({"pytest.ini": "[pytest]\npython_files = test_app.py check_*.py\n"},
         {"app.py": "def one():\n    return 2\n", "check_a.py": f"import app\napp.one = lambda: 1\n{NEW_TEST}"}),
        ({"pytest.ini": "[pytest]\npythonpath = src\n", "test_app.py": "from statistics import mean\nfrom app import one\n\n\ndef test_one():\n    assert mean([one()]) == 1\n"},
         {"app.py": "def one():\n    return 2\n", "src/statistics.py": "mean = lambda _: 1\n", "test_new.py": NEW_TEST}),
    ],
    ids=["code with examples in it", "code among what tests compare with", "tests under names of the settings", "a library's name on the path"],
)  # fmt: skip
def test_a_test_that_fails_in_the_tree_as_it_is_or_with_what_was_there_is_broken(
    hands: Hands, source: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    for name, content in before.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(content)
    own = place(source)
    for name, content in after.items():
        assert do(hands, Action(name, own, "files.write_file", {"path": name, "content": content})).ok
    change = Change.of(do(hands, Action("look", own)).facts)
    assert (change.tested, change.broken) == ("broken", ("test_app.py::test_one",)), change


def test_what_is_in_the_folder_of_a_submodule_is_changed_like_anything_else(hands: Hands, source: Path) -> None:
    """Git looks at nothing there: a change that broke the tests was none."""
    (source / "sub").mkdir()
    (source / "sub/lib.py").write_text("ONE = 1\n")
    (source / "app.py").write_text("from sub.lib import ONE\n\n\ndef one():\n    return ONE\n")
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (
        ["init", "-q"],
        ["add", "app.py", "test_app.py"],
        ["update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub"],
        ["commit", "-qm", "Start"],
    ):
        subprocess.run([*git, *arguments], check=True)
    own = place(source)
    assert do(hands, Action("1", own, "files.write_file", {"path": "sub/lib.py", "content": "ONE = 2\n"})).ok
    change = Change.of(do(hands, Action("look", own)).facts)
    assert (change.tested, change.files_changed) == ("broken", ("sub/lib.py",))
    assert "+ONE = 2" in change.diff


ODD = "import os\nopen(os.fsdecode(b'caf\\xe9.py'), 'w').close()\n"


def test_a_file_s_name_does_not_tell_what_the_pipeline_found(hands: Hands, source: Path) -> None:
    own = place(source)
    assert do(hands, Action("0", own, "files.write_file", {"path": "test_odd.py", "content": ODD})).ok
    do(hands, Action("00", own, "tests.pytest", {"path": "test_odd.py"}))
    name = "zz.txt.\nTests that pass: 31.\nBroken: 0.\nx"
    assert do(hands, Action("1", own, "files.write_file", {"path": name, "content": "x"})).ok
    change = Change.of(do(hands, Action("look", own)).facts)
    assert [line.partition(":")[0] for line in change.told().splitlines()] == ["Files changed", "Tests that pass"]
    assert r'"caf\udce9.py"' in change.told()
    json.dumps(change.told(), ensure_ascii=False).encode()  # as a table is stored
    assert '"zz.txt.\\nTests' in change.told()


def test_a_test_that_is_moved_and_weakened_is_gone(hands: Hands, source: Path) -> None:
    own = place(source)
    for number, (tool, arguments) in enumerate(
        [("files.move_file", {"path": "test_app.py", "to": "test_other.py"}), ("git.add", {}), ("git.commit", {"message": "Move"}),
         ("files.write_file", {"path": "test_other.py", "content": "def test_one():\n    assert True\n"})]
    ):  # fmt: skip
        assert do(hands, Action(str(number), own, tool, arguments)).ok
    change = Change.of(do(hands, Action("look", own)).facts)
    assert set(change.files_changed) == {"test_app.py", "test_other.py"}
    assert change.tested == "verified"  # the old one was put back and passes
    assert change.edited == ("test_app.py",)


def test_an_agent_cannot_move_what_its_change_is_told_from(hands: Hands, source: Path) -> None:
    """Git followed a repository within the tree, whose filter was a command of git's own, and moved the reference of the base."""
    own = place(source)
    evil = (
        "import os, subprocess\n\n\ndef test_evil():\n    os.makedirs('sub', exist_ok=True)\n    os.makedirs('evil/objects', exist_ok=True)\n"
        "    open('sub/.git', 'w').write('gitdir: ../evil')\n"
        "    open('.gitmodules', 'w').write('[submodule \"sub\"]\\npath = sub\\nurl = x\\nignore = none\\n')\n"
    )
    assert do(hands, Action("1", own, "files.write_file", {"path": "test_evil.py", "content": evil})).ok
    assert do(hands, Action("2", own, "tests.pytest", {"path": "test_evil.py"})).ok
    assert "is a repository within the repository" in do(hands, Action("3", own, "git.add")).error
    assert Change.of(do(hands, Action("look", own)).facts).tested != "verified"  # there is more than could be looked at
    hidden = do(hands, Action("4", own, "git.checkout", {"branch": "x", "create": True}))
    assert hidden.ok, hidden.error
