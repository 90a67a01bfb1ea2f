"""Cutting the power: a part works under the recording layer, and what each cut leaves is opened and looked at.

`examine` starts a child with the layer preloaded (`python -m powercut.examine LAYER`), which gets tasks and gives
reports as JSON. One recorded piece of work gives many cuts: the disk is led through the trace once and leaves a tree at
each place. Every check is recorded too, and a share of the cuts is followed by a second one, into the recovery from the
first. At some places the process is killed before, so that what it left unsynced meets its successor.
"""

from __future__ import annotations

import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from powercut.disk import Disk
from powercut.fate import Fate
from powercut.layer import Event, Kind, Lie, environment, mark, read_trace, recording
from powercut.part import Lost, Part, Wrong

KILLED = 0.2
"""Share of the places at which the process is killed, and the power is cut while the next one goes on."""
AGAIN = 0.25
"""Share of the cuts that are followed by a second one."""
YOUNG, _BEGINNING = 0.3, 60
"""So much likelier, all together, are places among the first events: folders, files and schemas are made there."""
_MEMORY = Path("/dev/shm")
"""The trees lie in memory where that can be: the disk is the model, and the real one need not wait for anything."""
_SYNCS, _FIRST_SYNCS = (Kind.SYNC, Kind.DATASYNC, Kind.RANGESYNC), 8
_NAMES = (Kind.RENAME, Kind.LINK, Kind.MKDIR)
_NEAR = {Kind.MARK: 6, Kind.SYNC: 4, Kind.DATASYNC: 4, Kind.RANGESYNC: 4, Kind.RENAME: 4, Kind.UNLINK: 3, Kind.LINK: 3}
"""How much likelier a cut falls right after such an event, or right before it, than elsewhere."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One law that one cut broke. `what`: "lost", "wrong" (shown without an error), or "stuck" (it does not open)."""

    what: str
    message: str
    at: int
    fate: int
    way: str
    second: bool


@dataclass(slots=True)
class Report:
    part: str
    seed: int
    cuts: int = 0
    second_cuts: int = 0
    """Of these, into what followed a cut or a kill."""
    kills: int = 0
    events: int = 0
    syncs: int = 0
    acknowledged: int = 0
    """Words said, at the cuts all together: what each check had to find."""
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Task:
    part: str
    seed: int
    cuts: int
    """Without the second ones."""
    lie: Lie = "none"
    ordered: bool = False
    """On the lenient disk."""


