"""More than a disk is to hold: a day's events, and gigabytes of full ones, while retention and tier are at work."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import _payments
from _document import tell
from _full_event import EVENT_BYTES, full_event, tails, write_templates
from _processes import Failed
from _stream_worker import StreamWorker, running, sender

from skyriver.core.spec import AppSpec
from skyriver.wiring.home import Home

if TYPE_CHECKING:
    from streams import Bench

KEYS = 10_000
URL = "/streams/payments/events"
RETENTION_GB, LOCAL_GB = 4.0, 1.0
DEDUPE = "1m"
"""The log has the events of ids that are remembered, whatever its size: by default those of a day."""
KEPT = {"retention_bytes": f"{RETENTION_GB:g}GB", "local_bytes": f"{LOCAL_GB:g}GB", "dedupe": DEDUPE}
SLACK_GB = 1.0
"""Segments that are being closed, copied or given up."""
LOOK_SECONDS = 2.0


class Disk:
    """Looks at what the folders of a worker take on disk; `most` by folder, and of log and tier together."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self._stop = threading.Event()
        self.most: dict[str, float] = defaultdict(float)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(LOOK_SECONDS)  # and once more at the end
            found = {name: gigabytes(folder) for name, folder in self._folders.items()}
            found["log_and_tier"] = found["log"] + found["tier"]
            for name, size in found.items():
                self.most[name] = max(self.most[name], size)


class Tables:
    """Stands for the control plane, which tells a worker what its tables have. A log gives up nothing else."""

    def __init__(self, worker: StreamWorker, onnx: bytes) -> None:
        self._worker, self._onnx = worker, onnx
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def _tell(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._worker.use(self._onnx, materialised=int(self._worker.report()["offset"]) - 1)


def gigabytes(folder: Path) -> float:
    """What its files take, those that go meanwhile left out."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total / 1e9


def measure_volume(bench: Bench) -> None:
    events = round(bench.sizes.volume_gb * 1e9 / EVENT_BYTES)
    tell(f"{events} events of 300 fields ...")
    figures = _run(bench, "full", _payments.declare(full_event(), **KEPT), tails(500), events, 100)
    bench.document.measured("volume_gigabytes", round(figures["gigabytes_through"], 1))
    bench.document.measured("volume_disk_gigabytes", figures["most_gigabytes"]["log_and_tier"])
    bench.document.measured("volume_not_decided", figures["not_decided"])


def measure_day(bench: Bench) -> None:
    tell(f"{bench.sizes.day_events} small events ...")
    figures = _run(bench, "day", _payments.declare(**KEPT), ["}"], bench.sizes.day_events, 1_000)
    bench.document.measured("day_events", figures["events"] - figures["not_decided"])


def _run(bench: Bench, name: str, app: AppSpec, found: list[str], events: int, rows: int) -> dict[str, Any]:
    folder = bench.folder / name
    tier = bench.folder / f"{name}-tier"
    tier.mkdir()
    folder.mkdir()
    Home(folder).tier_settings.write_text(json.dumps({"place": str(tier), "keys": {}}))
    templates = bench.folder / f"{name}.json"
    write_templates(templates, URL, found, KEYS)
    stream = folder / "stream"
    folders = {"log": stream / "log", "tier": tier, "side": stream / "side", "ids": stream / "ids"}
    with (
        running(folder, bench.kernels, app, bench.model, realtime=bench.sizes.realtime) as worker,
        Disk(folders) as disk,
        Tables(worker, bench.model),
    ):
        before = worker.usage()
        arguments = ("--events", str(events), "--rows", str(rows))
        sent = sender("many", worker.socket, str(templates), *arguments, timeout=3 * 3_600)
        if sent["wrong"]:
            raise Failed(f"the worker has answered {sent['statuses']}: {sent['wrong']}")
        seconds = worker.usage().since(before)
        report = worker.wait_for(lambda report: report["decided"] >= events)
    figures = {
        "events": events,
        "gigabytes_through": round(sent["bytes"] / 1e9, 2),
        "not_decided": events - report["decided"],
        "events_per_second": round(events / sent["wall_seconds"]),
        "events_per_cpu_second": round(events / seconds),
        "sender_cpu_share": round(sent["cpu_seconds"] / sent["wall_seconds"], 3),
        "most_gigabytes": {what: round(size, 2) for what, size in disk.most.items()},
        "rss": round(_last_rss(worker), 1),
        "by_status": report["by_status"],
    }
    bench.document.row(
        "skyriver",
        f"volume, {name} events, {rows} a request, retention {RETENTION_GB:g} GB, told that its tables are up to date",
        **figures,
    )
    return figures


def _last_rss(worker: StreamWorker) -> float:
    return float(worker.report()["rss_mb"])
