"""A cloud at work, so many kills, and what became of it."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloud_process import Cloud, history, write_csv

from kills.changes import Operator
from kills.examination import Doubles, Examination
from kills.journal import Journal, quantile, tell
from kills.killer import Killer, Manner
from kills.load import Background, Orders, Predictor, Probe, Sender
from kills.recovery import DEADLINE_SECONDS, Recovery
from kills.victims import KINDS


@dataclass
class Outcome:
    journal: Journal
    checked: dict[str, int]
    seconds: float
    unsettled: list[str]
    ups: int
    """How often `skyriver up` was called, as nobody else was left to bring the control plane back."""
    home: Path | None = None
    """Kept when something is wrong."""

    @property
    def not_ready_again(self) -> list[str]:
        return [str(k) for k in self.journal.kills if k.lost] + self.unsettled

    @property
    def problems(self) -> list[str]:
        found = self.journal
        return [*found.lost, *found.decided_twice, *found.twice, *found.wrong, *self.not_ready_again]

    def failed(self, blame: str) -> list[str]:
        """The requests for predictions and events that failed while `blame` was dead."""
        return [
            f"{f.what}: {f.why}" for f in self.journal.failures if f.what != "api" and self.journal.blame(f) == blame
        ]


@dataclass
class Crew:
    """All that goes on beside the kills."""

    probe: Probe
    recovery: Recovery
    doubles: Doubles
    predictors: list[Predictor]
    senders: list[Sender]
    operator: Operator

    @classmethod
    def of(cls, campaign: Campaign, luck: random.Random) -> Crew:
        cloud, journal, orders = campaign.cloud, campaign.journal, Orders()
        probe = Probe(cloud, journal, 0.1)
        return cls(
            probe=probe,
            recovery=Recovery(cloud, journal, probe, deadline=campaign.deadline),
            doubles=Doubles(cloud, journal),
            predictors=[Predictor(cloud, journal, 0.04) for _ in range(2)],
            senders=[Sender(cloud, journal, orders, luck.randrange(1 << 30), patient=p) for p in (False, True)],
            operator=Operator(cloud, journal, orders, luck.randrange(1 << 30), trains=campaign.trains),
        )

    @property
    def watching(self) -> list[Background]:
        return [self.probe, self.recovery, self.doubles, *self.predictors]

    @property
    def all(self) -> list[Background]:
        return [*self.watching, *self.senders, self.operator]


@dataclass
class Campaign:
    """Prepares the cloud; then `run`."""

    cloud: Cloud
    seed: int
    manner: Manner = field(default_factory=Manner)
    trains: bool = True
    stop: bool = False
    """At the first thing that is wrong."""
    deadline: float = DEADLINE_SECONDS
    journal: Journal = field(default_factory=Journal)

    def prepare(self) -> None:
        """Started, deployed, with its history and a first version that serves."""
        self.cloud.command("up", "--port", self.cloud.port).succeeded()
        self.cloud.command("deploy", "shop.py", "-y").succeeded()
        self.cloud.command("table", "load", "orders", write_csv(self.cloud.folder / "a.csv", history())).succeeded()
        self.cloud.command("run").succeeded()
        self.cloud.wait_ready()

    def run(self, kills: int, until: Callable[[], bool] = lambda: False) -> Outcome:
        """Kills until there were so many or `until`, then examines and ends the cloud. The home stays when something
        is wrong."""
        self.prepare()
        began = time.monotonic()
        luck = random.Random(self.seed)
        crew = Crew.of(self, luck)
        killer = Killer(self.cloud, self.journal, crew.probe, crew.operator, luck.randrange(1 << 30), self.manner)
        try:
            for thread in crew.all:
                thread.start()
            self._kill(killer, kills, until)
            tell("the last are coming back ...")
            while self.journal.open_kills():
                time.sleep(0.05)
            for changing in (crew.operator, *crew.senders):
                changing.end()
            examination = Examination(self.cloud, self.journal, crew.senders, crew.operator)
            self._examine(examination, crew)
        finally:
            for thread in crew.all:  # or one of them would call `up` again, after the end
                thread.ending.set()
            for thread in crew.all:
                thread.join(5.0)
        unsettled, ups = examination.unsettled, len(crew.recovery.ups)
        outcome = Outcome(self.journal, dict(examination.checked), time.monotonic() - began, unsettled, ups)
        self._tidy(outcome)
        return outcome

    def _kill(self, killer: Killer, kills: int, until: Callable[[], bool]) -> None:
        while len(self.journal.kills) < kills and not until():
            done = killer.turn()
            number = len(self.journal.kills)
            if done and number // 50 > (number - len(done)) // 50:
                self.tell()
            if self.stop and (any(k.lost for k in self.journal.kills) or self._found()):
                tell("stopped at what is wrong")
                return

    def _found(self) -> list[str]:
        journal = self.journal
        return [*journal.lost, *journal.twice, *journal.decided_twice, *journal.wrong]

    def _examine(self, examination: Examination, crew: Crew) -> None:
        tell("examining ...")
        try:
            examination.settle()
            for thread in crew.watching:
                thread.end()
            examination.running()
        except Exception as error:  # what is on disk can be examined all the same
            self.journal.wrong.append(
                f"the examination of the running cloud broke off: {type(error).__name__}: {error}"
            )
        down = self.cloud.command("down")
        if down.code:
            self.journal.wrong.append(f"down: {down.err}")
        try:
            examination.ended(crew.doubles.shared)
        except Exception as error:
            self.journal.wrong.append(f"the examination of the home broke off: {type(error).__name__}: {error}")

    def _tidy(self, outcome: Outcome) -> None:
        for text in self.journal.bursts("control", "nothing"):
            tell(f"FAILED: {text}")
        if outcome.problems:
            for text in outcome.problems[:20]:
                tell(f"WRONG: {text}"[:1_000])
            outcome.home = Path(shutil.copytree(self.cloud.home, self.cloud.folder / "home", ignore=_no_sockets))
            tell(f"the home is kept: {outcome.home}")
        self.cloud.close()

    def tell(self) -> None:
        journal = self.journal
        parts = []
        for kind in KINDS:
            if found := journal.recoveries(kind):
                parts.append(f"{kind} {len(found)} ({quantile(found, 0.5):.1f}/{quantile(found, 0.95):.1f} s)")
        lost = sum(k.lost for k in journal.kills)
        tell(
            f"{len(journal.kills)} kills: {', '.join(parts)}; not back {lost}; failed {journal.failed_by('prediction')}"
            f" predictions, {journal.failed_by('event')} events; wrong {len(self._found())}"
        )


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
