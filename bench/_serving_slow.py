"""One of four servers behind the gateway becomes five times slower: when it gets no more requests, and what is noticed
of it by those who ask.

The servers only wait (`_serving_standin.py`), so that it is the gateway that is measured and not two cores for four
models. The gateway is the product's, looked at as its supervisor looks at it.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from _document import Document
from _processes import Failed, free_port, processes_of, workplace
from _serving_models import Models
from _serving_scenes import TREES, Scenes, sending
from _serving_systems import BENCH, System, product_environment
from _serving_wrk import realtime

from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.control.outliers import LOOK_SECONDS
from skyriver.core.resources import Pool, Route, RouteTable, Server

SERVERS = 4
WAIT_S = 0.010
RATE = SERVERS / WAIT_S / 2
"""Half of what they can answer."""
TOKEN = "bench"
TRIED = 0.1
"""A server that gets less than this part of its even share is out; HAProxy still tries whether it is well again."""


def slow_replica(document: Document, models: Models, scenes: Scenes) -> None:
    seconds, at = scenes.slow_seconds, scenes.slow_seconds / 3
    with workplace() as folder, _standins(folder) as (process, sockets), _gateway(folder, sockets) as port:
        system = System("skyriver", "", port, lambda: processes_of(folder), token=TOKEN, cases=(TREES,))
        pids = [process.pid, *system.pids()]
        with (
            realtime(pids) if scenes.realtime else nullcontext(),
            sending(folder, system, TREES, models.body(TREES), RATE, seconds) as sent,
        ):
            time.sleep(at)
            process.send_signal(signal.SIGUSR1)
            slow_from = time.monotonic()
            sent.wait(seconds + 90)
        process.send_signal(signal.SIGTERM)
        asked = [np.array(each) for each in json.loads(process.communicate(timeout=30)[0])]
    if sent.failed():
        raise Failed(f"not all requests were answered well: {sent.counts()}")
    due = np.array(sent.found["due"]) + sent.found["began"]
    latency = np.array(sent.found["latency"]) * 1000
    out_after = ejected(asked[0], slow_from, due.max())
    before = latency[(due > due.min() + 1) & (due < slow_from - 0.1)]
    after = latency[due > slow_from + 2]
    ratio = float(np.quantile(after, 0.99) / np.quantile(before, 0.99))
    document.row(
        "skyriver",
        f"one of {SERVERS} servers becomes five times slower, {RATE:.0f} requests a second, half of what they can",
        ejected_after_seconds=None if out_after is None else round(out_after, 2),
        p50_ms_before_and_after=[round(float(np.median(each)), 2) for each in (before, after)],
        p99_ms_before_and_after=[round(float(np.quantile(each, 0.99)), 2) for each in (before, after)],
        p99_ms_in_the_first_two_seconds=round(
            float(np.quantile(latency[(due > slow_from) & (due < slow_from + 2)], 0.99)), 2
        ),
        requests_to_the_slow_one_after_two_seconds=int((asked[0] > slow_from + 2).sum()),
        requests=len(latency),
    )
    if out_after is None:
        document.missed("slow_replica_ejected_seconds", "it was never out")
    else:
        document.measured("slow_replica_ejected_seconds", round(out_after, 2))
    document.measured("slow_replica_p99_ratio", round(ratio, 2))


def ejected(asked: np.ndarray, slow_from: float, end: float) -> float | None:
    """Seconds until a second began in which it got less than TRIED of its share."""
    for start in np.arange(slow_from, end - 1, 0.05):
        if ((asked >= start) & (asked < start + 1)).sum() < TRIED * RATE / SERVERS:
            return float(start - slow_from)
    return None


@contextmanager
def _standins(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    sockets = [str(folder / f"s{number}") for number in range(SERVERS)]
    command = [sys.executable, str(BENCH / "_serving_standin.py"), str(WAIT_S), *sockets]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=product_environment())
    try:
        deadline = time.monotonic() + 60
        while not all(Path(each).exists() for each in sockets):
            if time.monotonic() > deadline or process.poll() is not None:
                raise Failed("the servers did not start")
            time.sleep(0.02)
        yield process, sockets
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _gateway(folder: Path, sockets: list[str]) -> Iterator[int]:
    """Its port."""
    port = free_port()
    gateway = HaproxyGateway(folder / "gateway", port=port, control_socket=folder / "control.sock")
    pool = Pool("bench", "trees:1", tuple(Server(f"s{n}", socket) for n, socket in enumerate(sockets)))
    token = hashlib.sha256(TOKEN.encode()).hexdigest()
    route = Route("bench", "model", "trees", (("trees:1", 100),))
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            gateway.look()

    gateway.start()
    looking = threading.Thread(target=look)
    try:
        gateway.apply(RouteTable((route,), (pool,), ((token, "bench"),)))
        looking.start()
        yield port
    finally:
        ended.set()
        if looking.ident:
            looking.join()
        gateway.stop()
