"""Who gets the one process that replays, and for how long what was asked is kept; with processes that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.control.pricing import OwnedMachines
from skyriver.core.contract_advice import Advice
from skyriver.core.errors import QuotaExceeded, Unavailable
from skyriver.core.resources import Resource, Snapshot
from skyriver.core.units import SECOND
from skyriver.wiring import advisor as advising
from skyriver.wiring.advisor import ANSWERS, GONE_US, KEPT_US, MOST_US, WAITING, ChildAdvisor
from skyriver.wiring.home import Home
from skyriver.wiring.simulation import SimulatedClock


class Process:
    """Ends when it is told to, with answers for the first `done` services."""

    def __init__(self, command: list[str], **_: Any) -> None:
        self.asked, self.answer = Path(command[-2]), Path(command[-1])
        self.question = json.loads(self.asked.read_bytes())
        self.rc: int | None = None
        self.killed = False
        self.stdin = None

    def end(self, done: int | None = None, rc: int = 0) -> None:
        self.tell(done)
        self.rc = rc

    def tell(self, done: int | None) -> None:
        items = [{"name": one["name"]} for one in self.question["services"][:done]]
        self.answer.write_text(json.dumps({"done": 1.0, "items": items}))

    def poll(self) -> int | None:
        return self.rc

    def kill(self) -> None:
        self.killed = True

    def wait(self) -> None: ...


class Asking:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = Home.at(folder)
        home.make()
        self.left = home.run / "advice" / "left.question"
        self.left.parent.mkdir(parents=True)
        self.left.touch()
        self.clock, self.begun = SimulatedClock(), list[Process]()
        monkeypatch.setattr(advising.subprocess, "Popen", self._begin)
        monkeypatch.setattr(advising.threading, "Thread", lambda **_: self)
        self.advisor = ChildAdvisor(home, OwnedMachines(), self.clock, {})
        rows = [(tenant, name) for tenant in ("a", "b") for name in ("x", "y", "z")]
        spec = {"serve": sr.Service().to_json(), "versions": {"1": {"weight": 100}}}
        resources = [Resource(tenant, "service", name, spec={**spec, "model": name}) for tenant, name in rows]
        self.snapshot = Snapshot({row.key: row for row in resources}, {}, {}, 0)

    def start(self) -> None:
        """No thread looks: the test does."""

    def _begin(self, command: list[str], **told: Any) -> Process:
        self.begun.append(Process(command, **told))
        return self.begun[-1]

    def ask(self, tenant: str, service: str = "", n: int = 0) -> Advice:
        declared = sr.Service(latency=f"{n}ms").to_json() if n else None
        return self.advisor.advise(self.snapshot, tenant, service, declared)

    def asked_of(self) -> list[tuple[str, list[str]]]:
        return [(one.question["tenant"], [of["name"] for of in one.question["services"]]) for one in self.begun]


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asking:
    return Asking(tmp_path, monkeypatch)


def test_a_tenant_has_few_questions_that_wait_and_the_next_is_refused(asking: Asking) -> None:
    assert not asking.left.exists(), "what a control plane left that was killed"
    for n in range(WAITING + 1):
        asking.ask("a", "x", n + 1)
    with pytest.raises(QuotaExceeded) as refused:
        asking.ask("a", "x", 99)
    assert (refused.value.code, refused.value.http_status) == ("TOO_MANY_QUESTIONS", 429)
    assert asking.ask("b")["state"] == "WAITING"
    asking.clock.advance(10 * SECOND)
    for n in (0, 1, 3, 4):
        asking.ask("a", "x", n + 1)
    assert asking.ask("a", "x", 99)["state"] == "WAITING", "the one that nobody asked after made room"
    with pytest.raises(QuotaExceeded):
        asking.ask("a", "x", 3)


def test_tenants_take_turns_and_the_rest_of_many_services_waits_again(asking: Asking) -> None:
    asking.ask("a")
    asking.ask("a", "x", 1)
    asking.clock.advance(SECOND)
    asking.ask("b")
    asking.begun[0].end(done=2)
    found = asking.ask("a")
    assert (found["state"], found["items"]) == ("REPLAYING", ())
    assert found["done"] == pytest.approx(2 / 3)
    asking.begun[1].end()
    assert asking.ask("b")["state"] == "DONE"
    asking.begun[2].end()
    assert [item["name"] for item in asking.ask("a")["items"]] == ["x", "y", "z"]
    assert asking.asked_of() == [("a", ["x", "y", "z"]), ("b", ["x", "y", "z"]), ("a", ["z"]), ("a", ["x"])]


def test_what_nobody_asks_after_is_dropped_whether_it_runs_or_waits(asking: Asking) -> None:
    asking.ask("a")
    asking.ask("b")
    asking.clock.advance(GONE_US)
    asking.ask("b")
    assert not asking.begun[0].killed
    asking.clock.advance(1)
    assert asking.advisor.look()
    assert asking.begun[0].killed
    assert [tenant for tenant, _ in asking.asked_of()] == ["a", "b"]
    asking.clock.advance(GONE_US + 1)
    assert not asking.advisor.look()
    assert asking.begun[1].killed
    assert list(asking.left.parent.iterdir()) == []


def test_an_answer_that_took_long_is_delivered_and_kept_from_then_on(asking: Asking) -> None:
    asking.ask("a")
    for turn in range(3):  # longer than an answer is kept
        for _ in range(KEPT_US // GONE_US - 1):
            asking.clock.advance(GONE_US)
            asking.ask("a")
        asking.begun[turn].end(done=1)
        asking.advisor.look()  # as another's question does
    assert asking.ask("a")["state"] == "DONE"
    asking.clock.advance(KEPT_US)
    assert asking.ask("a")["state"] == "DONE"
    asking.clock.advance(1)
    assert asking.ask("a")["state"] != "DONE"


def test_a_service_that_takes_too_long_is_named_and_the_others_are_replayed(asking: Asking) -> None:
    asking.ask("a")
    asking.begun[0].tell(done=1)
    for _ in range(MOST_US // GONE_US):
        asking.clock.advance(GONE_US)
        asking.ask("a")
    asking.clock.advance(1)
    assert asking.ask("a")["state"] == "REPLAYING"
    assert asking.begun[0].killed
    asking.begun[1].end()
    found = asking.ask("a")
    assert [item["name"] for item in found["items"]] == ["x", "z"]
    (failed,) = found["failed"]
    assert (failed["name"], failed["message"]) == ("y", "Its replay took longer than 10 minutes, and was ended.")
    assert asking.asked_of() == [("a", ["x", "y", "z"]), ("a", ["z"])]


def test_a_service_that_ends_the_process_is_named_and_asked_for_again(asking: Asking) -> None:
    asking.ask("a")
    asking.begun[0].end(done=2, rc=-9)
    found = asking.ask("a")
    assert ([item["name"] for item in found["items"]], found["done"]) == (["x", "y"], 1.0)
    (failed,) = found["failed"]
    assert (failed["name"], failed["message"]) == (
        "z",
        "While it was replayed its process ended. It was ended by SIGKILL.",
    )
    assert asking.ask("a")["state"] == "REPLAYING", "what failed is not kept"


def test_where_no_service_can_be_replayed_that_is_an_error(asking: Asking) -> None:
    asking.ask("a", "x")
    asking.begun[0].end(done=0, rc=-11)
    with pytest.raises(Unavailable, match="No advice on x: While it was replayed its process ended") as refused:
        asking.ask("a", "x")
    assert (refused.value.code, refused.value.details[0]["name"]) == ("NO_ADVICE", "x")


def test_answers_of_a_tenant_push_out_none_of_another(asking: Asking) -> None:
    asking.ask("b")
    asking.begun[0].end()
    for n in range(ANSWERS + 2):
        asking.clock.advance(1)
        asking.ask("a", "x", n + 1)
        asking.begun[-1].end()
        assert asking.ask("a", "x", n + 1)["state"] == "DONE"
    assert asking.ask("b")["state"] == "DONE"
    assert asking.ask("a", "x", ANSWERS + 2)["state"] == "DONE"
    assert asking.ask("a", "x", 1)["state"] != "DONE"


def test_the_process_ends_with_who_began_it(tmp_path: Path) -> None:
    question = tmp_path / "question"
    os.mkfifo(question)  # nobody writes: it would wait for ever
    command = [sys.executable, "-m", "skyriver.wiring.advising", str(question), str(tmp_path / "answer")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
