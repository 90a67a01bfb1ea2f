"""What a bench prints: one JSON document with the machine, rows and goals."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Goal:
    """`value op target` is to hold."""

    name: str
    op: Literal["<=", ">="]
    target: float
    unit: str

    def holds(self, value: float) -> bool:
        return value <= self.target if self.op == "<=" else value >= self.target


@dataclass
class Document:
    """Collects rows and values; every goal ends up in the document, measured or with the reason why not."""

    bench: str
    goals: Sequence[Goal]
    rows: list[dict[str, Any]] = field(default_factory=list)
    _found: dict[str, dict[str, Any]] = field(default_factory=dict)
    _machine: dict[str, Any] = field(default_factory=lambda: machine())

    def row(self, system: str, case: str, **figures: Any) -> None:
        self.rows.append({"system": system, "case": case, **figures})
        tell(f"{case}: {', '.join(f'{k} {v}' for k, v in figures.items())}")

    def measured(self, name: str, value: float, *, broken: str = "", note: str = "") -> None:
        """`broken`: why the goal does not hold although there is a figure."""
        more = {k: v for k, v in (("reason", broken), ("note", note)) if v}
        self._found[name] = {"value": value, "holds": not broken and self._goal(name).holds(value), **more}

    def missed(self, name: str, reason: str, *, wanted: bool = True) -> None:
        """Not measured; not `wanted`: because this run leaves it out, which says nothing about the goal."""
        self._goal(name)
        self._found[name] = {"value": None, "holds": False if wanted else None, "reason": reason}

    def value(self, name: str) -> float | None:
        """What was measured; None where there is nothing (yet)."""
        self._goal(name)
        found: float | None = self._found.get(name, {}).get("value")
        return found

    def part(self, names: Sequence[str], work: Callable[[], object]) -> None:
        """Does `work`, which measures the goals `names`. What breaks it becomes their reason; the bench goes on."""
        tell(f"measuring {', '.join(names)} ...")
        reason = "its part ended without a figure"
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"[:600]
        for name in names:
            if name not in self._found:
                self.missed(name, reason)

    def parts(
        self, of: Mapping[str, Sequence[str]], work: Mapping[str, Callable[[], object]], asked: Sequence[str]
    ) -> None:
        """Does the parts that are `asked` for; the goals of the others say that they were left out. `of`: the goals of
        each part, in the order in which parts are done."""
        for part, names in of.items():
            if part in asked:
                self.part(names, work[part])
            else:
                for name in names:
                    self.missed(name, "its part was left out", wanted=False)

    def _goal(self, name: str) -> Goal:
        return next(g for g in self.goals if g.name == name)

    def print(self) -> bool:
        """Writes the document to stdout; whether every goal holds that this run was to measure."""
        goals = []
        for goal in self.goals:
            found = self._found.get(goal.name, {"value": None, "holds": False, "reason": "not reached"})
            head = {"name": goal.name, "value": found["value"], "target": goal.target, "unit": goal.unit}
            goals.append({**head, "op": goal.op, "holds": found["holds"], **found})
        document = {"bench": self.bench, "machine": self._machine, "rows": self.rows, "goals": goals}
        print(json.dumps(document, indent=1))
        return all(g["holds"] is not False for g in goals)


def add_parts(parser: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    """`--parts`: names with commas between them; all unless given."""
    names = list(parts)

    def asked(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [part for part in found if part not in names]:
            raise argparse.ArgumentTypeError(f"there is no part {', '.join(unknown)}")
        return found

    told = ",".join(names)
    parser.add_argument("--parts", type=asked, default=told, help=f"some of {told}")


def tell(text: str) -> None:
    """Progress, for people."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Where and on what this was measured."""
    return {
        "cpu": _first_value(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_megabytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "changed_since_commit": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _first_value(path: Path, key: str) -> str:
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _git(*arguments: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()
    return ""
