"""Several real models in one run: two side by side in the run's process, or in turns, and one on vLLM's server."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import duckdb
import pytest

from fleet_pipeline.common.errors import EngineError
from fleet_pipeline.inference.engine import ALL_CHECKS, origin_of
from fleet_pipeline.inference.options import ModelOptions, VllmConfig
from fleet_pipeline.inference.router import LocalModel, Router
from fleet_pipeline.services.engines import ModelProvider
from fleet_pipeline_tests.support.councils import a_deliberation, a_job
from fleet_pipeline_tests.support.model_servers import vllm_server

pytestmark = pytest.mark.engine

SEATS = [{"model": "fleet-tiny"}, {"model": "random"}, {"model": "served"}]


def test_a_mixed_council_is_killed_and_goes_on_and_each_row_names_its_model(random_model: str, tmp_path: Path) -> None:
    with vllm_server(random_model, "random-tiny", tmp_path / "server.log") as url:
        (tmp_path / "fleet.toml").write_text(
            f"""
            [engine]
            model = "fleet-tiny"
            [models.random]
            stands_for = "{random_model}"
            max_model_len = 4096
            [models.served]
            stands_for = "random-tiny"
            server = {{ urls = ["{url}"] }}
            price = {{ prompt = 1, completion = 2 }}
            """
        )
        task = {"description": "Design a limiter", "seats": SEATS, "sampling": {"max_tokens": 100}, "quorum": 1}
        (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"task_id": f"t{n}", **task}) for n in range(4)))
        command = [str(Path(sys.executable).with_name("fleet")), "run", "b.jsonl", "--json"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            while not _heard(tmp_path) and process.poll() is None:
                time.sleep(0.1)
            heard = _heard(tmp_path)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert heard
        finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        document = json.loads(finished.stdout)
    said = duckdb.sql(f"select * from '{tmp_path}/.fleet/storage/utterances/*.parquet'").df()
    assert dict(said.groupby("label")["model"].first()) == {"A": "fleet-tiny", "B": "random", "C": "served"}
    assert dict(said.groupby("model")["engine"].first()) == {"fleet-tiny": "vllm", "random": "vllm", "served": "openai"}
    assert not said.duplicated(["deliberation_id", "agent_id", "phase", "round", "attempt", "about_agent_id"]).any()
    assert said["not_checked"].isna().all()
    assert document["cost"] == pytest.approx(said["cost"].sum(), abs=1e-5)
    assert len(document["deliberations"]) == 4


def _heard(folder: Path) -> bool:
    """Whether an answer of the run has been written down."""
    return any(path.stat().st_size for path in (folder / ".fleet/storage/answers").glob("*"))


def test_models_that_do_not_fit_together_take_turns_and_one_that_is_released_leaves_the_rest_whole(
    random_model: str,
) -> None:
    """Engines of one process share vLLM's distributed state, which the end of one takes down."""
    provider = ModelProvider(VllmConfig(model="a"), {name: ModelOptions(stands_for=random_model) for name in "abc"})
    shares = {"a": 0.3, "b": 0.4, "c": 0.6}
    local = {name: LocalModel(partial(provider.start, name), share) for name, share in shares.items()}
    council = a_deliberation(
        "t", rounds=1, seats=[{"model": "a"}, {"model": "b"}, {"model": "a"}], phases={"critique": {"model": "c"}}
    )
    with Router({}, local, origin_of("vllm", ALL_CHECKS), 8, 0) as router:
        (finished,) = router.run([a_job(council)])
        assert set(router._loaded) == {"a", "b"}  # c was there in between, and a all the time
    assert {u.error for u in finished.result.utterances} == {None}
    assert {u.request.model for u in finished.result.utterances} == {"a", "b", "c"}


def test_arguments_of_vllm_pass_through_under_their_names_and_its_objection_is_told_whole(random_model: str) -> None:
    def start(**arguments: object) -> ModelProvider:
        return ModelProvider(
            VllmConfig(model="m"), {"m": ModelOptions(stands_for=random_model, max_model_len=2_048, **arguments)}
        )

    with pytest.raises(EngineError, match=r"unexpected keyword argument 'no_such_thing'"):
        start(engine_args={"no_such_thing": 1}).start("m")
    with start(engine_args={"max_num_batched_tokens": 4_096, "block_size": 64}).start("m") as engine:
        config = engine.core.vllm_config
        assert (config.scheduler_config.max_num_batched_tokens, config.cache_config.block_size) == (4_096, 64)
        (finished,) = engine.run([a_job(a_deliberation("t", quorum=1))])
        assert finished.result


def test_an_adapter_changes_what_its_model_says(random_model: str, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter", random_model)
    models = {
        "plain": ModelOptions(stands_for=random_model, max_model_len=2_048),
        "tuned": ModelOptions(stands_for=random_model, max_model_len=2_048, lora=adapter),
    }
    provider, said = ModelProvider(VllmConfig(model="plain"), models), {}
    for name in models:
        with provider.start(name) as engine:
            (finished,) = engine.run([a_job(a_deliberation("t", quorum=1, rounds=0, sampling={"max_tokens": 30}))])
        said[name] = [u.text for u in finished.result.utterances]
    assert said["plain"] != said["tuned"]
    assert len({provider.identity(name) for name in models}) == 2


def _adapter(folder: Path, base: str) -> str:
    """A LoRA adapter of rank 4 with random weights, as PEFT writes it."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    config = json.loads(Path(base, "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    width = config["num_attention_heads"] * config.get("head_dim", hidden // config["num_attention_heads"])
    torch.manual_seed(0)
    tensors = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora"
        tensors |= {f"{name}_A.weight": torch.randn(4, width), f"{name}_B.weight": torch.randn(hidden, 4)}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 4,
                "lora_alpha": 64,
                "target_modules": ["o_proj"],
                "base_model_name_or_path": base,
            }
        )
    )
    return str(folder)
