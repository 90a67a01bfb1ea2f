"""A replica as a real process on a Unix socket, for the tests that need one."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyriver.adapters.directory.objects import DirectoryObjects

DEADLINE = 300.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("replica", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def wait_for(what: Callable[[], Any], told: str, seconds: float = DEADLINE) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError(f"{told} did not come")


class ReplicaProcess:
    """Its files, and it."""

    def __init__(self, directory: Path, model: bytes, **config: Any) -> None:
        self.socket = directory / "replica.sock"
        self.status_file = directory / "status.json"
        self._log = directory / "log"
        artifact = DirectoryObjects(directory / "objects").put(model)
        process = {
            "name": "replica-1",
            "tenant": "default",
            "home": str(directory),
            "socket": str(self.socket),
            "status_file": str(self.status_file),
            "live_file": str(directory / "live.json"),
            "work_dir": str(directory),
            "token": "secret",
        }
        serves = {"model": "fraud", "version": 3, "artifact": artifact, "objects": str(directory / "objects"), **config}
        self._config = directory / "config.json"
        self._config.write_text(json.dumps({"process": process, "config": serves}))
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.status_file.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "skyriver.wiring.replica", str(self._config)]
            self.child = subprocess.Popen(command, stdout=log, stderr=log)
        return self.child

    def start_and_wait(self) -> ReplicaProcess:
        child = self.start()
        report = wait_for(lambda: self.report() or child.poll() is not None, "a report")
        assert report is not True, self.log
        assert self.report()["ready"], self.log
        return self

    def report(self) -> dict[str, Any]:
        try:
            report: dict[str, Any] = json.loads(self.status_file.read_bytes())
        except FileNotFoundError:
            return {}
        return report

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait(DEADLINE)

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        with contextlib.closing(UnixConnection(self.socket)) as connection:
            return exchange(connection, method, path, body, headers)


def exchange(
    connection: UnixConnection, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, data, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())
