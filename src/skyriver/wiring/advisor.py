"""Who asks for advice gets it from a process that replays histories, one at a time; answers are kept for a while."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skyriver.control.pricing import Pricing
from skyriver.core.clock import Clock
from skyriver.core.contract_advice import Advice
from skyriver.core.errors import Unavailable
from skyriver.core.names import digest
from skyriver.core.resources import Snapshot
from skyriver.core.units import SECOND
from skyriver.observe.demand import p99_s
from skyriver.observe.metering import app_of
from skyriver.serve.sizing import memory_of
from skyriver.wiring.home import Home

MINUTE: Final = 60 * SECOND
KEPT_US: Final = 10 * MINUTE
"""An answer, while prices and declarations stay as they were."""
MOST_US: Final = 30 * MINUTE
"""For a process to answer."""
ANSWERS: Final = 32


@dataclass(slots=True)
class _Run:
    """Of a tenant's question."""

    digest: str
    asked_at: int
    question: Mapping[str, Any]
    process: subprocess.Popen[bytes] | None = None
    began: int = 0
    answer: Mapping[str, Any] | None = None
    failed: str = ""

    @property
    def is_over(self) -> bool:
        return self.answer is not None or bool(self.failed)


class ChildAdvisor:
    """`environment`: of the process. `stop` ends it."""

    def __init__(self, home: Home, pricing: Pricing, clock: Clock, environment: Mapping[str, str]) -> None:
        self._home, self._pricing, self._clock, self._environment = home, pricing, clock, environment
        self._folder = home.run / "advice"
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, str, str], _Run] = {}

    def advise(
        self, snapshot: Snapshot, tenant: str, service: str, declared: Mapping[str, Any] | None = None
    ) -> Advice:
        prices, now = self._pricing.now(), self._clock.monotonic()
        rows = [row for row in snapshot.all(tenant, "service") if service in ("", row.name)]
        services = [
            {"name": row.name, "app": app_of(snapshot.find(tenant, "model", row.name)), "serve": row.spec["serve"]}
            for row in sorted(rows, key=lambda row: row.name)
            if row.spec.get("versions")
        ]
        question = {
            "home": str(self._home.root),
            "tenant": tenant,
            "prices": prices.to_json(),
            "services": services,
            "declared": declared,
        }
        known = digest(question)
        key = tenant, service, digest(declared) if declared is not None else ""
        with self._lock:
            run = self._runs.get(key)
            stale = run is not None and run.is_over and (run.digest != known or now - run.asked_at > KEPT_US)
            if run is None or stale:
                known_now = {row.name: {"p99_s": p99_s(snapshot, row), "memory_mb": memory_of(row)} for row in rows}
                for one in services:
                    one |= known_now[one["name"]]
                run = self._runs[key] = _Run(known, now, {**question, "now": snapshot.now / SECOND})
                self._drop()
            self._go_on(now)
            if run.failed:
                del self._runs[key]
                raise Unavailable(
                    f"No advice could be computed: {run.failed}",
                    code="NO_ADVICE",
                    next_action="Ask again; the log of the control plane has the rest.",
                )
            return self._told(run)

    def stop(self) -> None:
        with self._lock:
            for run in self._runs.values():
                if run.process is not None:
                    _end(run.process)
            self._runs.clear()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _told(self, run: _Run) -> Advice:
        answer = run.answer if run.answer is not None else self._read(run) if run.process is not None else {}
        prices = run.question["prices"]
        state: Any = "DONE" if run.answer is not None else "REPLAYING" if run.process is not None else "WAITING"
        return {
            "state": state,
            "done": float(answer.get("done", 0.0)),
            "items": answer.get("items", ()),
            "currency": prices["currency"],
            "as_of": prices["as_of"],
            "source": prices["source"],
        }

    def _go_on(self, now: int) -> None:
        """What has ended is read, and the oldest that waits begins."""
        for run in self._runs.values():
            if run.process is None:
                continue
            ended = run.process.poll()
            if ended is None and now - run.began > MOST_US:
                _end(run.process)
                run.failed, run.process = f"it took longer than {MOST_US // MINUTE} minutes.", None
            elif ended is not None:
                run.process = None
                answer = self._read(run)
                if ended == 0 and "items" in answer:
                    run.answer = answer
                else:
                    run.failed = f"its process ended with {ended}."
            if run.process is None:
                for path in self._paths(run):
                    path.unlink(missing_ok=True)
        if any(run.process is not None for run in self._runs.values()):
            return
        waiting = min(
            (run for run in self._runs.values() if not run.is_over), key=lambda run: run.asked_at, default=None
        )
        if waiting is not None:
            self._begin(waiting, now)

    def _begin(self, run: _Run, now: int) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            asked, answer = self._paths(run)
            answer.unlink(missing_ok=True)
            asked.write_text(json.dumps(run.question))
            command = [sys.executable, "-m", "skyriver.wiring.advising", str(asked), str(answer)]
            run.process = subprocess.Popen(command, env=dict(self._environment), stdin=subprocess.DEVNULL)
            run.began = now
        except OSError as error:
            run.failed = f"{error.strerror}."

    def _read(self, run: _Run) -> Mapping[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            told: dict[str, Any] = json.loads(self._paths(run)[1].read_bytes())
            return told
        return {}

    def _paths(self, run: _Run) -> tuple[Path, Path]:
        name = run.digest[:24]
        return self._folder / f"{name}.question", self._folder / f"{name}.answer"

    def _drop(self) -> None:
        """The oldest answers."""
        over = sorted((run.asked_at, key) for key, run in self._runs.items() if run.is_over)
        for _, key in over[: max(0, len(self._runs) - ANSWERS)]:
            del self._runs[key]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
