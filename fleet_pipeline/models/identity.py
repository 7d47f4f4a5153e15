"""What a model's name stands for at this moment, so that other weights under the same name are noticed.

A folder is identified by what is in it: a small file's content, a large one's beginning, end and an even
sample in between. Training, merging and quantising change numbers everywhere, so a sample of 2 MiB of each
file finds them, and 16 GB of weights take a tenth of a second where reading them all takes half a minute.
A model of the hub is identified by its commit: the hub's word, or where it cannot be asked that of the copy
that is here, which is what is loaded then.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_WHOLE = 64 * 2**20  # files up to here are read whole
_PIECES, _PIECE = 512, 4_096
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What decides a model's words: weights, configuration, tokeniser, chat template. Not a README.
_DECIDING = {".safetensors", ".bin", ".pt", ".gguf", ".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"}


def identity(location: str, revision: str | None) -> str:
    """What `location`, a folder or a name on the hub, stands for; no more than the revision where that cannot be
    told. Starting the engine then says why.
    """
    try:
        if Path(location).is_dir():
            return folder_digest(Path(location))
        return commit(location, revision) or revision or ""
    except (OSError, ValueError):
        return revision or ""


def folder_digest(folder: Path) -> str:
    """16 hex digits over the files that decide a model's words. Raises `OSError`."""
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
    """The commit that a hub model's revision (main by default) points to, or None where nobody can say."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not constants.HF_HUB_OFFLINE:
        try:
            return HfApi().model_info(name, revision=revision, timeout=10).sha
        except Exception:  # noqa: BLE001, S110 - no network, or no such model: what is here decides, or loading it says so
            pass
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None
