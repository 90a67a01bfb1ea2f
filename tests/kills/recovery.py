"""When what was killed is back, as its users see it; and the operator's `skyriver up` where nobody else can help."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from cloud_process import COMMAND, Cloud

from kills.journal import Journal, Kill, What, tell
from kills.load import Background, Probe
from kills.victims import living, state_of

DEADLINE_SECONDS = 60.0
"""What is not back by then is lost; the road's slowest part is a worker that recovers a long log."""
UP_SECONDS = 5.0
"""So long a `skyriver up` is given to start something; then it is called again."""
LINES = 15
_ANSWERS: Mapping[str, Sequence[What]] = {
    "control": ("api",),
    "gateway": ("prediction", "event", "api"),
    "worker": ("event",),
}
"""What is answered again when it is back; of several, any."""


class Recovery(Background):
    """Looks after the kills that are open, twenty times a second."""

    def __init__(self, cloud: Cloud, journal: Journal, probe: Probe, *, deadline: float = DEADLINE_SECONDS) -> None:
        super().__init__(journal, 0.05)
        self.ups: list[float] = []
        """When `skyriver up` was called: neither supervisor nor control plane were there to help each other."""
        self.supervised = bool(living(cloud, "supervisor"))
        self._cloud = cloud
        self._probe = probe
        self._deadline = deadline
        self._up: subprocess.Popen[bytes] | None = None

    def turn(self) -> None:
        for kill in self.journal.open_kills():
            if kill.dead_at is not None:
                kill.back_at = self._back(kill, kill.dead_at)
            if kill.back_at is not None:
                continue
            if time.monotonic() - kill.at > self._deadline:
                self._give_up(kill)
        self._help()

    def _back(self, kill: Kill, dead_at: float) -> float | None:
        if kill.kind in _ANSWERS:
            return self.journal.first_answer(_ANSWERS[kill.kind], dead_at)
        now = time.monotonic()
        if kill.kind == "supervisor":
            return now if any(v.pid != kill.pid for v in living(self._cloud, "supervisor")) else None
        looked, rows = self._probe.seen
        if looked < dead_at:
            return None
        row = rows.get((kill.kind, kill.name))
        if row is None or row["state"] in ("DRAINING", "STOPPED", "SUCCEEDED", "FAILED", "CANCELLED"):
            if state_of(kill.pid) not in ("", "Z", "X"):
                return None
            kill.over = row["state"] if row is not None else "gone"
            return now
        if not row["alive"] or row["pid"] == kill.pid:
            return None
        return now if kill.kind == "job" or (row["state"] == "READY" and row["report"].get("ready")) else None

    def _help(self) -> None:
        if any(state_of(v.pid) != "T" for kind in ("control", "supervisor") for v in living(self._cloud, kind)):
            return
        if self._up is not None and self._up.poll() is None:
            if time.monotonic() - self.ups[-1] < UP_SECONDS:
                return
            self._up.kill()  # what it had started is dead again, and it waits for what served before
            self._up.wait()
        self.ups.append(time.monotonic())
        log = (self._cloud.folder / "up.log").open("ab")
        with log:
            self._up = subprocess.Popen(
                [str(COMMAND), "--home", str(self._cloud.home), "up"],
                cwd=self._cloud.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _give_up(self, kill: Kill) -> None:
        kill.lost = True
        tell(f"NOT BACK after {self._deadline:g} s: {kill}; home {self._cloud.home}")
        for line in self.evidence(kill):
            tell(f"  {line}")
        if kill.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(kill.pid, signal.SIGCONT)

    def evidence(self, kill: Kill) -> list[str]:
        """The last lines of the logs concerned."""
        logs = self._cloud.home / "logs"
        names = {
            "control": ["control.log", "supervisor.log"],
            "supervisor": ["supervisor.log", "control.log"],
            "gateway": ["../gateway/haproxy.log", "supervisor.log", "control.log"],
            "job": [f"jobs/default.job.{kill.name}.log", "control.log"],
        }.get(kill.kind, [f"default.{kill.kind}.{kill.name}.log", "control.log"])
        found = []
        for name in names:
            with contextlib.suppress(OSError):
                lines = (logs / name).read_text(errors="replace").splitlines()[-LINES:]
                found += [f"{name}: {line}" for line in lines]
        row = self._probe.seen[1].get((kill.kind, kill.name))
        return [*found, f"the API's row: {row}"[:600], *(f"  {text}" for text in self.journal.around(kill))]

    def end(self, seconds: float = 60.0) -> None:
        super().end(seconds)
        if self._up is not None:
            self._up.wait(DEADLINE_SECONDS)
