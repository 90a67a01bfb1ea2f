"""A stream's dispatcher as a real process, beside a worker that the tests have (`worker_process`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from worker_process import StartedProcesses, Worker, module_command

from skyriver.adapters.processes.asking import SocketAsker


@dataclass
class DispatcherProcess(StartedProcesses):
    """What the control plane would keep of one dispatcher."""

    worker: Worker
    live: dict[str, Any]
    begin: int = 0
    changed: dict[str, int | float] = field(default_factory=dict)
    """Constants of its processes, by module and name."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    prefix: ClassVar[str] = "dispatch-"

    def __post_init__(self) -> None:
        self.directory = self.worker.directory

    @property
    def state(self) -> Path:
        return self.directory / "stream" / "dispatch" / "state.sqlite"

    @property
    def socket(self) -> Path:
        return self.directory / "d"

    def write_live(self, **changes: Any) -> None:
        self.live |= changes
        temporary = self.file("live.new")
        temporary.write_text(json.dumps(self.live))
        temporary.replace(self.file("live.json"))

    def start(self, *, wait: bool = True) -> None:
        token = f"token-{len(self.processes)}"
        self.write_live()
        process = {
            "name": "t.dispatcher.payments",
            "tenant": "t",
            "home": str(self.directory),
            "socket": str(self.socket),
            "status_file": str(self.file("status.json")),
            "live_file": str(self.file("live.json")),
            "token": token,
            "work_dir": str(self.directory),
        }
        stream = self.directory / "stream"
        config = {"stream": self.worker.stream.to_json(), "directory": str(stream), "begin": self.begin}
        path = self.file("config.json")
        path.write_text(json.dumps({"process": process, "config": config}))
        with self.file("log.txt").open("ab") as out:
            command = module_command("skyriver.wiring.dispatcher", path, self.changed)
            self.processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=os.environ))
        if wait:
            self.wait_for(lambda report: report.get("token") == token and report.get("ready"))

    def ask(self, method: str, path: str, *, actor: str = "ann", key: str = "", **body: Any) -> Any:
        """As the control plane asks it; of a GET the named values are its query."""
        headers = {"x-actor": actor, "idempotency-key": key}
        given: Mapping[str, Any] = body
        query = {name: str(value) for name, value in given.items()} if method == "GET" else None
        return SocketAsker().ask(
            str(self.socket), method, path, query=query, headers=headers, body=None if method == "GET" else given
        )
