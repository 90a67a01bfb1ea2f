"""Kills of all that has a part in a stream, while the simulated payments go through it; then its other disturbances."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from _document import ROOT, Document, Goal, tell

sys.path.insert(0, str(ROOT / "tests"))  # the cloud and the worker of the tests, and those who disturb them
from cloud_process import Cloud
from kills.journal import Journal, quantile
from kills.stream_campaign import StreamCampaign, StreamOutcome
from kills.stream_disturbances import CLOCK, ClockTrial, full_disk, stopped
from kills.stream_examination import Findings
from kills.stream_plan import make_plan
from worker_process import Worker, declare

GOALS = (
    Goal("stream_kills", ">=", 1_000, "kills"),
    Goal("stream_payments", ">=", 1_750_000, "payments"),
    Goal("replay_differences", "<=", 0, "rows"),
    Goal("oracle_differences", "<=", 0, "values"),
    Goal("table_differences", "<=", 0, "rows"),
    Goal("acting_wrong", "<=", 0, "things"),
    Goal("worker_recovery_p50_seconds", "<=", 10, "s"),
    Goal("worker_recovery_p95_seconds", "<=", 30, "s"),
    Goal("stream_not_ready_again", "<=", 0, "things"),
    Goal("stream_left_or_wrong", "<=", 0, "things"),
    Goal("disturbances_wrong", "<=", 0, "things"),
)
KILLED = tuple(goal.name for goal in GOALS if goal.name != "disturbances_wrong")
KINDS = ("worker", "builder", "producer", "job", "control", "supervisor", "gateway", "dispatcher")
DISK_MB = 40


def kill_stream(document: Document, kills: int, seed: int, *, minutes: float, quick: bool) -> StreamOutcome:
    """All 1.75 million payments, half of them after the history; quick: a small world of 40,000."""
    tell(f"{kills} kills of a stream with --seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="srs-"))
    scale, days, chunks = ("tiny", 20, 6) if quick else ("full", 92, 24)
    plan = make_plan(folder / "plan", scale=scale, stream_days=days, chunks=chunks, seed=seed)
    cloud = Cloud(folder)
    campaign = StreamCampaign(cloud, plan, seed)
    try:
        outcome = campaign.run(kills, 60 * minutes)
    except BaseException as error:
        document.measured("stream_kills", len(campaign.journal.kills), broken=f"broken off: {error!r}"[:600])
        raise
    finally:
        cloud.close()
    _rows(document, outcome, seed)
    _measured(document, outcome, kills, quick=quick)
    return outcome


def _measured(document: Document, outcome: StreamOutcome, kills: int, *, quick: bool) -> None:
    journal, found = outcome.journal, outcome.found
    if quick and len(journal.kills) >= kills:
        document.missed("stream_kills", f"--quick: {len(journal.kills)} of them", wanted=False)
    else:
        document.measured("stream_kills", len(journal.kills))
    if quick:
        document.missed("stream_payments", f"--quick: {found.checked['events']} of them", wanted=False)
    else:
        document.measured("stream_payments", found.checked["events"])
    for name, differences, compared in (
        ("replay_differences", found.replay, found.checked["compared_with_replay"]),
        ("oracle_differences", found.oracle, found.checked["compared_with_oracle"]),
        ("table_differences", found.tables, found.checked["rows_of_payments"]),
    ):
        document.measured(name, differences, broken="" if compared else "nothing was compared")
    for name, wrong in (
        ("acting_wrong", found.acting),
        ("stream_not_ready_again", outcome.not_back),
        ("stream_left_or_wrong", outcome.wrong),
    ):
        document.measured(name, len(wrong), note="; ".join(wrong[:3])[:1_000])
    times = journal.recoveries("worker")
    for share, name in ((0.5, "worker_recovery_p50_seconds"), (0.95, "worker_recovery_p95_seconds")):
        if times:
            document.measured(name, round(quantile(times, share), 2))


def _rows(document: Document, outcome: StreamOutcome, seed: int) -> None:
    journal = outcome.journal
    for kind in KINDS:
        for was_stopped in (False, True):
            killed = [k for k in journal.kills if k.kind == kind and k.stopped == was_stopped]
            if killed:
                how = "stopped" if was_stopped else "killed"
                document.row("skyriver", f"a stream's {how} {kind}", **_figures(journal, kind, stopped=was_stopped))
    moments = {m: sum(k.moment == m for k in journal.kills) for m in sorted({k.moment for k in journal.kills})}
    figures = {"seed": seed, "seconds": round(outcome.seconds), "ups": outcome.ups}
    document.row("skyriver", "kills of a stream by moment", **figures, **moments)
    more = {"producer_starts": outcome.producer_starts, "decisions_asked_for_again": outcome.asked}
    document.row("skyriver", "a stream examined", **outcome.found.checked, **more)


def _figures(journal: Journal, kind: str, *, stopped: bool) -> dict[str, float]:
    """Only of what answers somebody the recovery is timed; producers, builders and jobs do not."""
    figures: dict[str, float] = {"kills": sum(k.kind == kind and k.stopped == stopped for k in journal.kills)}
    times = [] if kind in ("producer", "builder", "job") else journal.recoveries(kind, stopped=stopped)
    if times:
        shares = {"p50_seconds": 0.5, "p95_seconds": 0.95, "max_seconds": 1.0}
        figures |= {name: round(quantile(times, share), 2) for name, share in shares.items()}
    return figures


# The other disturbances


def disturb(document: Document, *, quick: bool) -> None:
    """Each once, on a worker of its own."""
    seconds = 5.0 if quick else 60.0
    wrong: list[str] = []
    for case, trial in (
        ("a full disk, three times, durability process", lambda f: _full_disk(f, "process")),
        ("a full disk, three times, durability disk", lambda f: _full_disk(f, "disk")),
        ("the clock back a day, forward to an hour too much, right again", _set_clock),
        (f"the worker stopped for {seconds:g} s and taken over", lambda f: _stopped(f, seconds, taken_over=True)),
        (f"the worker stopped for {seconds:g} s", lambda f: _stopped(f, seconds, taken_over=False)),
    ):
        wrong += _disturbed(document, case, trial)
    document.measured("disturbances_wrong", len(wrong), note="; ".join(wrong[:3])[:1_000])


def _disturbed(document: Document, case: str, trial: Callable[[Path], Findings]) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="srd-") as folder:
        began = time.monotonic()
        try:
            found = trial(Path(folder))
        except Exception as error:
            traceback.print_exc()
            found = Findings(told=[f"it broke off: {type(error).__name__}: {error}"[:300]])
    problems = [f"{case}: {text}" for text in found.problems]
    seconds = round(time.monotonic() - began, 1)
    document.row("skyriver", case, seconds=seconds, wrong=len(problems), **found.checked)
    return problems


@contextmanager
def _worker(folder: Path, kernels: Path, durability: str = "process") -> Iterator[Worker]:
    worker = Worker(folder / "w", kernels, declare(durability))
    try:
        yield worker
    finally:
        worker.close()


def _full_disk(folder: Path, durability: str) -> Findings:
    disk = folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "tmpfs"]
    subprocess.run(["mount", *options, str(disk)], check=True, capture_output=True)
    try:
        with _worker(disk, folder / "kernels", durability) as worker:
            return full_disk(worker, disk, rounds=3)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)


def _set_clock(folder: Path) -> Findings:
    clock = folder / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK)
    with _worker(folder, folder / "kernels") as worker:
        path = os.pathsep.join(p for p in (str(clock), os.environ.get("PYTHONPATH", "")) if p)
        worker.environment["PYTHONPATH"] = path
        return ClockTrial(worker, clock).run()


def _stopped(folder: Path, seconds: float, *, taken_over: bool) -> Findings:
    with _worker(folder, folder / "kernels") as worker:
        return stopped(worker, seconds, taken_over=taken_over)
