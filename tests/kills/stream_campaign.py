"""A stream at work, so many kills of all that has a part in it, and what became of its payments."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from cloud_process import Cloud

from kills.examination import SETTLING_SECONDS, Doubles
from kills.journal import Journal, quantile, tell
from kills.load import Probe
from kills.recovery import DEADLINE_SECONDS, Recovery
from kills.stream_acting import Acting, insist, refused
from kills.stream_acting_examination import Acted
from kills.stream_changes import ENDED, TREES, Changer
from kills.stream_examination import Findings, examine
from kills.stream_killer import STREAM, StreamKiller, StreamManner
from kills.stream_load import Producers, Watcher, all_answers
from kills.stream_plan import Chunk, Plan
from skyriver.client.api import Client
from skyriver.core.errors import SkyriverError
from skyriver.core.names import digest

LOAD_SHARE = 0.06
"""Of all kills, those while the history is loaded."""
LOADING_SECONDS = 600.0
SENDING_SECONDS = 1_800.0
FIRST_SECONDS = 2.0
"""Between two kills, as long as nothing is known: so fast are the payments sent that they last for all kills."""


@dataclass
class StreamOutcome:
    journal: Journal
    found: Findings
    seconds: float
    ups: int
    producer_starts: int
    asked: int
    """Decisions that were asked for again, right after they had been acknowledged."""
    unsettled: list[str]
    home: Path | None = None
    """Kept when something is wrong."""

    @property
    def not_back(self) -> list[str]:
        return [str(k) for k in self.journal.kills if k.lost] + self.unsettled

    @property
    def lost(self) -> list[str]:
        return [*self.journal.lost, *self.found.lost]

    @property
    def decided_twice(self) -> list[str]:
        return [*self.journal.decided_twice, *self.found.decided_twice]

    @property
    def wrong(self) -> list[str]:
        """What else must not be; the differences are told here too."""
        return [*self.journal.twice, *self.journal.wrong, *self.found.told]

    @property
    def problems(self) -> list[str]:
        return [*self.journal.lost, *self.journal.decided_twice, *self.wrong, *self.found.problems, *self.not_back]


@dataclass
class StreamCampaign:
    cloud: Cloud
    plan: Plan
    seed: int
    manner: StreamManner = field(default_factory=StreamManner)
    deadline: float = DEADLINE_SECONDS
    journal: Journal = field(default_factory=Journal)

    def run(self, kills: int, seconds: float = 3_600.0) -> StreamOutcome:
        """Sends all payments, killing so often, or for so long; examines; ends the cloud."""
        began = time.monotonic()
        cloud, journal, luck = self.cloud, self.journal, random.Random(self.seed)
        cloud.command("up", "--port", cloud.port).succeeded()
        self._until = began + seconds
        self._a_kill = FIRST_SECONDS
        self._client = Client(f"http://127.0.0.1:{cloud.port}", cloud.token)
        self._producers = producers = Producers(cloud, journal, self.plan.folder / "sent")
        self._acting = acting = Acting(cloud, journal, self.plan, producers, luck)
        cloud.command("deploy", self.plan.app, "-y").succeeded()
        probe, doubles = Probe(cloud, journal, 0.1), Doubles(cloud, journal)
        recovery = Recovery(cloud, journal, probe, deadline=self.deadline)
        watcher = Watcher(cloud, journal, producers, luck.randrange(1 << 30))
        changer = Changer(cloud, journal, self.plan, producers, luck.randrange(1 << 30))
        seed = luck.randrange(1 << 30)
        self._killer = StreamKiller(cloud, journal, producers.living, seed, self.manner)
        crew = [probe, recovery, doubles, producers, watcher, changer, acting.reviewers, acting.keeper]
        try:
            for thread in crew:
                thread.start()
            try:
                self._all_payments(kills)
            except (AssertionError, SkyriverError) as error:  # what was found so far is told, and examined
                journal.wrong.append(f"the campaign broke off: {error}")
            self._killer.end()
            tell("the last are coming back ...")
            while journal.open_kills():
                time.sleep(0.05)
            for acts in (changer, acting.reviewers, acting.keeper):
                acts.end()
            unsettled = self._settle() or acting.settle(self._client)
            for thread in (producers, watcher, probe, recovery, doubles):
                thread.end()
        finally:
            for thread in crew:  # or one of them would call `up` again, after the end
                thread.ending.set()
            for thread in crew:
                thread.join(5.0)
            producers.end()
            acting.close()
            self._client.close()
        self._go_down(doubles)
        tell("examining ...")
        found = self._examine()
        seconds = time.monotonic() - began
        asked = watcher.looked
        outcome = StreamOutcome(journal, found, seconds, len(recovery.ups), producers.starts, asked, unsettled)
        self._tidy(outcome)
        return outcome

    def _all_payments(self, kills: int) -> None:
        share = LOAD_SHARE * (self._until - time.monotonic())
        self._load(self.plan.history, round(kills * LOAD_SHARE), time.monotonic() + share)
        tell(f"the history is loaded; {self.tell()}")
        while self.journal.open_kills():
            time.sleep(0.05)
        self._train()
        chunks = self.plan.chunks
        for place, chunk in enumerate(chunks):
            # A load may be over before its part of the kills: the live ones after it have them all.
            part = 1 / sum(other.how == "live" or other is chunk for other in chunks[place:])
            quota = max(0, round((kills - len(self.journal.kills)) * part))
            now = time.monotonic()
            until = now + max(0.0, self._until - now) * part
            if chunk.how == "live":
                self._send(chunk, quota, until)
            else:
                self._load(chunk.payments, quota, until)
            tell(f"{chunk.how} chunk {place + 1} of {len(chunks)}: {self.tell()}")

    # The parts of the work

    def _train(self) -> None:
        operation = insist(lambda: self._client.act("train", "fraud", params={"trees": TREES}), SETTLING_SECONDS)
        done = self._ended(operation, 0, 0.0)
        if done["state"] != "SUCCEEDED":
            raise AssertionError(f"no model: {done['message']}")

        def decides() -> bool:
            stream = self._client.get("streams", STREAM)
            return stream["state"] == "READY" and bool(stream["status"]["model_version"])

        deadline = time.monotonic() + SETTLING_SECONDS
        while not insist(decides, SETTLING_SECONDS):
            if time.monotonic() > deadline:
                raise AssertionError("the model does not decide")
            time.sleep(0.2)

    def _load(self, path: Path, quota: int, until: float) -> None:
        """A load that fails, for what it needs was killed too often, is asked for again: it goes on where it was."""
        digest = insist(lambda: self._client.upload(path), SETTLING_SECONDS)
        files = [{"digest": digest, "name": path.name, "format": "parquet"}]
        end = len(self.journal.kills) + quota
        deadline = time.monotonic() + LOADING_SECONDS
        while True:
            operation = insist(lambda: self._client.act("load", STREAM, inputs={"files": files}), SETTLING_SECONDS)
            done = self._ended(operation, end, until)
            if done["state"] == "SUCCEEDED":
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"the load of {path.name} does not come to an end: {done['message']}")

    def _ended(self, operation: str, kills: int, until: float) -> Mapping[str, Any]:
        """The operation at its end; meanwhile there are kills, up to `kills` in all and `until` then."""
        deadline = time.monotonic() + LOADING_SECONDS
        while time.monotonic() < deadline:
            found = insist(lambda: self._client.get("operations", operation), SETTLING_SECONDS)
            if found["state"] in ENDED:
                return found
            if len(self.journal.kills) < kills and time.monotonic() < until:
                self._killer.turn()
            else:
                time.sleep(0.1)
        raise AssertionError(f"the operation {operation} does not end: {found}")

    def _send(self, chunk: Chunk, quota: int, until: float) -> None:
        at = pl.read_parquet(chunk.payments, columns=["at"])["at"].dt.epoch("us").to_numpy()
        producers = self._producers
        producers.begin(chunk, int(at.max() - at.min()))
        began, started = len(self.journal.kills), time.monotonic()
        deadline = started + SENDING_SECONDS
        while not producers.done:
            killed, now = len(self.journal.kills) - began, time.monotonic()
            if killed < quota and now < until:
                producers.share = max((killed + 1) / quota, (now - started) / (until - started))
                producers.seconds = min((quota - killed) * self._a_kill, until - now)
                self._killer.turn()
            else:
                producers.share, producers.seconds = 1.0, 0.0
                time.sleep(0.05)
            if time.monotonic() > deadline:
                raise AssertionError(f"chunk {chunk.number} does not come to an end")
        if killed := len(self.journal.kills) - began:
            self._a_kill = (time.monotonic() - started) / killed

    # Its end

    def _settle(self) -> list[str]:
        """What is not READY, or not at its end, although nothing is killed any more."""
        deadline = time.monotonic() + SETTLING_SECONDS
        wrong = ["nobody looked"]
        while wrong and time.monotonic() < deadline:
            time.sleep(0.2)
            try:
                rows = [
                    r for kinds in ("streams", "workers", "dispatchers", "services") for r in self._client.list(kinds)
                ]
                wrong = [
                    f"{r['kind']} {r['name']} is {r['state']} {r['reason']}" for r in rows if r["state"] != "READY"
                ]
                work = [r for kinds in ("jobs", "operations") for r in self._client.list(kinds)]
                wrong += [
                    f"{r['kind']} {r['name']} is {r['state']} {r['reason']}" for r in work if r["state"] not in ENDED
                ]
            except SkyriverError as error:
                wrong = [f"the cloud does not answer: {error}"]
        return wrong

    def _go_down(self, doubles: Doubles) -> None:
        down = self.cloud.command("down")
        if down.code:
            self.journal.wrong.append(f"down: {down.err}")
        left = [*self.cloud.living().values(), *map(str, self.cloud.sockets())]
        left += [str(path) for path in doubles.shared if path.exists()]
        group = f"skyriver-{digest(str(self.cloud.home).encode())[:12]}"
        left += map(str, Path("/sys/fs/cgroup").rglob(group))
        if left:
            self.journal.wrong.append(f"left behind by down: {left}")

    def _examine(self) -> Findings:
        found = Findings()
        try:
            work = self.plan.folder / "examined"
            work.mkdir()
            found = examine(self.cloud.home, self.plan.folder, work, all_answers(self._producers), self._acted())
        except Exception as error:
            found.told.append(f"the examination broke off: {type(error).__name__}: {error}"[:600])
            tell(found.told[-1])
        return found

    def _acted(self) -> Acted:
        acting = self._acting
        both = (acting.receivers.bank, acting.receivers.ledger)
        return Acted(
            bank=both[0].acted,
            ledger=both[1].acted,
            refuses=refused,
            parked=acting.parked,
            came=sum(sum(receiver.seen.values()) for receiver in both),
            unsigned=sum(receiver.unsigned for receiver in both),
            said=acting.reviewers.people.said,
            kept=acting.keeper.kept,
            listed=acting.listed,
        )

    def _tidy(self, outcome: StreamOutcome) -> None:
        if outcome.problems:
            for text in outcome.problems[:20]:
                tell(f"WRONG: {text}"[:1_000])
            with contextlib.suppress(shutil.Error):
                outcome.home = Path(
                    shutil.copytree(self.cloud.home, self.plan.folder / "home", ignore=_no_sockets, dirs_exist_ok=True)
                )
            tell(f"the home is kept: {outcome.home}")
        self.cloud.close()

    def tell(self) -> str:
        journal = self.journal
        parts = []
        for kind in ("worker", "builder", "producer", "job", "control", "supervisor", "gateway", "dispatcher"):
            times = journal.recoveries(kind)
            killed = sum(k.kind == kind for k in journal.kills)
            how = f" ({quantile(times, 0.5):.1f}/{quantile(times, 0.95):.1f} s)" if times and kind != "job" else ""
            parts.append(f"{kind} {killed}{how}")
        wrong = len([*journal.lost, *journal.twice, *journal.decided_twice, *journal.wrong])
        return f"{len(journal.kills)} kills: {', '.join(parts)}; wrong {wrong}"


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
