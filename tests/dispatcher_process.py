"""A stream's dispatcher as a real process, beside a worker that the tests have (`worker_process`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker_process import DEADLINE, Worker, module_command

from skyriver.adapters.processes.asking import SocketAsker


@dataclass
class DispatcherProcess:
    """What the control plane would keep of one dispatcher."""

    worker: Worker
    live: dict[str, Any]
    begin: int = 0
    changed: dict[str, int | float] = field(default_factory=dict)
    """Constants of its processes, by module and name."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.worker.directory

    @property
    def state(self) -> Path:
        return self.directory / "stream" / "dispatch" / "state.sqlite"

    @property
    def socket(self) -> Path:
        return self.directory / "d"

    def write_live(self, **changes: Any) -> None:
        self.live |= changes
        temporary = self.directory / "dispatch-live.new"
        temporary.write_text(json.dumps(self.live))
        temporary.replace(self.directory / "dispatch-live.json")

    def start(self, *, wait: bool = True) -> None:
        token = f"token-{len(self.processes)}"
        self.write_live()
        process = {
            "name": "t.dispatcher.payments",
            "tenant": "t",
            "home": str(self.directory),
            "socket": str(self.socket),
            "status_file": str(self.directory / "dispatch-status.json"),
            "live_file": str(self.directory / "dispatch-live.json"),
            "token": token,
            "work_dir": str(self.directory),
        }
        stream = self.directory / "stream"
        config = {"stream": self.worker.stream.to_json(), "directory": str(stream), "begin": self.begin}
        path = self.directory / "dispatch-config.json"
        path.write_text(json.dumps({"process": process, "config": config}))
        with (self.directory / "dispatch-log.txt").open("ab") as out:
            command = module_command("skyriver.wiring.dispatcher", path, self.changed)
            self.processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=os.environ))
        if wait:
            self.wait_for(lambda report: report.get("token") == token and report.get("ready"))

    def kill(self) -> None:
        self.processes[-1].kill()
        self.processes[-1].wait(DEADLINE)

    def stop(self) -> int:
        self.processes[-1].send_signal(signal.SIGTERM)
        return self.processes[-1].wait(DEADLINE)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE)

    def report(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.directory / "dispatch-status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def wait_for(self, held: Callable[[dict[str, Any]], object], seconds: float = DEADLINE) -> dict[str, Any]:
        """The report, once this holds for it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            report = self.report()
            if held(report):
                return report
            if self.processes[-1].poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"{self.report()}\n{self.printed()[-4000:]}")

    def printed(self) -> str:
        return (self.directory / "dispatch-log.txt").read_text()

    def ask(self, method: str, path: str, *, actor: str = "ann", key: str = "", **body: Any) -> Any:
        """As the control plane asks it; of a GET the named values are its query."""
        headers = {"x-actor": actor, "idempotency-key": key}
        given: Mapping[str, Any] = body
        query = {name: str(value) for name, value in given.items()} if method == "GET" else None
        return SocketAsker().ask(
            str(self.socket), method, path, query=query, headers=headers, body=None if method == "GET" else given
        )
