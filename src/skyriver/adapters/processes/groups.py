"""Control groups, by which the kernel holds a process and all that it starts to cores and memory.

The cloud makes one group of its own, `skyriver-<digest of its home>`, when the first process with limits starts, as
near to its own group as the system lets it: so the limits that it is under itself hold too. In it each process with
limits has a group, removed when the process has ended. Version 1 has a tree for each controller, version 2 has one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from skyriver.core.names import digest
from skyriver.core.resources import Limits
from skyriver.data.folders import replace_file

_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1_000
_CONTROLLERS = ("memory", "cpu")


@dataclass(frozen=True, slots=True)
class Hold:
    """The groups that hold one process. `oom_counter`: where the kernel counts whom it killed for want of memory; ""
    where no group holds the memory."""

    groups: tuple[str, ...] = ()
    oom_counter: str = ""
    cores: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """Where groups can be made: the group of the system's below which the cloud's own is, or would be."""

    version: int
    controllers: tuple[str, ...]
    base: Path


class ControlGroups:
    """`find` tells where groups can be made; it is asked once, when the first are needed."""

    def __init__(self, home: Path, find: Callable[[], list[Tree]] | None = None) -> None:
        self._name = f"skyriver-{digest(str(home).encode())[:12]}"
        self._record = home / "run" / "groups.json"
        self._find = find or trees_of_this_machine
        self._found: list[Tree] | None = None

    def hold(self, name: str, limits: Limits) -> Hold:
        """Makes the groups of a process; what cannot be held so is left to others."""
        wanted = {"memory": limits.memory_mb > 0, "cpu": limits.cpus > 0}
        hold = Hold()
        for tree in self._trees():
            controllers = [c for c in tree.controllers if wanted[c]]
            if not controllers:
                continue
            group = tree.base / self._name / name
            try:
                self._make(tree, group)
                for controller in controllers:
                    _limit(group, tree.version, controller, limits)
            except OSError:
                with contextlib.suppress(OSError):
                    group.rmdir()
                continue
            counter = "memory.oom_control" if tree.version == 1 else "memory.events"
            hold = Hold(
                (*hold.groups, str(group)),
                str(group / counter) if "memory" in controllers else hold.oom_counter,
                hold.cores or "cpu" in controllers,
            )
        return hold

    def told(self) -> Mapping[str, str]:
        """How memory and cores are held on this machine, in words for people."""
        ways = {
            "memory": "by the watcher, which looks several times a second: no control group can be written",
            "cores": "by the number of threads alone: no control group can be written",
        }
        for tree in self._trees():
            for controller in tree.controllers:
                key = "memory" if controller == "memory" else "cores"
                ways[key] = f"by a control group (version {tree.version}) under {tree.base}"
        return ways

    def all(self) -> list[str]:
        """Every group of a process that is there, also of a cloud that began elsewhere."""
        return [str(group) for top in self._tops() if top.is_dir() for group in top.iterdir() if group.is_dir()]

    def remove(self, groups: Iterable[str]) -> set[str]:
        """Ends what is in these groups and removes them; those that are not empty yet. Does not wait."""
        left = set()
        for group in groups:
            for pid in _pids(group):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                Path(group).rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                left.add(group)
        return left

    def remove_top(self) -> None:
        """The cloud's own group, once no process's is in it."""
        for top in self._tops():
            with contextlib.suppress(OSError):
                top.rmdir()
        if not any(top.exists() for top in self._tops()):
            self._record.unlink(missing_ok=True)

    def _trees(self) -> list[Tree]:
        if self._found is None:
            self._found = self._find()
        return self._found

    def _make(self, tree: Tree, group: Path) -> None:
        top = group.parent
        if not top.is_dir():
            if top not in self._tops():  # first the record: a group that nobody knows would stay
                replace_file(self._record, json.dumps([*map(str, self._tops()), str(top)]).encode())
            top.mkdir(exist_ok=True)
        if tree.version == 2:
            _enable(top, tree.controllers)
        group.mkdir()

    def _tops(self) -> list[Path]:
        try:
            return [Path(path) for path in json.loads(self._record.read_bytes())]
        except (FileNotFoundError, ValueError):
            return []


def trees_of_this_machine() -> list[Tree]:
    try:
        return find_trees(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    except OSError:
        return []


def find_trees(mounts: str, own: str) -> list[Tree]:
    """From the texts of /proc/self/mountinfo and /proc/self/cgroup."""
    groups = {c: path for _, names, path in (line.split(":", 2) for line in own.splitlines()) for c in names.split(",")}
    found: dict[str, Tree] = {}
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        root, mount = left.split()[3:5]
        kind, _, options = right.split()[:3]
        if kind == "cgroup":
            for controller in set(_CONTROLLERS) & set(options.split(",")) & groups.keys():
                for base in _upwards(Path(mount), root, groups[controller]):
                    if os.access(base, os.W_OK):
                        found[controller] = Tree(1, (controller,), base)
                        break
        elif kind == "cgroup2":
            for base in _upwards(Path(mount), root, groups.get("", "/")):
                controllers = _grantable(base)
                if "memory" in controllers:
                    tree = Tree(2, controllers, base)
                    for controller in controllers:
                        found.setdefault(controller, tree)
                    break
    return list(dict.fromkeys(found.values()))


def _upwards(mount: Path, root: str, path: str) -> Iterator[Path]:
    """The own group as it is seen under the mount, then those above it."""
    below = path.removeprefix(root.rstrip("/")).strip("/") if path.startswith(root) else ""
    here = mount / below
    while True:
        if here.is_dir():
            yield here
        if here == mount:
            return
        here = here.parent


def _grantable(base: Path) -> tuple[str, ...]:
    """The controllers of version 2 that groups made in `base` can have. One that has processes itself can hand on
    none (but for the system's root), and says so."""
    if not os.access(base, os.W_OK) or not os.access(base / "cgroup.procs", os.W_OK):
        return ()
    try:
        there = (base / "cgroup.controllers").read_text().split()
        _enable(base, [c for c in _CONTROLLERS if c in there])
        return tuple(c for c in _CONTROLLERS if c in (base / "cgroup.subtree_control").read_text().split())
    except OSError:
        return ()


def _enable(group: Path, controllers: Iterable[str]) -> None:
    control = group / "cgroup.subtree_control"
    on = control.read_text().split() if control.exists() else []
    for controller in controllers:
        if controller not in on:
            control.write_text(f"+{controller}")


def _limit(group: Path, version: int, controller: str, limits: Limits) -> None:
    memory, quota = limits.memory_mb * 1_000_000, max(_LEAST_QUOTA_US, int(limits.cpus * _PERIOD_US))
    match version, controller:
        case 1, "memory":
            (group / "memory.limit_in_bytes").write_text(str(memory))
            swap = group / "memory.memsw.limit_in_bytes"  # memory and swap together
            if swap.exists():
                swap.write_text(str(memory))
        case 1, _:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        case _, "memory":
            (group / "memory.max").write_text(str(memory))
            for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                if (group / file).exists():
                    (group / file).write_text(value)
        case _:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")


def _pids(group: str) -> list[int]:
    """Without 0: that is one that cannot be seen from here, and to `kill` it means all of its own process group."""
    try:
        return [pid for pid in map(int, Path(group, "cgroup.procs").read_text().split()) if pid]
    except OSError:
        return []
