"""Files of the workspace. Each path is resolved by the kernel below the workspace's folder, and never leaves it."""

import fnmatch
import json
import re
import stat
from datetime import UTC, datetime
from io import StringIO
from itertools import islice
from typing import Annotated

from pydantic import Field

from fleet_pipeline.common.errors import Refused
from fleet_pipeline.tools.operation import Box, Changes, Family, Output
from fleet_pipeline.tools.sandbox.sandbox import Outcome
from fleet_pipeline.tools.tree import BLOCK_BYTES

FAMILY = Family("files", "Read, write, search and compare files of the workspace.", changes=Changes.TREE)
PathArgument = Annotated[
    str, Field(min_length=1, max_length=4_096, description="Relative to the workspace, such as src/app.py.")
]
Text = Annotated[str, Field(max_length=10_000_000)]

MOST_BYTES = 10_000_000
_BINARY_BYTES = 8_192
_MOST_ENTRIES, _MOST_MATCHES = 5_000, 500
# A pattern that backtracks without end on a line stops the search there.
_LINE_CHARS = 2_000
_SEARCH_SECONDS = 30.0


@FAMILY.operation()
def read_file(
    box: Box,
    path: PathArgument,
    first_line: Annotated[int, Field(ge=1, description="The line to begin with.")] = 1,
    lines: Annotated[int | None, Field(ge=1, description="How many; all when absent.")] = None,
) -> Output:
    """Read a text file, up to 10 MB."""
    text = _text(box, path)
    if first_line == 1 and lines is None:
        return Output(text)
    start = min(first_line, MOST_BYTES) - 1
    # Lines as grep and git count them: a form feed ends none.
    chosen = islice(StringIO(text, newline="\n"), start, None if lines is None else start + min(lines, MOST_BYTES))
    return Output("".join(chosen))


@FAMILY.operation(writes=True)
def write_file(
    box: Box,
    path: PathArgument,
    content: Text,
    create_dirs: Annotated[bool, Field(description="Make the folders above it.")] = True,
) -> Output:
    """Write a text file, in place of what was there."""
    _write(box, path, content, make_folders=create_dirs)
    return Output(f"{path}: {len(content.encode()):,} bytes written")


@FAMILY.operation(writes=True)
def append_file(box: Box, path: PathArgument, content: Text) -> Output:
    """Add text at the end of a file, or make it."""
    try:
        before = _text(box, path)
    except Refused:
        if _exists(box, path):
            raise
        before = ""
    _write(box, path, before + content, make_folders=True)
    return Output(f"{path}: {len(content.encode()):,} bytes added")


@FAMILY.operation(writes=True)
def edit_file(
    box: Box,
    path: PathArgument,
    search: Annotated[str, Field(min_length=1, max_length=1_000_000, description="The exact text to replace.")],
    replace: Text,
    count: Annotated[int, Field(ge=1, description="How often it must occur.")] = 1,
) -> Output:
    """Replace a piece of text that occurs exactly `count` times."""
    text = _text(box, path)
    found = text.count(search)
    if found != count:
        raise Refused(
            f"{path}: the text to replace occurs {found} times, and not {count}; give more of its surroundings"
        )
    _must_fit(
        path, len(text) + found * (len(replace) - len(search))
    )  # before it is made: it could be a million times as long
    _write(box, path, text.replace(search, replace))
    return Output(f"{path}: replaced {found} times")


@FAMILY.operation(writes=True)
def delete_file(
    box: Box, path: PathArgument, recursive: Annotated[bool, Field(description="A folder with all in it.")] = False
) -> Output:
    """Remove a file, a link, or a folder."""
    box.workspace.tree.remove(path, recursive=recursive)
    return Output(f"{path}: removed")


@FAMILY.operation(writes=True)
def move_file(box: Box, path: PathArgument, to: PathArgument) -> Output:
    """Move or rename a file or folder, to where nothing is yet."""
    box.workspace.tree.move(path, to)
    return Output(f"{path}: is now {to}")


@FAMILY.operation(writes=True)
def copy_file(box: Box, path: PathArgument, to: PathArgument) -> Output:
    """Copy a file, in place of what was there."""
    content = box.workspace.tree.read(path, MOST_BYTES)
    _put(box, to, content, make_folders=True)
    return Output(f"{to}: {len(content):,} bytes written")


@FAMILY.operation(writes=True)
def mkdir(box: Box, path: PathArgument) -> Output:
    """Make a folder, with those above it."""
    _must_have_room(box, BLOCK_BYTES * len(path.split("/")))  # each folder on the way may be new
    box.workspace.tree.make_folder(path)
    return Output(f"{path}: is there")


