"""Which options an engine starts with: the machine's for every model, a model's own for that model alone."""

import json
from pathlib import Path

import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.deliberation.sampling import Sampling
from fleet_pipeline.inference.options import ModelOptions, VllmConfig
from fleet_pipeline.inference.router import fit_together
from fleet_pipeline.models.registry import resolve
from fleet_pipeline.services.engines import ModelProvider
from fleet_pipeline.services.memory import share_of_memory
from fleet_pipeline.settings import load_settings

pytestmark = pytest.mark.unit

OF_THE_RUN = VllmConfig(
    model="org/large",
    revision="v2",
    dtype="float16",
    quantization="awq",
    max_model_len=4_096,
    trust_remote_code=True,
    chat_template_kwargs={"enable_thinking": False},
    max_num_seqs=7,
    gpu_memory_utilization=0.5,
)
OWN = set(ModelOptions.model_fields) - {"gpu_memory_utilization"}  # the machine's where a model has none


def test_options_of_the_run_s_model_do_not_reach_a_task_s_other_model() -> None:
    other = ModelProvider(OF_THE_RUN).config_of("org/small")
    assert other.model == "org/small"
    assert other.model_dump(include=OWN) == ModelOptions().model_dump(include=OWN)
    assert (other.max_num_seqs, other.gpu_memory_utilization) == (7, 0.5)
    assert ModelProvider(OF_THE_RUN).config_of("org/large") == OF_THE_RUN


def test_a_model_named_in_the_settings_has_its_own_options() -> None:
    models = {"org/small": ModelOptions(dtype="bfloat16"), "org/large": ModelOptions(revision="v3")}
    provider = ModelProvider(OF_THE_RUN, models)
    assert provider.config_of("org/small").model_dump(include=OWN) == ModelOptions(dtype="bfloat16").model_dump(
        include=OWN
    )
    large = provider.config_of("org/large")
    assert (large.revision, large.dtype, large.max_model_len) == ("v3", "float16", 4_096)


def test_a_model_has_the_share_of_memory_that_is_named_for_it_or_the_run_s() -> None:
    models = {"org/small": ModelOptions(gpu_memory_utilization=0.3), "org/other": ModelOptions(dtype="bfloat16")}
    provider = ModelProvider(OF_THE_RUN, models)
    assert provider.config_of("org/small").gpu_memory_utilization == 0.3
    assert provider.config_of("org/other").gpu_memory_utilization == 0.5


@pytest.mark.parametrize(("gib", "together"), [("1", True), ("9000", False)])
def test_on_a_cpu_a_model_s_share_of_memory_follows_its_weights_and_cache(
    gib: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", gib)
    config = VllmConfig(model="fleet-tiny")
    share = share_of_memory(config, Path(resolve("fleet-tiny")))
    assert fit_together([share, share]) is together
    assert share_of_memory(config, None) == 1.0


def test_what_a_model_s_options_change_in_its_answers_changes_its_identity(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    plain = ModelProvider(VllmConfig(model="run")).identity(str(tmp_path))
    own = [
        ModelOptions(dtype="float32"),
        ModelOptions(sampling=Sampling(top_p=0.5)),
        ModelOptions(chat_template=str(template)),
    ]
    seen = [ModelProvider(VllmConfig(model="run"), {str(tmp_path): one}).identity(str(tmp_path)) for one in own]
    template.write_text("{{ messages }}!")
    seen.append(ModelProvider(VllmConfig(model="run"), {str(tmp_path): own[-1]}).identity(str(tmp_path)))
    assert len({plain, *seen}) == 5


def test_a_model_without_options_of_its_own_is_what_it_was_in_results_of_before() -> None:
    options = {"chat_template_kwargs": {}, "dtype": "auto", "max_model_len": None, "quantization": None}
    assert VllmConfig().output_options == json.dumps(options, sort_keys=True)


def test_a_chat_template_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"models\.run\.chat_template: .*none"):
        load_settings({"models": {"run": {"chat_template": str(tmp_path / "none")}}})


def test_a_template_that_is_no_text_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "latin.jinja").write_bytes("é".encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"chat_template: .*latin\.jinja is not UTF-8 text"):
        load_settings({"models": {"run": {"chat_template": str(tmp_path / "latin.jinja")}}})


def test_sampling_of_a_model_stands_before_that_of_the_engine_and_does_not_wipe_it_out() -> None:
    config = VllmConfig(model="run", sampling=Sampling(temperature=0.3, max_tokens=100))
    provider = ModelProvider(config, {"run": ModelOptions(sampling=Sampling(temperature=0.9))})
    assert provider.config_of("run").sampling == Sampling(temperature=0.9, max_tokens=100)


def test_a_variable_that_could_only_name_a_model_in_lower_case_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_MODELS__Org/Model__DTYPE", "float32")
    with pytest.raises(InvalidInput, match="FLEET_MODELS as JSON"):
        load_settings()
    monkeypatch.delenv("FLEET_MODELS__Org/Model__DTYPE")
    monkeypatch.setenv("FLEET_MODELS", '{"Org/Model": {"dtype": "float32"}}')
    assert load_settings().models["Org/Model"].dtype == "float32"
