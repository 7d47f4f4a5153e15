"""The workspace's repository, by git in the sandbox.

The repository lies beside the tree, where no operation and no program can write but these. Hooks, filters, helpers and the
user's configuration are off; `origin` is the repository as it was when the workspace was made. Nothing goes over a network:
`push` keeps a branch at the workspace's own origin, and what becomes of it is the pipeline's to decide.
"""

import re
import shutil
import stat
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.families.files import PathArgument
from fleet_pipeline.tools.operation import Box, Changes, Family, Output, checked_argument
from fleet_pipeline.tools.sandbox.sandbox import Outcome
from fleet_pipeline.tools.sources import BASE, GIT_ENVIRONMENT, GIT_OPTIONS, ORIGIN
from fleet_pipeline.tools.tree import Tree

FAMILY = Family(
    "git",
    "The workspace's repository: status, history, branches and commits.",
    lambda box: "" if shutil.which("git") else "git is not installed here",
    Changes.TREE,
)
Branch = Annotated[str, Field(min_length=1, max_length=200, description="The name of a branch.")]
_PATCH = "change.patch"
_MOST_NESTED = 100  # repositories in the repository, which are left out one by one
# These write neither to the tree nor to the repository, and cannot. GIT_OPTIONAL_LOCKS keeps `status` from it.
_READS = frozenset({"status", "log", "diff", "show", "ls-files", "rev-parse", "symbolic-ref", "merge-base"})
_BRANCH = re.compile(r"[\w][\w./+-]*")


@FAMILY.operation(executes=True)
def status(box: Box, short: Annotated[bool, Field(description="One line a file.")] = False) -> Output:
    """Which files are changed, added or removed."""
    return _said(_git(box, "status", "--ignore-submodules=all", *(["--short"] if short else [])))


@FAMILY.operation(writes=True, executes=True)
def add(box: Box, paths: Annotated[tuple[str, ...], Field(max_length=1_000, description="Empty: all.")] = ()) -> Output:
    """Take changes of files into the next commit."""
    if nested := _surveyed(box).nested:
        raise Refused(
            f"{nested[0]}: is a repository within the repository, and git would take none of its files; remove it"
        )
    return _said(_git(box, "add", "--all", "--", *(_within(box, path) for path in paths or (".",))))


@FAMILY.operation(writes=True, executes=True)
def commit(
    box: Box,
    message: Annotated[str, Field(min_length=1, max_length=10_000)],
    author: Annotated[str, Field(max_length=200, description="As Name <address>.")] = "fleet agent <agent@localhost>",
) -> Output:
    """Commit what was added. The commit's id is among the facts."""
    if not re.fullmatch(r"[^<>\x00-\x1f-][^<>\x00-\x1f]*<[^<>\x00-\x1f ]*>", author):
        raise Refused(f"author {author!r}: give it as Name <address>")
    name, _, address = author[:-1].partition("<")
    who = ("-c", f"user.name={name.strip()}", "-c", f"user.email={address}")
    done = _git(box, "commit", f"--message={message}", "--no-verify", before=who)
    if not done.ok:
        return _said(done)
    sha = _git(box, "rev-parse", "HEAD").output.decode().strip()
    return Output(_text(done), facts={"commit": sha})


@FAMILY.operation(executes=True)
def log(
    box: Box,
    max_count: Annotated[int, Field(ge=1, le=1_000)] = 10,
    oneline: Annotated[bool, Field(description="One line a commit.")] = False,
) -> Output:
    """The history, newest first."""
    return _said(
        _git(box, "log", f"--max-count={max_count}", "--no-show-signature", *(["--oneline"] if oneline else []))
    )


@FAMILY.operation(executes=True)
def diff(
    box: Box,
    cached: Annotated[bool, Field(description="What was added, against the last commit.")] = False,
    files: Annotated[tuple[str, ...], Field(max_length=1_000, description="Empty: all.")] = (),
) -> Output:
    """What is changed, as a unified diff."""
    which = ["--cached"] if cached else []
    return _said(
        _git(
            box,
            "diff",
            "--text",
            "--ignore-submodules=all",
            "--no-ext-diff",
            "--no-textconv",
            *which,
            "--",
            *(_within(box, one) for one in files),
        )
    )


@FAMILY.operation(executes=True)
def show(box: Box, commit: Annotated[str, Field(max_length=200, description="A commit or branch.")] = "HEAD") -> Output:
    """One commit: its message and its changes."""
    return _said(_git(box, "show", "--text", "--no-ext-diff", "--no-textconv", _reference(commit), "--"))


@FAMILY.operation(executes=True, changes=Changes.TREE)
def branch(
    box: Box,
    list_all: Annotated[bool, Field(description="Those of origin as well.")] = False,
    delete: Annotated[str | None, Field(max_length=200, description="A branch to delete.")] = None,
) -> Output:
    """List branches, or delete one."""
    if delete is not None:
        box.must_change("git.branch with delete")
        return _said(_git(box, "branch", "--delete", "--force", "--", _branch(delete)))
    return _said(_git(box, "branch", "--list", *(["--all"] if list_all else [])))