@FAMILY.operation()
def list_files(
    box: Box,
    path: PathArgument = ".",
    recursive: Annotated[bool, Field(description="What is in its folders as well.")] = False,
    pattern: Annotated[str | None, Field(max_length=200, description="Of names, such as *.py.")] = None,
) -> Output:
    """List a folder: one path a line, a folder's with / at its end."""
    found: list[str] = []
    more = False
    for entry in box.workspace.tree.entries(path, recursive=recursive, most=100_000):
        if pattern is None or fnmatch.fnmatch(entry.path.rstrip("/").rpartition("/")[2], pattern):
            if len(found) == _MOST_ENTRIES:
                more = True
                break
            found.append(entry.path)
    note = f"\n(only the first {_MOST_ENTRIES:,})" if more else ""
    return Output("\n".join(found) + note, facts={"entries": len(found)})


@FAMILY.operation(executes=True)
def search_in_files(
    box: Box,
    pattern: Annotated[
        str, Field(min_length=1, max_length=1_000, description="A regular expression, as grep -E knows them.")
    ],
    path: PathArgument = ".",
    extensions: Annotated[
        tuple[str, ...], Field(max_length=50, description="Only files that end so, such as py.")
    ] = (),
) -> Output:
    """Search lines of text files: path, line number and line."""
    if bad := [one for one in extensions if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,32}", one)]:
        raise Refused(f"extensions: {bad[0]!r} is none; give them as py or tar.gz")
    folder, name = (path, ".") if _is_folder(box, path) else (path.rpartition("/")[0] or ".", path.rpartition("/")[2])
    only = [f"--include=*.{one.lstrip('.')}" for one in extensions]
    found = box.execute(
        *(
            "grep",
            "-rnHIsE",
            f"--max-count={_MOST_MATCHES}",
            *only,
            "-e",
            pattern,
            "--",
            f"./{name}" if name != "." else ".",
        ),
        folder=folder,
        seconds=_SEARCH_SECONDS,
    )
    if found.stopped or (found.code > 1 and not found.output):
        return Output("", ok=False, error=f"search: {_why(found)}")
    prefix = "" if folder in (".", "./") else folder.rstrip("/") + "/"
    lines = [
        prefix + line.removeprefix("./")[:_LINE_CHARS] for line in found.output.decode(errors="replace").splitlines()
    ]
    note = f"\n(only the first {_MOST_MATCHES})" if len(lines) > _MOST_MATCHES or found.cut else ""
    return Output("\n".join(lines[:_MOST_MATCHES]) + note, facts={"matches": min(len(lines), _MOST_MATCHES)})


@FAMILY.operation()
def file_info(box: Box, path: PathArgument) -> Output:
    """What is known of a file or folder: kind, size, time of change, mode."""
    status = box.workspace.tree.status(path)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    facts = {
        "kind": kinds.get(stat.S_IFMT(status.st_mode), "special"),
        "bytes": status.st_size,
        "changed": datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds"),
        "mode": oct(stat.S_IMODE(status.st_mode)),
    }
    return Output(json.dumps(facts), facts=facts)


@FAMILY.operation(executes=True)
def diff_files(box: Box, path: PathArgument, other: PathArgument) -> Output:
    """Compare two text files, as a unified diff."""
    for one in (path, other):
        _text(box, one)
    # In the sandbox, for its bounds: a comparison may take the square of the number of lines.
    labels = [part for one in (path, other) for part in ("--label", one)]
    done = box.execute("diff", "-u", *labels, "--", f"./{path}", f"./{other}", seconds=_SEARCH_SECONDS)
    if done.stopped or done.code > 1:
        return Output("", ok=False, error=_why(done))
    return Output(done.output.decode(errors="replace") + ("\n(cut)" if done.cut else ""))


def _why(done: Outcome) -> str:
    said = done.errors.decode(errors="replace").strip()
    return done.end if done.stopped else said or done.end


def _text(box: Box, path: str) -> str:
    content = box.workspace.tree.read(path, MOST_BYTES)
    if b"\0" in content[:_BINARY_BYTES]:
        raise Refused(f"{path}: is no text ({len(content):,} bytes)")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: is not UTF-8 (byte {error.start})") from None


def _write(box: Box, path: str, text: str, *, make_folders: bool = False) -> None:
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"{path}: the text has half a character at {error.start}") from None
    _must_fit(path, len(content))
    _put(box, path, content, make_folders=make_folders)


def _put(box: Box, path: str, content: bytes, *, make_folders: bool) -> None:
    folders = BLOCK_BYTES * path.count("/") if make_folders else 0
    _must_have_room(box, max(len(content), BLOCK_BYTES) + folders)
    box.workspace.tree.write(path, content, make_folders=make_folders)


def _must_have_room(box: Box, size: int) -> None:
    box.workspace.must_have_room(size, box.options.limits.disk_mib * 2**20)


def _must_fit(path: str, size: int) -> None:
    if size > MOST_BYTES:
        raise Refused(f"{path}: would have {size:,} bytes; at most {MOST_BYTES:,} are written")


def _exists(box: Box, path: str) -> bool:
    try:
        box.workspace.tree.status(path)
    except Refused:
        return False
    return True


def _is_folder(box: Box, path: str) -> bool:
    return stat.S_ISDIR(box.workspace.tree.status(path).st_mode)
