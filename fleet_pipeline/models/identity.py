"""The identity of the model behind a name, to detect other weights under the same name.

A folder is identified by its files. A small file counts in full. A large file counts by its beginning, its end
and an even sample in between. Training, merging and quantising change numbers everywhere, so a sample of 2 MiB
per file detects them. For 16 GB of weights the sample takes a tenth of a second, a full read half a minute.
A hub model is identified by its commit. If the hub cannot be asked, the commit of the local copy counts,
because that copy is then loaded.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_WHOLE = 64 * 2**20  # bytes; files up to this size are read whole
_PIECES, _PIECE = 512, 4_096  # pieces in the sample of a larger file, and bytes in a piece
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Files that affect a model's output: weights, configuration, tokeniser, chat template. Not a README.
_DECIDING = {".safetensors", ".bin", ".pt", ".gguf", ".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"}


def identity(location: str, revision: str | None) -> str:
    """The digest of a folder or the commit of a hub model. If neither can be determined, it is `revision` or empty;
    starting the engine then reports the reason.
    """
    try:
        if Path(location).is_dir():
            return folder_digest(Path(location))
        return commit(location, revision) or revision or ""
    except (OSError, ValueError):
        return revision or ""


def folder_digest(folder: Path) -> str:
    """A hash (16 hex digits) of the files that affect a model's output. Raises `OSError`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _DECIDING and path.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _add(digest, path)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
            return
        for piece in range(_PIECES):
            file.seek((size - _PIECE) * piece // (_PIECES - 1))
            digest.update(file.read(_PIECE))


def commit(name: str, revision: str | None) -> str | None:
    """The commit that a hub model's revision (default: main) points to, or None if it cannot be determined."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not constants.HF_HUB_OFFLINE:
        try:
            return HfApi().model_info(name, revision=revision, timeout=10).sha
        except Exception:  # noqa: BLE001, S110 - no network or no such model: try the local copy; loading reports it
            pass
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None
