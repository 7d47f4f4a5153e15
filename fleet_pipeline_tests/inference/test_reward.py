"""Reward models on vLLM's pooling runner: a tiny one with random weights, against transformers' own arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

# In a process of its own, as in a run: a second model in the tests' process would share its engine's state.
RATE = """
import json, sys
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from fleet_pipeline.common.errors import EngineError
from fleet_pipeline.deliberation.exchange import Message
from fleet_pipeline.inference.options import VllmConfig
from fleet_pipeline.inference.reward import VllmRewardModel
from fleet_pipeline.inference.vllm import VllmEngine
from fleet_pipeline_tests.support.councils import a_deliberation, a_job

source, folder = sys.argv[1:]
config = AutoConfig.from_pretrained(source, num_labels=1)
config.pad_token_id = 0
torch.manual_seed(0)
model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
model.save_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(source)
tokenizer.save_pretrained(folder)
chats = [[Message("user", "Make it quick"), Message("assistant", "word " * n)] for n in (1, 20, 60, 400)]

with VllmEngine.start(VllmConfig(model=source, max_model_len=4096)) as engine:
    [done] = engine.run([a_job(a_deliberation("t", rounds=0))])
with VllmRewardModel.start(VllmConfig(model=folder, dtype="float32", max_model_len=256)) as rewards:
    found = rewards.rate(chats)
expected = []
for chat in chats[:3]:
    ids = tokenizer.apply_chat_template([vars(message) for message in chat], tokenize=True, return_dict=True)["input_ids"]
    with torch.no_grad():
        expected.append(model(torch.tensor([ids])).logits.item())
try:
    VllmRewardModel.start(VllmConfig(model=source, max_model_len=256))
    refused = ""
except EngineError as error:
    refused = str(error)
print("RESULT", json.dumps([done.result.status, found, expected, refused]))
"""


def test_rewards_are_the_model_s_own_numbers_and_a_chat_that_is_too_long_has_none(
    random_model: str, tmp_path: Path
) -> None:
    """After an engine that was released, in the same process; a model that only generates is refused."""
    program = [sys.executable, "-c", RATE, random_model, str(tmp_path / "rewards")]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2_000:]
    line = next(line for line in ended.stdout.splitlines() if line.startswith("RESULT "))
    status, found, expected, refused = json.loads(line.removeprefix("RESULT "))
    assert status == "completed"
    assert [value for value, _ in found[:3]] == pytest.approx(expected, abs=1e-3)
    assert len(set(expected)) == 3
    assert found[3][0] is None
    assert found[3][1] > 256
    assert "is no reward model: expected a classifier with one class" in refused
