"""The audit: every call, allowed or refused, written before it begins and completed after.

One file of JSON Lines for each process that calls tools. A line is written at once, so that after a kill the last call begun
stands there without its end. Arguments are kept with secrets masked, and long ones by their first characters and their length.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

CallOutcome = Literal["ok", "failed", "refused", "broke", "unfinished"]
# Of a long text so much is kept, and so much is looked at for secrets: one that begins in the first part ends in the second.
_LONG, _LOOKED_AT = 2_000, 12_000
_LOOKED_AT_IN_ALL = 50_000
_NAME_CHARS, _DEEPEST = 200, 40
# Names of arguments, headers and variables whose values are secrets.
_SECRET_NAME = re.compile(
    r"(^|[^a-z]|pg|db)pass$|pass(word|wd|phrase|code)|pwd$|(^|_)pw$|^auth$|x-auth|secret|token|api[-_. ]?key|access[-_]?key|credential|authorization|cookie"
    r"|private[-_]?key|encryption[-_]?key|subscription[-_]?key|functions[-_]?key|requirepass|masterauth",
    re.IGNORECASE,
)
_SECRET_PARAMETERS = frozenset({"key", "sig", "signature"})  # of a URL
# Commands of Redis that have secrets, and the words before them: a user, a password, rules with passwords.
_REDIS_COMMANDS = frozenset({"AUTH", "HELLO", "ACL", "CONFIG", "MIGRATE"})
_SECRET_FROM_HERE = frozenset({"AUTH", "AUTH2", "SETUSER"})
# Values that are, whatever their name: credentials in a URL, keys of well-known makers, tokens of JWT, PEM.
_SECRET_VALUE = re.compile(
    r"(?P<url>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?:[^\s/@]{1,1000}+|[^\s/@:]{0,200}+:[^\s@]{1,1000}+)@"
    r"|(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))(?:sk-|sk_live_|sk_test_|rk_live_|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|xapp-|AKIA|ASIA|AIza|hf_|npm_|pypi-|nvapi-|ya29\.|GOCSPX-|whsec_|SG\.|dop_v1_|glrt-)[A-Za-z0-9_.-]{12,}"
    r"|(?P<hook>https://hooks\.slack\.com/services/)[A-Za-z0-9/]{8,200}"
    r"|(?:(?<![\w-])|(?<=\\[nrt]))eyJ[\w-]{8,4000}\.[\w-]{8,4000}(?:\.[\w-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|$)"
    # A name that ends in such a word, and its value after "=", ":", or a blank where it is an option or SQL.
    r"|(?P<pair>(?i:(?:api[-_]?key|access[-_]?key(?:[-_]id)?|(?:account|encryption)[-_]?key|(?<![a-z])pass(?==)|identified by|--auth|token|passwo?r?d|passphrase|pwd|secret(?:[-_]?key)?|signature|[?&](?:key|sig))"
    r"(?:\\{0,3}[\"']?\s{0,3}[=:]\s{0,3}|\s{1,3}(?=')|(?<=--password)\s{1,3}|(?<=--token)\s{1,3}|(?<=--auth)\s{1,3})\\{0,3}[\"']?))[^\s\"'&,;}]{3,}"
    r"|(?P<header>(?i:authorization)\\{0,3}[\"']\s{0,3}[=:]\s{0,3}\\{0,3}[\"'])[^\"'\r\n\\]{3,}"
    r"|(?P<bearer>(?:\b|(?<=\\[nrt]))(?i:Bearer|Basic|Authorization: ?(?:Token|ApiKey|Key)) )[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<digest>(?i:Authorization: ?Digest ))[^\r\n]{8,}"
    r"|(?P<cookie>(?i:Set-Cookie|Cookie): *)[^\s=;]{1,100}=[^\r\n]{3,}"
    r"|(?P<element><(?i:[a-z:._-]{0,50}(?:password|passwd|secret|token|api[-_]?key))>)[^<]{3,}"
    r"|(?P<option>(?<!\S)(?:-u|--user)[ =][^\s:]{1,100}:)\S{3,}"
)

# Groups that come before a secret.
_KEPT = ("url", "hook", "pair", "header", "bearer", "digest", "cookie", "element", "option")


@dataclass(frozen=True)
class Caller:
    """On whose behalf tools are called. Empty for a person."""

    run_id: str = ""
    deliberation_id: str = ""
    agent_id: str = ""


@dataclass(frozen=True)
class Begun:
    """The first half of a call's record."""

    call_id: str
    caller: Caller
    workspace: str
    family: str
    operation: str
    arguments: str  # JSON, masked
    read_only: bool
    sandbox: str  # the layers that there are
    started_at: float  # seconds since 1970


@dataclass(frozen=True)
class Call:
    """A call as the audit tells it. `seconds` is None for one that was cut off."""

    begun: Begun
    outcome: CallOutcome
    error: str
    output_bytes: int
    seconds: float | None