def examine(tasks: Sequence[Task], library: Path, *, timeout: float = 600.0) -> list[Report]:
    """A report a task. Raises AssertionError when the child fails, as it does when the layer missed an operation."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "powercut.examine", str(library)],
        env={**environment(library), "PYTHONPATH": os.pathsep.join(paths)},
        input=json.dumps([asdict(task) for task in tasks]),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"the examination ended with {done.returncode}:\n{done.stderr[-4000:]}"
    reports = json.loads(done.stdout)
    return [Report(**{**r, "findings": [Finding(**finding) for finding in r["findings"]]}) for r in reports]


# From here on in the child


class Examination:
    def __init__(self, part: Part, library: Path, place: Path, task: Task) -> None:
        self._part, self._library, self._place, self._task = part, library, place, task
        self._boot = uuid.uuid4()
        """Of the machine while the part works."""

    def run(self) -> Report:
        begun, seed = time.perf_counter(), self._task.seed
        report = Report(self._part.name, seed)
        luck = random.Random(f"{self._part.name} {seed}")
        root = self._place / "root"
        root.mkdir()
        disk, running = self._disk(root), self._disk(root)
        _boot(self._boot)
        events = self._record(root, lambda: self._part.work(root, random.Random(seed), self._say))
        self._nothing_missed(running, events, root)
        report.events = len(events)
        report.syncs = sum(e.kind in _SYNCS for e in events)
        kills = round(self._task.cuts * KILLED)
        places = [(place, self._kill) for place in _before_syncs(events, kills, luck)]
        places += [(place, self._cut) for place in _positions(events, self._task.cuts - kills, luck)]
        at = 0
        for place, what_follows in sorted(places, key=lambda pair: pair[0]):
            for event in events[at:place]:
                disk.take(event)
            at = place
            what_follows(disk, place, _words(events[:place]), luck.getrandbits(32), report)
        report.seconds = round(time.perf_counter() - begun, 2)
        return report

    def _cut(self, disk: Disk, at: int, told: list[Any], seed: int, report: Report, *, second: bool = False) -> None:
        """Looks at what one cut leaves, and perhaps cuts into that."""
        fate, luck = Fate(seed), random.Random(seed + 1)
        left = self._place / ("second" if second else "first")
        shutil.rmtree(left, ignore_errors=True)
        disk.leave(left, fate)
        report.cuts += 1
        report.second_cuts += second
        report.acknowledged += len(told)
        after = self._disk(left)
        _boot(uuid.uuid4())
        events = self._check(left, told, Finding("", "", at, seed, fate.way, second), report)
        if events and not second and luck.random() < AGAIN:
            self._cut_into(after, events, at, told, luck, report)

    def _kill(self, disk: Disk, at: int, told: list[Any], seed: int, report: Report) -> None:
        """The process is killed, which loses nothing; the next one goes on, and then the power is cut."""
        left = self._place / "first"
        shutil.rmtree(left, ignore_errors=True)
        after = disk.go_on(left)
        report.kills += 1
        _boot(self._boot)
        events = self._check(left, told, Finding("", "", at, seed, "kill", second=False), report)
        self._cut_into(after, events, at, told, random.Random(seed), report)

    def _cut_into(
        self, disk: Disk, events: list[Event], at: int, told: list[Any], luck: random.Random, report: Report
    ) -> None:
        (again,) = _positions(events, 1, luck)
        for event in events[:again]:
            disk.take(event)
        self._cut(disk, at, told + _words(events[:again]), luck.getrandbits(32), report, second=True)

    def _check(self, left: Path, told: list[Any], finding: Finding, report: Report) -> list[Event]:
        """What the part did in it; nothing when it failed."""
        failed = False

        def check() -> None:
            nonlocal failed
            try:
                self._part.check(left, told, self._say)
            except Exception as error:
                failed = True
                what = "lost" if isinstance(error, Lost) else "wrong" if isinstance(error, Wrong) else "stuck"
                message = f"{type(error).__name__}: {error}"[:400]
                report.findings.append(replace(finding, what=what, message=message))

        events = self._record(left, check)
        return [] if failed else events

    def _disk(self, root: Path) -> Disk:
        return Disk(root, ordered=self._task.ordered)

    def _say(self, *words: Any) -> None:
        mark(self._library, words)

    def _record(self, root: Path, work: Callable[[], None]) -> list[Event]:
        trace = self._place / "trace"
        with recording(self._library, root, trace, lie=self._task.lie):
            work()
        return read_trace(trace)

    def _nothing_missed(self, running: Disk, events: Sequence[Event], root: Path) -> None:
        """The layer saw everything: what it recorded gives the very tree that lies there."""
        for event in events:
            running.take(event)
        shown = self._place / "shown"
        running.show(shown)
        differs = differences(shown, root)
        assert not differs, f"the layer missed operations: {differs}"
        shutil.rmtree(shown)


def differences(one: Path, two: Path) -> list[str]:
    """Where two trees differ, in names, kinds, modes or bytes (those of a -shm, which is memory, left out)."""
    found = []
    names = {path.relative_to(one) for path in one.rglob("*")} | {path.relative_to(two) for path in two.rglob("*")}
    for name in sorted(names):
        left, right = one / name, two / name
        if left.is_symlink() or right.is_symlink():
            same = left.is_symlink() and right.is_symlink() and left.readlink() == right.readlink()
        elif not (left.exists() and right.exists()) or left.is_dir() != right.is_dir():
            same = False
        else:
            same = left.stat().st_mode == right.stat().st_mode
            if same and left.is_file() and left.suffix != ".db-shm":
                same = filecmp.cmp(left, right, shallow=False)
        if not same:
            found.append(str(name))
    return found


def _positions(events: Sequence[Event], count: int, luck: random.Random) -> list[int]:
    """Ascending places between events: 0 is before the first. The beginning, where all is made, comes up often."""
    weights = [1.0] * (len(events) + 1)
    for place, event in enumerate(events):
        weights[place] += _NEAR.get(event.kind, 0) // 2
        weights[place + 1] += _NEAR.get(event.kind, 0)
    young = sum(weights) * YOUNG / _BEGINNING
    weights[:_BEGINNING] = [weight + young for weight in weights[:_BEGINNING]]
    return sorted(luck.choices(range(len(events) + 1), weights, k=count))


def _before_syncs(events: Sequence[Event], count: int, luck: random.Random) -> list[int]:
    """Places where something was done and its sync was not: a third at the first syncs, a third where it got a name."""
    places = [place for place, event in enumerate(events) if event.kind in _SYNCS] or [0]
    named = [place for place in places if any(e.kind in _NAMES for e in events[max(0, place - 3) : place])]
    return [luck.choice(luck.choice((places[:_FIRST_SYNCS], named or places, places))) for _ in range(count)]


def _words(events: Sequence[Event]) -> list[Any]:
    return [json.loads(event.one) for event in events if event.kind is Kind.MARK]


def _boot(boot: uuid.UUID) -> None:
    """From here on this process takes the machine to have been started as `boot`."""
    from skyriver.adapters.processes import identity

    identity.boot_id = lambda: str(boot)  # type: ignore[assignment]


def main() -> int:
    from powercut.parts import make_parts

    library = Path(sys.argv[1])
    parts = make_parts(library.parent / "kernels")
    reports = []
    for given in json.load(sys.stdin):
        task = Task(**given)
        with tempfile.TemporaryDirectory(prefix="powercut-", dir=_MEMORY if _MEMORY.is_dir() else None) as place:
            reports.append(Examination(parts[task.part], library, Path(place), task).run())
    print(json.dumps([asdict(report) for report in reports]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
