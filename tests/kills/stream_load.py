"""The stream's users while it is killed: producers as processes of their own, and one who asks for decisions."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloud_process import Cloud

from kills.journal import Journal
from kills.load import Asker, Background
from kills.stream_killer import STREAM
from kills.stream_plan import DAY_US, Chunk
from kills.stream_producer import Settings, decided, read_answers
from kills.victims import Victim
from skyriver.adapters.processes.identity import identify

PRODUCERS = 2
LEAD_HOURS = 3
"""So far, in the time of the events, one producer may be ahead of the other: what is sent once more after a kill must
be within the period for which the stream remembers ids."""
SCRIPT = Path(__file__).with_name("stream_producer.py")


class Producers(Background):
    """Keeps the producers of a chunk at work until all of it is answered, and none too far ahead of the others."""

    def __init__(self, cloud: Cloud, journal: Journal, folder: Path) -> None:
        super().__init__(journal, 0.05)
        self.share = 0.0
        """Of the chunk's rows that may be sent by now."""
        self.seconds = 0.0
        """What the rest of the chunk is to take; 0: as little as it can."""
        self.starts = 0
        self.answers: list[Path] = []
        self._cloud = cloud
        self._folder = folder
        folder.mkdir()
        self._chunk: Chunk | None = None
        self._settings: Settings | None = None
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._told = (0, 0.0)

    def begin(self, chunk: Chunk, span_us: int) -> None:
        """`span_us`: from the chunk's first payment to its last."""
        pace = self._folder / f"{chunk.number}.pace"
        self.share, self.seconds, self._told = 0.0, 0.0, (0, 0.0)
        pace.write_text("0 0")
        lead = max(50, chunk.rows * LEAD_HOURS * (DAY_US // 24) // max(1, span_us) // PRODUCERS)
        self._lead = lead
        self._settings = Settings(
            url=f"http://127.0.0.1:{self._cloud.port}",
            token=self._cloud.token,
            payments=str(chunk.payments),
            labels=str(chunk.labels),
            answers=str(self._folder / f"{chunk.number}.answers"),
            pace=str(pace),
            producers=PRODUCERS,
        )
        (self._folder / f"{chunk.number}.json").write_text(json.dumps(asdict(self._settings)))
        self.answers += [self._settings.answers_of(n) for n in range(PRODUCERS)]
        self._left = set(range(PRODUCERS))
        self._chunk = chunk

    @property
    def done(self) -> bool:
        return self._chunk is None

    def living(self) -> Sequence[Victim]:
        found = []
        for number, process in list(self._running.items()):
            identity = identify(process.pid) if process.poll() is None else None
            if identity is not None:
                found.append(Victim("producer", str(number), identity, self._folder))
        return found

    def turn(self) -> None:
        chunk, settings = self._chunk, self._settings
        if chunk is None or settings is None:
            return
        for number in sorted(self._left):
            process = self._running.get(number)
            code = process.poll() if process is not None else -9
            if code is None:
                continue
            if code == 0:
                self._left.discard(number)
                del self._running[number]
                continue
            if code != -9:
                self.journal.wrong.append(f"producer {number} ended with {code}: {self._said(number)}")
            self._start(chunk, number)
        self._set_pace(chunk, settings)
        if not self._left:
            self._chunk = None

    def _start(self, chunk: Chunk, number: int) -> None:
        self.starts += 1
        with (self._folder / f"producer-{number}.log").open("ab") as out:
            command = [sys.executable, str(SCRIPT), str(self._folder / f"{chunk.number}.json"), str(number)]
            self._running[number] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def _said(self, number: int) -> str:
        return (self._folder / f"producer-{number}.log").read_text(errors="replace")[-400:]

    def _set_pace(self, chunk: Chunk, settings: Settings) -> None:
        share = -(-chunk.rows // PRODUCERS)
        rows = [
            last_line(settings.answers_of(n)).get("rows", 0) if n in self._left else share for n in range(PRODUCERS)
        ]
        allowed = min(round(self.share * share), min(rows) + self._lead)
        rate = round((share - min(rows)) / self.seconds, 1) if self.seconds else 0.0
        if (allowed, rate) != self._told:
            self._told = (allowed, rate)
            new = Path(f"{settings.pace}.new")
            new.write_text(f"{allowed} {rate}")
            new.replace(settings.pace)

    def end(self, seconds: float = 30.0) -> None:
        super().end(seconds)
        for process in self._running.values():
            process.kill()
            process.wait(seconds)


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line with decisions of a file of answers; {} when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 17)))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        if line.startswith(b'{"rows"'):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}


class Watcher(Asker):
    """Asks for the decision that was acknowledged last, ten times a second; it must be the one of the answer."""

    def __init__(self, cloud: Cloud, journal: Journal, producers: Producers, seed: int) -> None:
        super().__init__(cloud, journal, 0.1)
        self.looked = 0
        self._producers = producers
        self._luck = random.Random(seed)

    def turn(self) -> None:
        known = self._known()
        start = time.monotonic()
        try:
            status, found = self.ask("GET", f"/streams/{STREAM}/decisions/{known[0] if known else -1}")
        except (OSError, http.client.HTTPException) as error:
            self.journal.failed("event", self.idle_since, f"{type(error).__name__}: {error}")
            return
        if status == 200 or (status == 404 and not known):
            self.journal.answered("event", start)
        elif status == 404:
            self.journal.lost.append(f"payment {known} was acknowledged; then it was answered {found}")
        else:
            self.journal.failed("event", start, f"{status} {found}"[:200])
        if status == 200:
            self.looked += 1
            if decided(found) != known:
                self.journal.decided_twice.append(f"payment {known} was acknowledged; then it was {decided(found)}")

    def _known(self) -> list[Any] | None:
        if self._producers.done:  # a load moves time: ids are remembered for a day
            return None
        line = last_line(self._luck.choice(self._producers.answers[-PRODUCERS:]))
        return line["decisions"][-1] if line else None


def all_answers(producers: Producers) -> list[dict[str, Any]]:
    return [line for path in producers.answers for line in read_answers(path)]