class Audit:
    """Writes one file. Threads may share it."""

    def __init__(self, folder: Path, caller: Caller = Caller()) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
        self.caller = caller
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # let go of when the process is killed
        self._lock = threading.Lock()
        self._torn = False

    @staticmethod
    @contextmanager
    def finished(path: Path) -> Iterator[bool]:
        """Whether nobody writes to this file any more; nobody else takes it meanwhile."""
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield path.exists()

    def close(self) -> None:
        os.close(self._file)

    def begin(
        self,
        workspace: str,
        family: str,
        operation: str,
        arguments: Mapping[str, Any],
        read_only: bool,
        sandbox: str,
        caller: Caller | None = None,
    ) -> Begun:
        family, operation = (_masked_text(one)[:_NAME_CHARS] for one in (family, operation))
        shown = json.dumps(masked(arguments), ensure_ascii=False, default=str)
        begun = Begun(
            call_id=uuid.uuid4().hex,
            caller=caller or self.caller,
            workspace=workspace,
            family=family,
            operation=operation,
            arguments=shown,
            read_only=read_only,
            sandbox=sandbox,
            started_at=round(time.time(), 6),
        )
        self._write(asdict(begun))
        return begun

    def end(self, begun: Begun, outcome: CallOutcome, error: str, output_bytes: int, seconds: float) -> None:
        shown = _masked_text(error)
        self._write(
            {
                "ends": begun.call_id,
                "outcome": outcome,
                "error": shown,
                "output_bytes": output_bytes,
                "seconds": round(seconds, 6),
            }
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        content = (json.dumps(line, ensure_ascii=True) + "\n").encode()
        with self._lock:
            if self._torn:
                content = b"\n" + content  # what a full disk has cut off must not take this line with it
            self._torn = True
            while content:
                content = content[os.write(self._file, content) :]
            self._torn = False


def read_calls(path: Path) -> Iterator[Call]:
    """The calls of one file, in the order in which they began. A torn last line, as a kill leaves it, is passed over."""
    begun: dict[str, Begun] = {}
    ends: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, TypeError, KeyError):
            values = json.loads(line)
            if "ends" in values:
                ends[values["ends"]] = values
            else:
                begun[values["call_id"]] = Begun(**values | {"caller": Caller(**values["caller"])})
    for call_id, one in begun.items():
        end = ends.get(call_id)
        if end is None:
            yield Call(one, "unfinished", "the process ended before the call did", 0, None)
        else:
            yield Call(one, end["outcome"], end["error"], end["output_bytes"], end["seconds"])


def masked(value: Any) -> Any:
    """Arguments as they may be shown: secrets are `***`, and a long text has its first characters and its length."""
    try:
        return _Masking().of(value)
    except Exception:  # noqa: BLE001 - what cannot be masked is not shown, and ends no run
        return "***"


class _Masking:
    """Of one call's arguments. Of all its texts together so much is looked at: 400 of 12,000 characters held the engine up for 17 s."""

    def __init__(self) -> None:
        self._left = _LOOKED_AT_IN_ALL

    def of(self, value: Any, name: str = "", depth: int = 0) -> Any:
        if (_SECRET_NAME.search(name) or name.lower() in _SECRET_PARAMETERS) and value not in (None, "", [], {}):
            return "***"
        if depth > _DEEPEST and isinstance(value, (Mapping, list, tuple)):
            return "[...]"
        if isinstance(value, Mapping):
            given = value.get("name", value.get("key"))  # {"name": "password", "value": ...}
            named = given if isinstance(given, str) else ""
            return {
                self._text(str(key)): self.of(
                    one, named if key == "value" and _SECRET_NAME.search(named) else str(key), depth + 1
                )
                for key, one in value.items()
            }
        if isinstance(value, (list, tuple)):
            follows = _follow_a_secret_s_name(value, name)
            return [
                self.of(one, "secret" if after else name, depth + 1) for one, after in zip(value, follows, strict=True)
            ]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        if self._left <= 0 and len(text) > _NAME_CHARS:  # names of files stay
            return f"[... {len(text):,} more characters]"
        self._left -= min(len(text), _LOOKED_AT)
        return _masked_text(text)


def _follow_a_secret_s_name(items: Sequence[Any], name: str) -> list[bool]:
    """For each item whether it is a secret by what stands before it, as in ["--password", ...] and ["AUTH", user, password].

    A word without a dash counts in commands of Redis alone: a file may be called AUTH, and hid the names of those after it.
    """
    words = [one if isinstance(one, str) else "" for one in items]
    of_redis = name == "command" and bool(words) and words[0].upper() in _REDIS_COMMANDS
    before = ["", *words][: len(items)]
    rest = next((at for at, one in enumerate(before) if of_redis and one.upper() in _SECRET_FROM_HERE), len(items))
    return [
        at >= rest or ((of_redis or one.startswith("-")) and bool(_SECRET_NAME.search(one)))
        for at, one in enumerate(before)
    ]


def _masked_text(text: str) -> str:
    looked_at = text[:_LOOKED_AT]
    if len(text) > _LOOKED_AT:  # half a secret is no known form, and masks before it bring it to the front
        words = looked_at.rsplit(None, 1)  # none where all is blank
        looked_at = words[0] if words and len(words[0]) < _LOOKED_AT else ""
    shown = _SECRET_VALUE.sub(
        lambda found: next(filter(None, map(found.group, _KEPT)), "") + "***" + ("@" if found["url"] else ""), looked_at
    )
    shown = shown.encode("utf-8", "backslashreplace").decode()  # half a character cannot be stored
    return (
        shown
        if len(shown) <= _LONG and len(text) <= _LOOKED_AT
        else f"{shown[:_LONG]}[... {len(text) - _LONG:,} more characters]"
    )
