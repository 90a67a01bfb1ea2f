"""What happens to requests when there are too many, versions change, or nothing runs: the product as a user has it,
under an open loop (`_serving_load.py`)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _document import Document
from _processes import SKYRIVER, Failed, cloud_home, free_port, processes_of, workplace
from _serving_models import Case, Models, slow_model
from _serving_systems import BENCH, System, check, product, product_environment, start_cloud, started
from _serving_wrk import load, realtime

from skyriver.adapters.haproxy.process import recorded

SLOW = Case("slow", 1)
TREES = Case("trees", 1)
DEADLINE_S = 0.5
SLOW_TURNS = 2_500
"""Some 3.5 ms of a core: far less than 500 requests a second, so that the sender is not what is measured."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """How long and how often."""

    overload_seconds: float
    swaps: int
    rate: float
    """Requests a second while versions are swapped and gateways killed."""
    kills: int
    wakes: int
    starts: int
    slow_seconds: float
    realtime: bool = False


FULL = Scenes(overload_seconds=20, swaps=100, rate=1_000, kills=20, wakes=40, starts=5, slow_seconds=30)
QUICK = Scenes(overload_seconds=8, swaps=10, rate=1_000, kills=6, wakes=6, starts=3, slow_seconds=12)


@dataclass
class Sending:
    """An open loop that runs; its figures once it has ended."""

    process: subprocess.Popen[bytes]
    out: Path
    """A file: a pipe that nobody reads before it ends would be full long before that."""
    found: dict[str, Any] = field(default_factory=dict)

    def wait(self, seconds: float) -> None:
        """Raises Failed."""
        try:
            _, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"the sender did not end within {seconds:.0f} s") from error
        if self.process.returncode:
            raise Failed(f"the sender ended with {self.process.returncode}: {err.decode(errors='replace')[-400:]}")
        self.found = json.loads(self.out.read_bytes())

    def stop(self) -> None:
        """No more is sent; what is under way is waited for."""
        self.process.send_signal(signal.SIGTERM)
        self.wait(90)

    def counts(self) -> dict[str, int]:
        """By status; 0 is a connection that broke."""
        return {str(status): count for status, count in sorted(Counter(self.found["status"]).items())}

    def failed(self) -> int:
        return sum(status != 200 for status in self.found["status"])


def sending(
    folder: Path, system: System, case: Case, body: bytes, rate: float, seconds: float, *options: str
) -> AbstractContextManager[Sending]:
    return _sending(folder, system, case, body, "--rate", str(rate), "--seconds", str(seconds), *options)


def sending_at(
    folder: Path, system: System, case: Case, body: bytes, arrivals: Iterable[float]
) -> AbstractContextManager[Sending]:
    """`arrivals`: when each request is due, seconds from the start, ascending."""
    file = folder / "open.arrivals"
    file.write_text("".join(f"{due:.6f}\n" for due in arrivals))
    return _sending(folder, system, case, body, "--arrivals", str(file))


@contextmanager
def _sending(folder: Path, system: System, case: Case, body: bytes, *options: str) -> Iterator[Sending]:
    file = folder / "open.body"
    file.write_bytes(body)
    command = [sys.executable, str(BENCH / "_serving_load.py"), system.url(case), str(file)]
    command += ["--token", system.token, *options]
    out = folder / "open.json"
    with out.open("wb") as file_out:
        process = subprocess.Popen(command, stdout=file_out, stderr=subprocess.PIPE)
    try:
        yield Sending(process, out)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def cloud(
    models: Models, services: dict[str, str], cases: tuple[Case, ...], *options: str
) -> Iterator[tuple[Path, System]]:
    """A home with its cloud, which serves `services` (name: arguments of its `sr.Service`); `options` are of `up`."""
    with cloud_home() as home:
        told = start_cloud(home, models, services, *options)
        port = int(str(told["url"]).rpartition(":")[2])
        system = System("skyriver", "", port, lambda: processes_of(home), token=str(told["token"]), cases=cases)
        check(system, models)
        yield home, system


def _undisturbed(scenes: Scenes, system: System) -> AbstractContextManager[None]:
    return realtime(system.pids()) if scenes.realtime else nullcontext()


def overload(document: Document, models: Models, scenes: Scenes) -> None:
    """Three times as many as one replica can answer, each with a deadline."""
    models.path("slow").write_bytes(slow_model(SLOW_TURNS))
    with cloud(models, {"slow": "replicas=1"}, (SLOW,)) as (home, system):
        body, seconds = models.body(SLOW), scenes.overload_seconds
        with _undisturbed(scenes, system):
            before = load(home.parent, system.url(SLOW), body, system.token, 4, 3, system.pids()).per_second
            with sending(home.parent, system, SLOW, body, 3 * before, seconds, "--deadline", str(DEADLINE_S)) as sent:
                sent.wait(seconds + 90)
            after = load(home.parent, system.url(SLOW), body, system.token, 4, 3, system.pids()).per_second
    capacity = (before + after) / 2
    due, status, latency = (np.array(sent.found[name]) for name in ("due", "status", "latency"))
    window = (due >= 1.0) & (due < scenes.overload_seconds - DEADLINE_S)
    answered = latency[window & (status == 200)]
    good = int((answered <= DEADLINE_S).sum()) / (scenes.overload_seconds - DEADLINE_S - 1.0)
    p99 = float(np.quantile(answered, 0.99)) if len(answered) else float("inf")
    refused = latency[window & (status != 200)]
    document.row(
        "skyriver",
        f"three times the capacity of one replica, deadlines of {DEADLINE_S} s",
        capacity_before_and_after=[round(before), round(after)],
        offered_per_second=round(3 * before),
        answered_in_time_per_second=round(good),
        answered_p50_ms=round(float(np.median(answered)) * 1000, 1) if len(answered) else None,
        answered_p99_ms=round(p99 * 1000, 1),
        refused_p99_ms=round(float(np.quantile(refused, 0.99)) * 1000, 1) if len(refused) else None,
        statuses=sent.counts(),
        sender_share_of_a_core=round(sent.found["cpu_seconds"] / seconds, 2),
        load_average=round(os.getloadavg()[0], 1),
    )
    document.measured("overload_goodput", round(good / capacity, 3))
    document.measured("overload_p99_to_deadline", round(p99 / DEADLINE_S, 3))


def swaps(document: Document, models: Models, scenes: Scenes) -> None:
    """Two versions take over from each other, again and again, while requests come."""
    with cloud(models, {"trees": "replicas=1"}, (TREES,)) as (home, system):
        folder = home.parent / "app"
        shutil.copy(models.path("mlp"), folder / "trees.onnx")
        product(home, "deploy", str(folder / "app.py"), "-y")
        _until_version(system, models.body(TREES), "2")
        seen, took = [], []
        with sending(home.parent, system, TREES, models.body(TREES), scenes.rate, 3_600) as sent:
            for number in range(scenes.swaps):
                wanted = str(1 + number % 2)
                begun = time.perf_counter()
                product(home, "rollback", f"trees:{wanted}")
                _until_version(system, models.body(TREES), wanted)
                took.append(time.perf_counter() - begun)
                seen.append(wanted)
            sent.stop()
    latency = np.array(sent.found["latency"])
    document.row(
        "skyriver",
        f"{len(seen)} swaps under {scenes.rate:.0f} requests a second",
        requests=len(latency),
        statuses=sent.counts(),
        swap_seconds_median=round(median(took), 2),
        p50_ms=round(float(np.median(latency)) * 1000, 2),
        p99_ms=round(float(np.quantile(latency, 0.99)) * 1000, 1),
        most_ms=round(float(latency.max()) * 1000, 1),
    )
    document.measured("swap_failed_requests", sent.failed())


def _until_version(system: System, body: bytes, version: str, seconds: float = 60.0) -> None:
    deadline, last = time.monotonic() + seconds, "nothing"
    while time.monotonic() < deadline:
        status, answer = system.ask(TREES, body)
        last = f"{status} {answer[:100]!r}"
        if status == 200 and json.loads(answer)["model_version"] == version:
            return
        time.sleep(0.01)
    raise Failed(f"version {version} did not answer within {seconds:.0f} s; the last answer: {last}")


def gateway_kills(document: Document, models: Models, scenes: Scenes) -> None:
    """Two gateways share the address, and each is killed in turn; who gets no answer asks once more."""
    with cloud(models, {"trees": "replicas=1"}, (TREES,), "--gateways", "2") as (home, system):
        body, took = models.body(TREES), []
        with sending(home.parent, system, TREES, body, scenes.rate, 3_600, "--retry") as sent:
            for number in range(scenes.kills):
                time.sleep(0.5)
                took.append(_killed_and_back(home / "gateway", 1 + number % 2))
            time.sleep(0.5)
            sent.stop()
    latency = np.array(sent.found["latency"])
    document.row(
        "skyriver",
        f"{scenes.kills} kills of one of two gateways under {scenes.rate:.0f} requests a second",
        requests=len(latency),
        sent_again=sent.found["sent_again"],
        statuses=sent.counts(),
        back_after_seconds_median=round(median(took), 2),
        back_after_seconds_most=round(max(took), 2),
        p99_ms=round(float(np.quantile(latency, 0.99)) * 1000, 1),
        most_ms=round(float(latency.max()) * 1000, 1),
    )
    document.measured("gateway_kill_lost_requests", sent.failed())


def _killed_and_back(folder: Path, number: int, seconds: float = 60.0) -> float:
    """How long it took."""
    before = recorded(folder, number)
    if before is None:
        raise Failed(f"gateway {number} does not run")
    os.kill(before.pid, signal.SIGKILL)
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        now = recorded(folder, number)
        if now is not None and now.pid != before.pid:
            return time.perf_counter() - begun
        time.sleep(0.005)
    raise Failed(f"gateway {number} was not back within {seconds:.0f} s")


@dataclass(slots=True)
class Woken:
    """Of a service that was put to sleep and asked, again and again."""

    longest_s: list[float]
    """Of each wake: how long the request was held that was held longest."""
    requests: int
    lost: int

    def tell(self, document: Document) -> None:
        document.row(
            "skyriver",
            f"{len(self.longest_s)} wakes from zero replicas",
            requests=self.requests,
            longest_held_seconds_median=round(median(self.longest_s), 3),
            longest_held_seconds_most=round(max(self.longest_s), 3),
            load_average=round(os.getloadavg()[0], 1),
        )
        document.measured("wake_p95_seconds", round(float(np.quantile(self.longest_s, 0.95)), 3))


def wake(document: Document, models: Models, scenes: Scenes) -> None:
    woken = wakes(models, scenes, "replicas=(0, 1)")
    woken.tell(document)
    document.measured("wake_lost_requests", woken.lost)


def wakes(models: Models, scenes: Scenes, service: str) -> Woken:
    """A service that sleeps is asked ten times a second until it answers; the first request is held longest."""
    woken = Woken([], 0, 0)
    with cloud(models, {"trees": f'{service}, idle="1h"'}, (TREES,)) as (home, system):
        for _ in range(scenes.wakes):
            product(home, "service", "sleep", "trees")
            _until_asleep(home)
            with (
                _undisturbed(scenes, system),  # and what is started by those processes meanwhile
                sending(home.parent, system, TREES, models.body(TREES), 10, 2.0) as sent,
            ):
                sent.wait(90)
            woken.longest_s.append(max(sent.found["latency"]))
            woken.requests += len(sent.found["latency"])
            woken.lost += sent.failed()
    return woken


def _until_asleep(home: Path, seconds: float = 60.0) -> None:
    """And no replica is left that could answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = product(home, "service", "get", "trees")["state"]
        if state == "SCALED_TO_ZERO" and not processes_of(home, "skyriver.wiring.replica"):
            return
        time.sleep(0.1)
    raise Failed(f"the service did not fall asleep within {seconds:.0f} s: it is {state}")


def standalone(document: Document, models: Models, scenes: Scenes) -> None:
    """From the command to the first prediction, without a cloud."""
    took = []
    for _ in range(scenes.starts):
        port = free_port()
        command = [SKYRIVER, "serve", str(models.path("trees")), "--port", str(port)]
        begun = time.perf_counter()
        with workplace() as folder, started(command, folder, product_environment()) as pid:
            system = System("skyriver serve", "", port, lambda: [pid], cases=(TREES,))
            while time.perf_counter() < begun + 60:
                try:
                    status, answer = system.ask(TREES, models.body(TREES))
                except OSError:
                    time.sleep(0.005)
                    continue
                if status != 200:
                    raise Failed(f"`skyriver serve` answers {status}: {answer[:200]!r}")
                break
            else:
                raise Failed(f"`skyriver serve` did not answer: {(folder / 'log').read_text()[-300:]}")
            took.append(time.perf_counter() - begun)
            check(system, models)
    document.row("skyriver", "skyriver serve to its first prediction", seconds=[round(each, 2) for each in took])
    document.measured("standalone_first_prediction_seconds", round(median(took), 2))
