"""The demonstrator that comes with the package: what it is, and that its published figures hold."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fleet_pipeline.deliberation.council import PROTOCOL_VERSION
from fleet_pipeline.models.registry import FLEET_TINY, resolve
from fleet_pipeline.training.layout import prompt_layout

pytestmark = pytest.mark.engine

FOLDER = Path(resolve(FLEET_TINY))
ROOT = Path(__file__).parents[2]


def content(name: str) -> dict:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_the_prompts_are_those_it_was_trained_on() -> None:
    assert content("training.json")["prompt_layout"] == prompt_layout(), (
        f"prompts have changed: raise PROTOCOL_VERSION (now {PROTOCOL_VERSION}) and train fleet-tiny anew (make model)"
    )


def test_it_is_stock_qwen3_in_bf16_of_at_most_12_mb() -> None:
    config = content("config.json")
    assert (config["architectures"], config["model_type"], config["dtype"]) == (
        ["Qwen3ForCausalLM"],
        "qwen3",
        "bfloat16",
    )
    assert "auto_map" not in config
    assert sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) <= 12_000_000


def test_it_comes_with_all_it_needs_and_a_card() -> None:
    names = {file.name for file in FOLDER.iterdir()}
    assert names >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "training.json", "README.md",
    }  # fmt: skip
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert f"models/{FOLDER.name}/*" in packaged["fleet_pipeline"]


def published() -> dict[str, float]:
    """The figures of the card's table, by measure."""
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| ")
    ]
    return {row[0]: float(row[2]) for row in cells if len(row) == 5 and row[2].replace(".", "").isdigit()}


# Other processors round otherwise, and one token that comes out differently changes all that follows.
MARGIN = 0.08


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_does_on_tasks_written_beforehand_what_its_card_says(tmp_path: Path) -> None:
    """The whole pipeline on real vLLM over the evaluation's councils.

    Not all bars are reached; the card says which. They are of the figures on the card: of 93 critiques 84 named a point where it was
    trained and 81 on another processor, and the bar is 83.7.
    """
    program = [sys.executable, "-m", "fleet_pipeline.training", "evaluate", "--json"]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-2_000:]
    figures = {figure["name"]: figure["value"] for figure in json.loads(ended.stdout)}
    assert len(figures) == 10
    card = published()
    assert figures == pytest.approx(card, abs=MARGIN)
    assert card["a task's content words never met in training, present in its proposals"] >= 0.75
    assert card["the same words in proposals for other tasks"] <= 0.05
    assert card["critiques that name a point of the proposal"] >= 0.9
    assert card["stated requirements mentioned, with all their content words"] >= 0.8