@FAMILY.operation(writes=True, executes=True)
def checkout(box: Box, branch: Branch, create: Annotated[bool, Field(description="Make it first.")] = False) -> Output:
    """Change to a branch."""
    return _said(_git(box, "switch", "--no-guess", *(["--create"] if create else []), _branch(branch)))


@FAMILY.operation(writes=True, executes=True)
def restore(box: Box, paths: Annotated[tuple[PathArgument, ...], Field(min_length=1, max_length=1_000)]) -> Output:
    """Undo changes of files since the last commit."""
    return _said(
        _git(box, "restore", "--staged", "--worktree", "--source=HEAD", "--", *(_within(box, one) for one in paths))
    )


@FAMILY.operation(writes=True, executes=True)
def push(box: Box, branch: Annotated[str | None, Field(max_length=200, description="The current one when absent.")] = None,
         force: Annotated[bool, Field(description="Also where origin's branch has other commits.")] = False) -> Output:  # fmt: skip
    """Keep a branch at the workspace's origin, from where the pipeline takes it."""
    name = _branch(branch) if branch else _current(box)
    if not force:
        behind = _git(box, "merge-base", "--is-ancestor", f"{ORIGIN}{name}", f"refs/heads/{name}")
        if behind.code == 1:
            return Output(
                "", ok=False, error=f"git.push: origin's {name} has commits that yours lacks; pull first, or force"
            )
    done = _git(box, "update-ref", f"{ORIGIN}{name}", f"refs/heads/{name}")
    return Output(f"{name} is kept at origin") if done.ok else _said(done)


@FAMILY.operation(writes=True, executes=True)
def pull(
    box: Box, branch: Annotated[str | None, Field(max_length=200, description="The current one when absent.")] = None
) -> Output:
    """Take over what origin's branch has."""
    name = _branch(branch) if branch else _current(box)
    return _said(_git(box, "merge", "--ff-only", "--no-verify-signatures", f"{ORIGIN}{name}"))


@FAMILY.operation(writes=True, executes=True)
def clone(
    box: Box, branch: Annotated[str, Field(max_length=200, description="A branch of origin.")] = "main"
) -> Output:
    """Begin again: the tree as origin's branch has it. Everything that is not committed is lost."""
    done = _git(box, "switch", "--force-create", _branch(branch), f"{ORIGIN}{branch}", "--discard-changes")
    return _said(done) if not done.ok else _said(_git(box, "clean", "-ffdxq"))


@dataclass(frozen=True)
class Artifacts:
    """What has become of a workspace since it was made."""

    commits: tuple[str, ...]  # newest first
    files_changed: tuple[str, ...]
    ignored: tuple[str, ...]  # files and folders that are left out, because a `.gitignore` of the tree names them
    diff: str
    cut: bool  # whether there is more: than the bound on output lets through, or than git could take


def artifacts(box: Box, base: str = BASE) -> Artifacts:
    """Takes everything that is not committed into the index, new files included: call it when the work is done.

    `base` is the commit that the workspace started from. The reference of that name lies where the agent's own git can write.
    """
    survey = _surveyed(box)
    nested = survey.nested
    if len(nested) > _MOST_NESTED:
        raise Refused(f"{len(nested)} folders are repositories of their own; at most {_MOST_NESTED} are looked at")
    kept = [one for one in nested if one != "."]
    added = _git(box, "add", "--all", "--ignore-errors", "--", ".", *(f":(exclude,literal){one}" for one in kept))
    commits = _git(box, "log", "--format=%H", f"{base}..HEAD")
    # Without renames: a file that moved is one that is gone, and another.
    since = ("diff", "--cached", "--no-ext-diff", "--no-renames")
    names = _git(box, *since, "--name-only", "--ignore-submodules=all", "-z", base)
    # As text: one NUL byte would hide a whole file from whoever reads the diff.
    diff = _git(box, *since, "--text", "--no-textconv", "--ignore-submodules=all", base)
    left = _ignored(box)
    raw = _git(box, *since, "--raw", "--ignore-submodules=none", base)
    return Artifacts(
        tuple(commits.output.decode().split()),
        _names(names),
        _names(left),
        _text(diff),
        bool(nested)
        or survey.closed
        or b" 160000 " in raw.output
        or any(one.cut or not one.ok for one in (added, commits, names, left, diff, raw)),
    )


def ignored(box: Box) -> tuple[str, ...]:
    """Files and folders that a `.gitignore` of the tree keeps out; a folder ends in a slash. Raises `Refused` where git was stopped."""
    done = _ignored(box)
    if not done.ok:
        raise Refused(f"what git ignores is not known: {_said(done).error}")
    return _names(done)


