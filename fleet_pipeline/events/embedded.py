"""A local broker for demo and tests: the real nats-server from its wheel, on a free port."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet_pipeline.common.errors import BrokerUnavailable

START_SECONDS = 10.0


@contextmanager
def embedded_server() -> Iterator[str]:
    """Run nats-server with JetStream while the block runs; yields its URL. It listens on loopback only.

    Its streams are in a temporary folder, deleted at the end. Raises `BrokerUnavailable`.
    """
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if program is None:
        raise BrokerUnavailable("nats-server is not installed; run `make setup`")
    with tempfile.TemporaryDirectory(prefix="fleet-nats-") as scratch:
        command = [program, "-js", "-sd", scratch, "-a", "127.0.0.1", "-p", "-1"]
        command += ["--ports_file_dir", scratch, "-l", str(Path(scratch, "log"))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own program and arguments
        try:
            yield _wait_for_url(process, Path(scratch))
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], scratch: Path) -> str:
    ports = scratch / f"nats-server_{process.pid}.ports"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            url: str = json.loads(ports.read_text())["nats"][0]
            return url
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.02)
    log = scratch / "log"
    raise BrokerUnavailable(f"nats-server did not start: {log.read_text()[-500:] if log.exists() else 'no log'}")
