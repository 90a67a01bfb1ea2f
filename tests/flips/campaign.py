"""One damage at a time to a copy of a partition, and what a reader and a worker then make of it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from flips.stream import OPENS, Kind, Partition, Said, ask, build, records
from skyriver.core.errors import Corrupt, SkyriverError
from skyriver.data.log import Record

CLASSES = (
    "sealed segment",
    "open segment",
    "mark",
    "manifest",
    "object in the tier",
    "side rows",
    "side journal",
    "side description",
    "checkpoint",
    "ids",
)


@dataclass(frozen=True, slots=True)
class Damage:
    what: str
    path: Path
    """From the partition's folder."""
    bit: int
    """That flips; -1: the file is cut instead, to `size` bytes."""
    size: int = 0

    def do(self, place: Path) -> None:
        path = place / self.path
        path.chmod(0o600)
        with path.open("r+b") as file:
            if self.bit < 0:
                file.truncate(self.size)
                return
            file.seek(self.bit // 8)
            byte = file.read(1)[0]
            file.seek(self.bit // 8)
            file.write(bytes([byte ^ 1 << self.bit % 8]))

    def __str__(self) -> str:
        how = f"bit {self.bit} flipped" if self.bit >= 0 else f"cut to {self.size} bytes"
        return f"{self.what} {self.path}: {how}"


@dataclass
class Outcome:
    """`silent`: what was wrong and not told; `unnamed`: told without saying where."""

    done: Counter[str] = field(default_factory=Counter)
    how: Counter[tuple[str, str]] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)


class Silent(Exception):
    """Something else than the truth was served, and nothing was told."""


@dataclass(frozen=True)
class _Sample:
    place: Path
    records: list[Record]
    said: Said


class Campaign:
    def __init__(self, folder: Path, kernels: Path, seed: int) -> None:
        self._folder = folder
        self._kind = Kind(kernels)
        self._spec = self._kind.spec
        self._luck = random.Random(seed)
        self._samples = []
        for cut in (False, True):
            place = folder / ("cut" if cut else "whole")
            self._windows = build(self._kind, self._spec, place, cut=cut)
            self._samples.append(self._truth(place))
        self.outcome = Outcome()

    def run(self, flips: int) -> Outcome:
        for number in range(flips):
            self.one(self._samples[number % len(self._samples)])
        return self.outcome

    def _truth(self, place: Path) -> _Sample:
        found = records(place)
        copy = self._copy(place)
        partition = Partition(self._kind, self._spec, self._windows, copy)
        said = ask(partition)
        partition.leave()
        return _Sample(place, found, said)

    def _copy(self, place: Path) -> Path:
        copy = self._folder / "copy"
        if copy.exists():
            shutil.rmtree(copy)
        shutil.copytree(place, copy)
        return copy

    def one(self, sample: _Sample) -> None:
        damage = self._choose(sample.place)
        copy = self._copy(sample.place)
        damage.do(copy)
        outcome = self.outcome
        outcome.done[damage.what] += 1
        try:
            told = [self._read(copy, sample, damage), self._work(copy, sample, damage)]
        except Silent as wrong:
            outcome.silent.append(f"{damage}: {wrong}")
            return
        except SkyriverError as error:  # nobody may meet one that was not looked for
            outcome.silent.append(f"{damage}: {error!r}")
            return
        for who, error in zip(("reader", "worker"), told, strict=True):
            outcome.how[damage.what, f"{who}: {'refused' if error else 'right'}"] += 1
            if error is not None and not (error.where and error.next_action):
                outcome.unnamed.append(f"{damage}: {error!r}")

    def _choose(self, place: Path) -> Damage:
        luck = self._luck
        while True:
            what = luck.choice(CLASSES)
            files = [path for path in _files(place, what) if path.stat().st_size]
            if files:
                break
        path = luck.choice(files)
        size = len(path.read_bytes().rstrip(b"\0"))  # what is reserved behind it holds nothing
        if luck.random() < 0.2:
            return Damage(what, path.relative_to(place), -1, luck.randrange(size))
        return Damage(what, path.relative_to(place), luck.randrange(8 * size))

    def _read(self, place: Path, sample: _Sample, damage: Damage) -> SkyriverError | None:
        """What a reader beside the writer sees."""
        try:
            found, told = records(place), None
        except SkyriverError as error:
            found, told = getattr(error, "served", []), error
        found = self._from_beginning(found, sample)
        if found != sample.records[: len(found)]:
            raise Silent("a reader was given records that nobody wrote")
        # Of a damaged mark a reader may believe that less was acknowledged, until the next writer has opened the log.
        if told is None and len(found) < len(sample.records) and damage.what != "mark":
            raise Silent(f"a reader was given {len(found)} of {len(sample.records)} records, as if that were all")
        return told

    def _from_beginning(self, found: list[Record], sample: _Sample) -> list[Record]:
        """Without what was given up: where the manifest's last entry rots, that is still there, and the truth."""
        first = sample.records[0].offset
        before = [record for record in found if record.offset < first]
        if before != self._samples[0].records[: len(before)]:
            raise Silent("a reader was given records that were given up, and not as they were")
        return found[len(before) :]

    def _work(self, place: Path, sample: _Sample, damage: Damage) -> SkyriverError | None:
        """What the next worker says."""
        try:
            partition = Partition(self._kind, self._spec, self._windows, place)
        except SkyriverError as error:
            return error
        try:
            for _ in range(OPENS):
                try:
                    said = ask(partition)
                except SkyriverError as error:
                    told: SkyriverError | None = error
                    try:
                        partition.open()
                    except SkyriverError as again:
                        return again
                else:
                    told = None
                    break
            if told is None and said != sample.said:
                raise Silent("a worker decided otherwise, or took other events for known ones")
            if told is None:
                self._whole(place, sample)
            return told
        finally:
            partition.leave()

    def _whole(self, place: Path, sample: _Sample) -> None:
        """The log of a worker that goes on has all that it had, or says what it has not."""
        try:
            found = records(place)
        except Corrupt:
            return
        if self._from_beginning(found, sample)[: len(sample.records)] != sample.records:
            raise Silent("the worker goes on with a log that has lost records")


def _files(place: Path, what: str) -> list[Path]:
    segments = sorted((place / "log").glob("*.log"))
    match what:
        case "sealed segment":
            return segments[:-1]
        case "open segment":
            return segments[-1:]
        case "mark" | "manifest":
            return [place / "log" / what]
        case "object in the tier":
            return sorted((place / "tier").glob("??/*"))
        case "side rows":
            return sorted((place / "side").glob("*/rows"))
        case "side journal":
            return sorted((place / "side").glob("*/journal"))
        case "side description":
            return sorted((place / "side").glob("*/side.json"))
        case "checkpoint":
            return sorted((place / "checkpoint").glob("*.checkpoint"))
        case _:
            return sorted((place / "ids").glob("run-*"))
