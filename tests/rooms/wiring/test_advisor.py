"""Advice over the API: a process of its own replays what is kept, and everybody is told clearly what there is."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_stage import BASE, Stage

import skyriver as sr
from skyriver.control.api import create_api
from skyriver.control.pricing import OwnedMachines
from skyriver.control.schedule.history import MARK, TICKS, Minute, pack, place
from skyriver.core.resources import Resource
from skyriver.core.units import DAY, SECOND
from skyriver.wiring import advisor as advising
from skyriver.wiring.advisor import ChildAdvisor
from skyriver.wiring.histories import FOLDER
from skyriver.wiring.home import Home


class Advised(Stage):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.home = Home.at(folder)
        self.home.make()
        self.advisor = ChildAdvisor(self.home, OwnedMachines(), self.world.clock, dict(os.environ))
        self.cloud = replace(self.cloud, advisor=self.advisor)
        self.api = create_api(self.cloud)
        self.caller = type(self.caller)(self.api)
        self.world.clock.advance(20_000 * DAY)

    def service(self, name: str, **serve: Any) -> None:
        spec = {"model": name, "serve": sr.Service(**serve).to_json(), "versions": {"1": {"weight": 100}}}
        self.put(Resource("default", "service", name, spec=spec, state="READY"))

    def keep(self, name: str, hours: int, work: float) -> None:
        path = self.folder / FOLDER / "default" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        last = self.world.clock.wall() // SECOND // 60
        with path.open("wb") as file:
            file.write(MARK)
            for number in range(last - 60 * hours, last):
                file.seek(place(number))
                file.write(pack(Minute(number, [work] * TICKS, work / 0.01, 0.0, 0.8, 0.9, 500.0)))

    def advice(self, headers: dict[str, str], query: str = "") -> Any:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            answer = self.caller.get(f"{BASE}/advice{query}", headers=headers)
            if answer.status_code != 200 or answer.json()["state"] == "DONE":
                return answer.json()
            time.sleep(0.05)  # a process of its own replays
        raise AssertionError("it is not done")


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    stage = Advised(tmp_path)
    yield stage
    stage.advisor.stop()


def test_services_get_advice_by_what_is_kept_of_them(stage: Advised) -> None:
    stage.service("price", latency="200ms")
    stage.service("young")
    stage.service("new")
    stage.keep("price", 30, 0.0)
    stage.keep("young", 2, 0.1)
    viewer = stage.issue("viewer")
    found = stage.advice(viewer)
    assert (found["state"], found["done"], found["currency"]) == ("DONE", 1.0, "")
    new, price, young = found["items"]
    assert (price["name"], price["known_hours"]) == ("price", 30.0)
    assert price["proposed"]["line"] == 'sr.Service(replicas=(0, 1), latency="200ms")'
    assert price["saves"] > 0.99
    assert young["why"] == "There is a history of only 2 hours, and a day at least is needed."
    assert new["why"].startswith("Nothing is known of its demand yet")
    assert (new["since"], new["proposed"]) == (None, None)
    assert (new["now"]["late"], new["looked_at"]) == (None, [])
    assert list((stage.home.run / "advice").iterdir()) == []
    alone = stage.advice(viewer, "?service=young")
    assert [item["name"] for item in alone["items"]] == ["young"]


def test_a_service_that_there_is_not_is_said_and_another_tenant_sees_none(stage: Advised) -> None:
    stage.service("price")
    assert stage.advice(stage.issue("viewer"), "?service=nobody")["code"] == "NOT_FOUND"
    other = stage.issue("admin", "bank")
    answer = stage.caller.get(f"{BASE}/advice", headers=other)
    assert answer.status_code == 403
    bank = stage.caller.get(f"{BASE.replace('default', 'bank')}/advice", headers=other)
    assert bank.json()["items"] == [] or bank.json()["state"] != "DONE"


def test_an_answer_is_kept_until_something_else_is_declared(stage: Advised) -> None:
    stage.service("price")
    viewer = stage.issue("viewer")
    assert stage.advice(viewer)["items"][0]["now"]["line"] == "sr.Service()"
    assert stage.caller.get(f"{BASE}/advice", headers=viewer).json()["state"] == "DONE"
    row = stage.store.get("default", "service", "price")
    stage.put(replace(row, spec={**row.spec, "serve": sr.Service(replicas=2).to_json()}))
    assert stage.caller.get(f"{BASE}/advice", headers=viewer).json()["state"] != "DONE"
    assert stage.advice(viewer)["items"][0]["now"]["line"] == "sr.Service(replicas=2)"


def test_services_that_cannot_be_replayed_are_named_beside_the_answers_of_the_others(stage: Advised) -> None:
    for name in ("good", "odd", "strange", "torn", "young"):
        stage.service(name)
    stage.keep("young", 2, 0.1)
    (stage.folder / FOLDER / "default" / "torn").write_bytes(b"\xff" * 4_000)
    (stage.folder / FOLDER / "default" / "odd").mkdir()
    row = stage.store.get("default", "service", "strange")
    stage.put(replace(row, spec={**row.spec, "serve": {**row.spec["serve"], "replicas": -1}}))
    viewer = stage.issue("viewer")
    found = stage.advice(viewer)
    assert [item["name"] for item in found["items"]] == ["good", "young"]
    told = {one["name"]: (one["code"], one["message"]) for one in found["failed"]}
    folder = stage.folder / FOLDER / "default"
    assert told.keys() == {"odd", "strange", "torn"}
    assert told["odd"] == (
        "HISTORY_UNREADABLE",
        f"{folder / 'odd'}: The history of its demand cannot be read: Is a directory.",
    )
    assert told["torn"] == (
        "HISTORY_DAMAGED",
        f"{folder / 'torn'}: The history of its demand is damaged, or of another release.",
    )
    assert (told["strange"][0], "replicas" in told["strange"][1]) == ("BAD_SPEC", True)
    assert all(one["next_action"] for one in found["failed"])
    alone = stage.advice(viewer, "?service=torn")
    assert alone["code"] == "NO_ADVICE"
    assert alone["detail"].startswith("No advice on torn: ")


def test_a_process_that_fails_is_said_and_the_next_question_tries_again(
    stage: Advised, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.service("price")
    viewer = stage.issue("viewer")
    monkeypatch.setattr(advising.sys, "executable", "/bin/false")
    failed = stage.advice(viewer)
    assert (failed["code"], failed["detail"]) == ("NO_ADVICE", "No advice could be computed: its process ended with 1.")
    monkeypatch.undo()
    assert stage.advice(viewer)["state"] == "DONE"
