"""Code blocks of a Markdown text, with their languages and lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

# Model output has no limits of its own. More than this is left unread.
MAX_BLOCKS = 100
MAX_CHARACTERS = 100_000

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
    """`line` is that of the first line of `code` in the text, from 1; `language` is "" where unknown."""

    language: str
    code: str
    line: int


def code_blocks(text: str) -> Iterator[Block]:
    """Fenced blocks in order, those in lists and quotes included."""
    if "```" not in text and "~~~" not in text:  # reading Markdown takes most of the time of checks
        return
    fences = [token for token in _markdown().parse(text) if token.type == "fence"]
    for fence in fences[:MAX_BLOCKS]:
        words = fence.info.split()
        name = words[0].strip("{}.").lower() if words else ""
        code = fence.content[:MAX_CHARACTERS]
        language = _LANGUAGE.get(name, "") if name else _recognised(code)
        if language == "session":
            language, code = "shell", _typed(code)
        yield Block(language, code, fence.map[0] + 2)


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def _recognised(code: str) -> str:
    """The language of a block without a name, where its first lines leave no doubt."""
    first = code.lstrip().partition("\n")[0]
    if first.startswith("#!"):
        return "python" if "python" in first else "shell"
    if first.startswith("FROM ") and len(first.split()) in (2, 4):
        return "dockerfile"
    if first.startswith("apiVersion:"):
        return "yaml"
    return ""


def _typed(session: str) -> str:
    """Of a terminal session the commands, other lines blank, so that line numbers hold."""
    lines, going_on = [], False
    for line in session.splitlines():
        prompted = line.lstrip()[:2] in ("$ ", "# ")
        command = line if going_on else line.lstrip()[2:] if prompted else ""
        going_on = bool(command) and command.endswith("\\")
        lines.append(command)
    return "\n".join(lines)
