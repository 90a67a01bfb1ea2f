"""Trials that are done and under way, in a file of their own: a job that is killed goes on with those that it has, and
several that search together hear of each other by it.

A line a trial, of JSON, synced before the next one begins, and a line for each that begins. Who writes has the file's
lock; a line that was cut short is a trial that was not done: the file is cut there, and the trial is done again. The
first line says of what the trials are; where that is something else (another space, other rows), or where a line is of
no such form, the file begins anew. A trial that began is somebody's for as long as that one's process holds the lock of
a file with its name, which goes with the process however it ends; that it was touched is a sign of life.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from skyriver.core.errors import Unavailable, disk_error
from skyriver.core.spec_search import Value
from skyriver.data.folders import forget_unfinished, lock_within, replace_file
from skyriver.train.search.trial import Trial

FORMAT: Final = 4
"""Of the lines. Another one begins anew."""
CUT: Final = object()
"""What a line says that was cut short."""
LOCK_S: Final = 60.0
"""Who holds the lock for so long hangs: it is held for some milliseconds."""


def busy(told: str, where: Path) -> Unavailable:
    """STUDY_BUSY: somebody has had something of a search for longer than it takes."""
    return Unavailable(
        told,
        code="STUDY_BUSY",
        where=str(where),
        next_action="It is tried again; where a job of this search is stopped, end it.",
    )


@dataclass(frozen=True, slots=True)
class Begun:
    """A trial under way: since when (`at`, seconds), and by whom."""

    number: int
    params: Mapping[str, Value]
    at: float
    by: str


class Journal:
    """`of`: what trials depend on beside their parameters; `member`: the name of who writes here, other than those of
    all others who write; `before`: journals whose trials are taken over where they are of the same. Raises Unavailable
    (DISK_FULL and the like where it cannot be kept, STUDY_BUSY, STUDY_GONE)."""

    def __init__(
        self,
        path: Path,
        of: Mapping[str, Any],
        member: str = "0",
        *,
        before: Iterable[Path] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path, self._member, self._sleep = path, member, sleep
        self.trials: list[Trial] = []
        """Those that are done, by their numbers."""
        self.begun: dict[int, Begun] = {}
        """Those that are not."""
        self.there: dict[tuple[str, float], float] = {}
        """Who took part, since when, and until when as far as it is written here."""
        self.ended = ""
        """Why nothing more begins, as somebody found."""
        self.begun_anew = ""
        """What differs from the file that was there; "" where nothing was, or nothing does."""
        head = json.dumps({"format": FORMAT, "of": of}, sort_keys=True).encode()
        with self._failing():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked():
                self._mine = os.open(self._file_of(member), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._lock(self._mine, fcntl.lockf)
                forget_unfinished(path)
                if not path.exists():
                    _take_over(path, head, before)
                lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
                kept = self._kept(lines, of)
                if kept:
                    self._read = sum(len(line) + 1 for line in kept)
                    os.truncate(path, self._read)
                else:
                    replace_file(path, head + b"\n")
                    self._read = len(head) + 1
                self._file = path.stat().st_ino

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While it is open nobody else writes, and `trials` and `begun` are all there are."""
        with self._failing(), self._locked():
            self._check_file()
            self.refresh()
            self.touch()
            os.truncate(self._path, self._read)
            yield

    def _check_file(self) -> None:
        found = self._path.stat().st_ino if self._path.exists() else 0
        if found != self._file:
            raise Unavailable(
                "The trials of the search were removed, or begun anew by a job that found other rows.",
                code="STUDY_GONE",
                where=str(self._path),
                next_action="Run it again.",
            )

    def refresh(self) -> None:
        """Takes in what others wrote by now."""
        with self._failing(), self._path.open("rb") as file:
            file.seek(self._read)
            told = file.read()
        whole = told[: told.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.split(b"\n")[:-1]:
            with suppress(ValueError):
                self._take(_loaded(line))

    def begin(self, number: int, params: Mapping[str, Value], at: float) -> None:
        """Within a turn: this one is ours."""
        begun = Begun(number, params, at, self._member)
        self._write({"begun": asdict(begun)}, synced=False)
        self.begun[number] = begun

    def add(self, trial: Trial) -> None:
        """Kept, once it returns. Within a turn."""
        self._write(trial.to_json(), synced=True)
        self._take(trial.to_json())

    def stay(self, since: float, until: float) -> None:
        """Within a turn: this member has been there."""
        self._stayed(self._member, since, until)

    def end(self, why: str) -> None:
        """Within a turn: nothing more begins."""
        self._write({"ended": why}, synced=False)
        self.ended = why

    def is_left(self, begun: Begun) -> bool:
        """Whether nobody goes on with it."""
        return begun.by == self._member or not self.is_here(begun.by)

    def is_here(self, member: str) -> bool:
        """Whether the process of one other than this member lives."""
        return _is_held(self._file_of(member))

    def touch(self) -> None:
        """A sign of life."""
        with self._failing():
            os.utime(self._mine)

    def signs(self) -> dict[str, float]:
        """When each other member whose trial is under way gave the last sign of life, in seconds."""
        found = {}
        for by in {begun.by for begun in self.begun.values()} - {self._member}:
            with suppress(FileNotFoundError):
                found[by] = self._file_of(by).stat().st_mtime
        return found

    def gone(self, begun: Begun, now: float) -> None:
        """Within a turn: whose trial is left was there until its last sign of life."""
        since = max((since for by, since in self.there if by == begun.by), default=begun.at)
        if (seen := self.signs().get(begun.by)) is not None:
            self._stayed(begun.by, since, min(now, seen))

    def stays(self, now: float) -> list[tuple[float, float]]:
        """From when to when each was there; who still is, until now."""
        newest: dict[str, float] = {}
        for by, since in self.there:
            newest[by] = max(since, newest.get(by, since))
        here = {by for by in newest if by == self._member or self.is_here(by)}
        return [
            (since, max(until, now) if by in here and since == newest[by] else until)
            for (by, since), until in self.there.items()
        ]

    def _stayed(self, by: str, since: float, until: float) -> None:
        told = {"there": {"by": by, "since": since, "until": until}}
        self._write(told, synced=False)
        self._take(told)

    def close(self) -> None:
        """Who wrote here is gone."""
        os.close(self._mine)
        self._file_of(self._member).unlink(missing_ok=True)

    def _file_of(self, member: str) -> Path:
        return _file_of(self._path, member)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(lock, fcntl.flock)
            yield
        finally:
            os.close(lock)

    def _lock(self, file: int, take: Callable[[int, int], object]) -> None:
        if not lock_within(file, LOCK_S, take=take, sleep=self._sleep):
            raise busy(f"Somebody has held the trials of the search for {LOCK_S:.0f} s.", self._path)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, "The trials of the search cannot be kept", str(self._path)) from error

    def _write(self, told: Mapping[str, Any], *, synced: bool) -> None:
        line = json.dumps(told).encode() + b"\n"
        with self._failing(), self._path.open("ab") as file:
            file.write(line)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        self._read += len(line)

    def _kept(self, lines: Sequence[bytes], of: Mapping[str, Any]) -> Sequence[bytes]:
        """Those lines whose trials go on, as they are in `trials` and `begun` then, with the first one."""
        if not lines:
            return ()
        head = _loaded(lines[0])
        if not isinstance(head, dict) or not isinstance(head.get("of"), dict) or head.get("format") != FORMAT:
            self.begun_anew = "the format"
            return ()
        now = json.loads(json.dumps(of))
        if head["of"] != now:
            self.begun_anew = ", ".join(sorted(k for k in {*now, *head["of"]} if head["of"].get(k) != now.get(k)))
            return ()
        for place, line in enumerate(lines[1:], 1):
            told = _loaded(line)
            if told is CUT:
                return lines[:place]
            try:
                self._take(told)
            except ValueError:  # of another release, or changed by hand: what else of it is so nobody knows
                self.trials, self.begun, self.there, self.ended = [], {}, {}, ""
                self.begun_anew = f"the form of line {place + 1}"
                return ()
        return lines

    def _take(self, told: Any) -> None:
        """Raises ValueError where a line says nothing that is known."""
        if isinstance(told, dict) and told.keys() == {"there"}:
            by, since, until = _there(told["there"])
            self.there[by, since] = max(until, self.there.get((by, since), until))
            return
        if isinstance(told, dict) and told.keys() == {"ended"} and isinstance(told["ended"], str):
            self.ended = told["ended"]
            return
        if isinstance(told, dict) and told.keys() == {"begun"}:
            begun = _begun(told["begun"])
            if all(trial.number != begun.number for trial in self.trials):
                self.begun[begun.number] = begun
            return
        trial = Trial.of_json(told)
        if all(done.number != trial.number for done in self.trials):
            self.trials.append(trial)
            self.trials.sort(key=lambda done: done.number)
            self.begun.pop(trial.number, None)


