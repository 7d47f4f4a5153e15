"""Definitions as production loads them, in interpreters of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, Definitions

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.defs.resources import EngineResource
from fleet_pipeline.storage.schemas import TABLES

pytestmark = pytest.mark.instance

ROOT = Path(__file__).parents[2]
HEAVY = ["vllm", "torch", "transformers", "nats", "ray", "kubernetes", "sklearn", "scipy"]


def in_fresh_interpreter(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
    )


def test_definitions_load_without_any_heavy_package() -> None:
    """A ban on module-level imports is checked by lint too; this sees the ones that come in sideways."""
    program = (
        f"import json, sys, fleet_pipeline.definitions; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    loaded = in_fresh_interpreter(program)
    assert loaded.stderr == ""
    assert json.loads(loaded.stdout) == []


def test_the_workspace_loads_the_definitions_that_the_package_exports() -> None:
    location = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    program = (
        f"import {location['module_name']} as m; from dagster import Definitions; "
        "Definitions.validate_loadable(m.defs); print(sorted(a.key.to_user_string() for a in m.defs.assets))"
    )
    loaded = in_fresh_interpreter(program)
    assert loaded.stdout.strip() == "['deliberations', 'proposals', 'transcripts']"


def test_the_production_engine_is_vllm_and_no_setting_can_name_another(tmp_path: Path) -> None:
    program = "import fleet_pipeline.definitions as m; print(type(m.defs.resources['engine']).__name__)"
    assert in_fresh_interpreter(program).stdout.strip() == "EngineResource"
    for variable in ("FLEET_ENGINE__KIND", "FLEET_ENGINE__NAME", "FLEET_ENGINE"):
        value = '{"scripted": true}' if variable == "FLEET_ENGINE" else "scripted"
        refused = in_fresh_interpreter(program, **{variable: value})
        assert refused.returncode != 0
        assert "no such field" in refused.stderr


def test_the_default_model_is_the_production_one() -> None:
    program = "import fleet_pipeline.definitions as m; print(m.defs.resources['engine'].model)"
    assert in_fresh_interpreter(program).stdout.strip() == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("name", ["transcripts", "proposals", "deliberations"])
def test_every_asset_says_what_it_is_who_keeps_it_and_where(name: str, instance: DagsterInstance) -> None:
    from fleet_pipeline.defs.build import build_definitions

    definitions = build_definitions()
    assert isinstance(definitions, Definitions)
    spec = next(spec for spec in definitions.resolve_all_asset_specs() if spec.key.path == [name])
    assert spec.description
    assert spec.group_name == "deliberation"
    assert spec.kinds
    assert spec.code_version
    assert spec.owners == ["team:fleet"]
    columns = spec.metadata["dagster/column_schema"].columns
    assert [column.name for column in columns] == TABLES[spec.metadata["dagster/table_name"]].schema.names
    assert all(column.description for column in columns)
    assert spec.metadata["dagster/uri"].endswith(f"/storage/{spec.metadata['dagster/table_name']}")


def test_every_field_of_the_launchpad_is_described() -> None:
    from fleet_pipeline.defs.build import build_definitions

    resources = build_definitions().resources
    for resource in ("engine", "council", "weights"):
        fields = resources[resource].get_resource_definition().config_schema.config_type.fields
        assert fields
        undescribed = [name for name, field in fields.items() if not field.description and name not in SELF_EVIDENT]
        assert undescribed == []


# Names that every user of a language model knows.
SELF_EVIDENT = {"temperature", "top_p", "min_p", "repetition_penalty"}


@pytest.mark.parametrize(
    ("models", "said"),
    [({"org/m": {"dtyp": "float32"}}, "engine: org/m.dtyp: no such field"), ({"org/m": 5}, "engine: org/m: ")],
)
def test_wrong_options_of_a_model_are_refused_with_its_name(models: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        EngineResource(models=models).identity("org/m")
