from pathlib import Path

import pytest

from fleet_pipeline.common.errors import InvalidInput
from fleet_pipeline.settings import Settings, load_settings, origins

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_flags_win_over_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("fleet.toml").write_text(
        'storage = "s3://file"\n[engine]\nmodel = "file"\ndtype = "float16"\nrevision = "r"\n'
    )
    monkeypatch.setenv("FLEET_ENGINE__MODEL", "environment")
    monkeypatch.setenv("FLEET_ENGINE__DTYPE", "bfloat16")
    flags = {"engine": {"model": "flag"}}
    settings = load_settings(flags)
    assert settings.storage == "s3://file"
    assert (settings.engine.model, settings.engine.dtype, settings.engine.revision) == ("flag", "bfloat16", "r")
    assert settings.engine.max_num_seqs == Settings().engine.max_num_seqs
    found = {name: origin for name, _, origin in origins(load_settings())}
    assert found["engine.model"] == "environment"
    assert found["engine.dtype"] == "environment"
    assert found["engine.revision"] == "file fleet.toml"
    assert found["engine.max_num_seqs"] == "default"


def test_a_relative_storage_means_one_place_wherever_it_is_read() -> None:
    assert load_settings({"storage": "here"}).storage == str(Path.cwd() / "here")
    assert load_settings({"storage": "~/x"}).storage == str(Path.home() / "x")
    assert load_settings({"storage": "s3://bucket/x"}).storage == "s3://bucket/x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engine]\nmodell = 'x'", "engine.modell: no such field"),
        ("[engin]\nmodel = 'x'", "no such setting: engin"),
        ("[engine]\nmax_num_seqs = 0", "engine.max_num_seqs: "),
        ("[engine", "not valid TOML"),
        ("[scoring]\nmethod = 'judge'", "set judge.enabled"),
        ("[scoring]\nmethod = 'reward'", "name one in scoring.reward"),
        ("[weights]\nfit = 0\ncoverage = 0", "fit or coverage must be above 0"),
    ],
)
def test_a_bad_settings_file_is_refused_with_the_setting(text: str, message: str) -> None:
    Path("fleet.toml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert message in str(caught.value)


def test_a_consensus_needs_no_judge() -> None:
    assert load_settings({"scoring": {"method": "consensus"}}).scoring.method == "consensus"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FLEET_MODEL", "x", "FLEET_MODEL: no such setting"),
        ("FLEET_ENGINE__MAX_NUM_SEQS", "many", "engine.max_num_seqs"),
        ("FLEET_CONFIG_FILE", "gone.toml", "FLEET_CONFIG_FILE names gone.toml"),
        ("FLEET_NATS__URL", "nats://host:99999", "nats.url: expected a URL"),
        ("FLEET_STORAGE", "s3://key:secret@bucket/x", "storage: holds credentials"),
    ],
)
def test_a_bad_variable_is_refused_and_not_ignored(monkeypatch, variable: str, value: str, message: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput, match=message):
        load_settings()


def test_what_kubernetes_sets_for_a_service_named_fleet_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FLEET_PORT", "FLEET_SERVICE_HOST", "FLEET_PORT_80_TCP", "FLEET_UI_SERVICE_PORT_HTTP"):
        monkeypatch.setenv(variable, "tcp://10.0.0.1:80")
    load_settings()


def test_empty_variables_mean_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_CONFIG_FILE", "")
    monkeypatch.setenv("FLEET_NATS__URL", "")
    assert load_settings().nats.url is None


def test_an_error_in_a_setting_does_not_repeat_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_COUNCIL__SEED", "hunter2")
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_an_owner_that_dagster_does_not_take_is_told_with_its_setting() -> None:
    assert load_settings({"owners": ["team:a-team", "a@b.example"]}).owners == ("team:a-team", "a@b.example")
    with pytest.raises(InvalidInput, match=r"owners.*'bob' is neither"):
        load_settings({"owners": ["bob"]})


def test_a_setting_goes_on_working_under_its_old_name_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("fleet.toml").write_text("[checks]\ndiversity_below = 0.5\nrelevance_below = 0.5\n")
    monkeypatch.setenv("FLEET_CHECKS__RELEVANCE_BELOW", "0.6")
    monkeypatch.setenv("FLEET_COUNCIL_CHECKS__TRUNCATED_ABOVE", "0.7")
    settings = load_settings()
    checks = settings.council_checks
    assert (checks.diversity_below, checks.relevance_below, checks.truncated_above) == (0.5, 0.6, 0.7)
    assert [record.getMessage().partition(" is ")[0] for record in caplog.records] == [
        "fleet.toml: the setting checks",
        "FLEET_CHECKS__RELEVANCE_BELOW: the setting checks",
    ]
    found = {name: origin for name, _, origin in origins(settings)}
    assert found["council_checks.diversity_below"] == "file fleet.toml"
    assert found["council_checks.relevance_below"] == "environment"