def _ignored(box: Box) -> Outcome:
    return _git(box, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z")


def apply(box: Box, patch: str) -> Output:
    """Make the changes of a unified diff, in files of the tree."""
    with Tree(box.workspace.home) as home:
        home.write(_PATCH, patch.encode(errors="replace"))
    return _said(_git(box, "apply", "--whitespace=nowarn", str(box.workspace.home / _PATCH)))


def put_back(box: Box, base: str, paths: tuple[str, ...]) -> Output:
    """Put files back as they were in `base`."""
    names = "\0".join(_within(box, path) for path in paths).encode(errors="surrogateescape")  # too many for arguments
    return _said(
        _git(
            *(box, "restore", "--worktree", f"--source={base}", "--pathspec-from-file=-", "--pathspec-file-nul"),
            stdin=names,
        )
    )


def _names(done: Outcome) -> tuple[str, ...]:
    whole = done.output.rpartition(b"\0")[0]  # without one that was cut
    return tuple(filter(None, whole.decode(errors="surrogateescape").split("\0")))


@dataclass(frozen=True)
class _Survey:
    """What git does not tell of a tree. `nested`: folders that it would take for repositories of their own, "." where the tree is one; a
    file or a link called `.git` makes one as well. `closed`: whether there are folders that a program without rights may not list.
    """

    nested: tuple[str, ...]
    closed: bool


def _surveyed(box: Box) -> _Survey:
    """Takes away pipes, sockets and devices, which git does not keep: it waits for what is written into a pipe that is called `.gitignore`.
    Raises `Refused` for a tree that cannot be looked through.
    """
    tree = box.workspace.tree
    nested, closed = [], False
    try:
        for one in tree.walk():
            kind = stat.S_IFMT(one.status.st_mode)
            if one.name == ".git":
                nested.append(one.folder.removeprefix("./"))
            if kind == stat.S_IFDIR:
                closed = closed or one.status.st_mode & 0o700 != 0o700
            elif kind not in (stat.S_IFREG, stat.S_IFLNK):
                tree.remove(f"{one.folder}/{one.name}")
    except OSError as error:
        raise Refused(f"a folder cannot be looked into: {error.strerror}") from None
    return _Survey(tuple(nested), closed)


def _git(box: Box, *arguments: str, before: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
    own = box.workspace
    limits = box.limits()
    command = (
        "git",
        f"--git-dir={own.git_folder}",
        f"--work-tree={own.tree_folder}",
        *GIT_OPTIONS,
        *before,
        *arguments,
    )
    only_reads = box.read_only or arguments[0] in _READS
    if box.read_only or not only_reads:
        box.make_ready(with_repository=not only_reads)
    writable = [own.home] if only_reads else [own.tree_folder, own.git_folder, own.home]
    policy = box.sandbox.policy(
        *(command, own.tree_folder, writable, limits, [own.tree_folder, own.git_folder], own.home),
        environment=GIT_ENVIRONMENT,
        # A repository within the tree has a configuration of its own, which git follows once it is a submodule. This process may
        # write to the repository, so git starts no other: no filter, hook or helper, and no command of its own either.
        alone=True,
    )
    # Of a git that was stopped at a bound; calls come one after another.
    for lock in () if only_reads else (*own.git_folder.glob("*.lock"), *(own.git_folder / "refs").rglob("*.lock")):
        lock.unlink(missing_ok=True)
    return box.sandbox.run(policy, stdin)


def _text(done: Outcome) -> str:
    return done.output.decode(errors="replace") + ("\n(cut)" if done.cut else "")


def _said(done: Outcome) -> Output:
    if done.ok:
        return Output(_text(done))
    why = done.errors.decode(errors="replace").strip() or _text(done).strip()
    return Output(_text(done), ok=False, error=done.end if done.stopped else why)


def _branch(name: str) -> str:
    if not _BRANCH.fullmatch(name) or ".." in name or "//" in name or name.endswith((".lock", "/", ".")):
        raise Refused(f"branch {name!r}: is no name for one")
    return name


def _reference(name: str) -> str:
    if not re.fullmatch(r"[\w][\w./+~^-]*", name) or ".." in name:
        raise Refused(f"commit {name!r}: give a branch, a tag or an id")
    return name


def _within(box: Box, path: str) -> str:
    """A path of the tree, taken literally: git's own patterns begin with a colon."""
    checked_argument(path, "path")
    if path.startswith("/") or ".." in path.split("/"):
        raise Refused(f"path {path!r}: leads out of the workspace")
    return f":(literal){path}"


def _current(box: Box) -> str:
    done = _git(box, "symbolic-ref", "--short", "HEAD")
    if not done.ok:
        raise Refused("no branch is checked out; name one")
    return _branch(done.output.decode().strip())
