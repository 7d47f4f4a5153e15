"""A broker that a test can kill and restart."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fleet_pipeline.common.errors import BrokerUnavailable
from fleet_pipeline.events.connection import connect, run_blocking
from fleet_pipeline.events.options import NatsOptions
from fleet_pipeline.events.streams import DELIBERATIONS
from fleet_pipeline_tests.support.http import free_port


class Broker:
    """A nats-server that can be killed and restarted, in the same folder and on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.ids: list[str] = []
        self.start()

    def start(self) -> None:
        program = Path(sys.executable).with_name("nats-server")
        command = [
            program,
            "-js",
            "-sd",
            self.folder,
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-l",
            self.folder / "log",
        ]
        self.process = subprocess.Popen(command)
        while True:
            try:
                self.ids.append(run_blocking(NatsOptions(url=self.url), self._id))
                break
            except BrokerUnavailable:
                time.sleep(0.1)
        # A new process answers, not one that an earlier start left on the port.
        assert len(set(self.ids)) == len(self.ids)

    async def _id(self, connection: Any) -> str:
        await connection.jetstream().account_info()
        return connection._server_info["server_id"]

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0


def messages(url: str) -> list[dict]:
    async def read() -> list[dict]:
        async with connect(NatsOptions(url=url)) as connection:
            jetstream = connection.jetstream()
            state = (await jetstream.stream_info(DELIBERATIONS.name)).state
            numbers = range(1, state.messages + 1)
            return [json.loads((await jetstream.get_msg(DELIBERATIONS.name, seq=n)).data) for n in numbers]

    return asyncio.run(read())
