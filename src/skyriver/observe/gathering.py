"""What the replicas of a version counted of the rows that they were asked, by the quarters of the window in which that
was. Pure.

Replicas tell sums that only grow (`skyriver.release.requests`), in the reports that they write anyway. What they added
since the look before falls into the present quarter; what a process added that ended between two looks is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.units import SECOND
from skyriver.release.stepping import processes_of

GATHER_US: Final = 60 * SECOND
"""Not sooner after the one before."""
QUARTERS: Final = 4


def pause_of(window_us: int, look_us: int) -> int:
    """Between two of these, as a watch looks: each is written, so that who goes on after a kill knows it. A quarter
    sees some of them."""
    return max(1, min(look_us, window_us // (4 * QUARTERS)))


def gathered(
    snapshot: Snapshot,
    before: Mapping[str, Any] | None,
    service: Resource,
    version: Resource,
    *,
    window_us: int,
    pause_us: int = GATHER_US,
) -> dict[str, Any]:
    """`before`: what this gave the last time, which it is again where it is too early. `since`: from when on all was
    counted (wall microseconds); it begins anew where nobody looked for a quarter, of which no count is known. What a
    replica counted that goes is taken before `pause_us` is over."""
    quarter_us = max(1, window_us // QUARTERS)
    same = before is not None and (before["version"], before["window_us"]) == (version.spec["version"], window_us)
    if before is None or not same:
        before = {"at": 0, "since": snapshot.now, "processes": {}, "quarters": []}
    elif 0 <= snapshot.now - before["at"] < pause_us and not (
        snapshot.now - before["at"] >= GATHER_US and _goes(snapshot, before, service, version)
    ):
        return dict(before)
    elif snapshot.now - before["at"] >= quarter_us:
        before = {**before, "at": 0, "since": snapshot.now}
    known = {
        name: told
        for name, told in before["processes"].items()
        if 0 <= snapshot.now - told["at"] < quarter_us  # what was counted over a longer time is of no one quarter
    }
    quarters: dict[int, list[float]] = {int(quarter): list(counts) for quarter, counts in before["quarters"]}
    now = snapshot.now // quarter_us
    for process in processes_of(snapshot, service, int(version.spec["version"])):
        log = _log(process, version)
        if log is None:
            continue
        since = _since(log, known.get(process.name), before["at"])
        if since is not None and any(since):
            quarters[now] = [a + b for a, b in zip(quarters[now], since, strict=True)] if now in quarters else since
        known[process.name] = {"at": snapshot.now, "began": log["began"], "counts": log["counts"]}
    oldest = (snapshot.now - window_us) // quarter_us
    return {
        "version": version.spec["version"],
        "window_us": window_us,
        "at": snapshot.now,
        "since": before["since"],
        "processes": known,
        "quarters": [[quarter, _rounded(counts)] for quarter, counts in sorted(quarters.items()) if quarter >= oldest],
    }


def _goes(snapshot: Snapshot, before: Mapping[str, Any], service: Resource, version: Resource) -> bool:
    """Whether a replica is on its way out that has counted more than is known."""
    ready = {replica.process for replica in snapshot.children(service, "replica") if replica.state == "READY"}
    return any(
        (since := _since(log, before["processes"].get(process.name), before["at"])) is not None and any(since)
        for process in processes_of(snapshot, service, int(version.spec["version"]))
        if (process.name not in ready or not process.alive) and (log := _log(process, version)) is not None
    )


def _log(process: ProcessStatus, version: Resource) -> Mapping[str, Any] | None:
    log: Mapping[str, Any] | None = process.report.get("log")
    return log if log is not None and log["profile"] == version.spec.get("profile") else None


def _since(log: Mapping[str, Any], known: Mapping[str, Any] | None, looked: int) -> list[float] | None:
    """What it counted since the last time; None: how much of it was counted since then is not known."""
    if known is not None and known["began"] == log["began"]:
        return [now - then for now, then in zip(log["counts"], known["counts"], strict=True)]
    return list(log["counts"]) if 0 < looked <= log["began"] else None


def _rounded(counts: Sequence[float]) -> list[float]:
    return [round(count, 2) for count in counts]
