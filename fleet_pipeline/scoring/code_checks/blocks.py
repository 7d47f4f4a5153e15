"""Code blocks of a Markdown text, with their languages and lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

# Model output can have any size. Anything beyond these limits is not read.
MAX_BLOCKS = 100
# Of one block; a longer one is not checked, because a part of it may be no program. Some parsers take the square of a text's length: one of
# 80,000 characters kept the shell's at it for 40 s.
MAX_CHARACTERS = 20_000

_NAMES = {
    "python": ("py", "python", "python3"),
    "shell": ("bash", "sh", "shell", "zsh"),
    "session": ("console", "shell-session", "terminal"),
    "json": ("json",),
    "yaml": ("yaml", "yml"),
    "toml": ("toml",),
    "dockerfile": ("docker", "dockerfile", "containerfile"),
    "sql": ("sql", "postgres", "postgresql", "mysql", "sqlite", "tsql", "bigquery", "snowflake"),
}
_LANGUAGE = {name: language for language, names in _NAMES.items() for name in names}


@dataclass(frozen=True)
class Block:
    """`line` is the line of the text, from 1, where `code` begins. `language` is "" where unknown."""

    language: str
    code: str
    line: int


def code_blocks(text: str) -> Iterator[Block]:
    """The fenced blocks in order, including those in lists and quotes."""
    if "```" not in text and "~~~" not in text:  # parsing Markdown takes most of the time of code checks
        return
    fences = [token for token in _markdown().parse(text) if token.type == "fence"]
    for fence in [one for one in fences if len(one.content) <= MAX_CHARACTERS][:MAX_BLOCKS]:
        words = fence.info.split()
        name = words[0].strip("{}.").lower() if words else ""
        code = fence.content
        language = _LANGUAGE.get(name, "") if name else _guessed_language(code)
        if language == "session":
            language, code = "shell", _session_commands(code)
        yield Block(language, code, fence.map[0] + 2)


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def _guessed_language(code: str) -> str:
    """The language of a block that names none, where its first line leaves no doubt."""
    first = code.lstrip().partition("\n")[0]
    if first.startswith("#!"):
        return "python" if "python" in first else "shell"
    if first.startswith("FROM ") and len(first.split()) in (2, 4):
        return "dockerfile"
    if first.startswith("apiVersion:"):
        return "yaml"
    return ""


def _session_commands(session: str) -> str:
    """The commands of a terminal session. Other lines become blank, so that line numbers hold."""
    lines, continues = [], False
    for line in session.splitlines():
        prompted = line.lstrip()[:2] in ("$ ", "# ")
        command = line if continues else line.lstrip()[2:] if prompted else ""
        continues = bool(command) and command.endswith("\\")
        lines.append(command)
    return "\n".join(lines)