def _take_over(path: Path, head: bytes, before: Iterable[Path]) -> None:
    """The trials that are done of the newest one that is of the same."""
    for other in sorted(before, key=lambda other: other.stat().st_mtime, reverse=True):
        first, *lines = other.read_bytes().split(b"\n")[:-1] or [b""]
        if first == head:
            done = [line for line in lines if not line.startswith((b'{"begun"', b'{"ended"'))]
            replace_file(path, b"".join(line + b"\n" for line in (head, *done)))
            return


def ended(path: Path) -> str:
    """Why nothing more begins in the journal that is there, as its members found; "" where something may, also where
    a trial was left."""
    try:
        lines = path.read_bytes().split(b"\n")[1:-1]
    except FileNotFoundError:
        return ""
    found, under_way = "", {}
    for told in map(_loaded, lines):
        if not isinstance(told, dict):
            return ""
        if "ended" in told:
            found = str(told["ended"])
        elif "begun" in told:
            under_way[told["begun"]["number"]] = told["begun"]["by"]
        elif "number" in told:
            under_way.pop(told["number"], None)
    return found if all(_is_held(_file_of(path, by)) for by in under_way.values()) else ""


def _file_of(path: Path, member: str) -> Path:
    return path.with_name(f"{path.name}.{member}.here")


def _is_held(path: Path) -> bool:
    """Who looks takes a lock that others who look can have, too: none of them takes another for the holder."""
    try:
        found = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(found, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(found)
    return False


def _there(told: Any) -> tuple[str, float, float]:
    if not isinstance(told, dict) or told.keys() != {"by", "since", "until"}:
        raise ValueError("who took part has other fields")
    if not isinstance(told["by"], str) or not all(isinstance(told[name], float | int) for name in ("since", "until")):
        raise ValueError("a field of who took part holds something else")
    return told["by"], told["since"], told["until"]


def _begun(told: Any) -> Begun:
    kinds = {"number": int, "params": dict, "at": float | int, "by": str}
    if not isinstance(told, dict) or told.keys() != kinds.keys():
        raise ValueError("a trial that began has other fields")
    if not all(isinstance(told[name], kind) for name, kind in kinds.items()) or "/" in told["by"]:
        raise ValueError("a field of a trial that began holds something else")
    return Begun(**told)


def _loaded(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return CUT
