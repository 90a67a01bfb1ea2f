"""A model that is trained again when what it is asked drifts, in a whole cloud."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from cloud_process import CUSTOMERS, DAYS, HISTORY, SHOP, START, Cloud, history, iso, wait_for, write_csv, write_lines

WATCHED = (
    re.sub(
        r'    "orders_7d.*?\n}', "}", SHOP, flags=re.DOTALL
    )  # what an order says of itself, and not of when it comes
    .replace("replicas=2", "replicas=1")
    .replace('test="7d"', 'test="25d"')  # it reaches back to where labels are known: of what is sent here none are
    .replace(
        'gate=sr.Gate(auc=">= 0.6")',
        'gate=sr.Gate(auc=">= 0.1"), retrain=sr.Retrain(on=["drift", "quality"], at_most="1h",'
        ' window="16s", look="1s", follow_up="2h")',
    )
)
EVERY = DAYS * 86_400 / HISTORY / 4


def later(first: int, count: int, *, dearer: float = 1.0) -> list[dict[str, Any]]:
    """Orders that come after the history."""
    luck, end = random.Random(first), START + DAYS * 86_400
    return [
        {
            "order": 100_000 + n,
            "at": iso(end + (n + 1) * EVERY),
            "customer": luck.randrange(CUSTOMERS),
            "amount": round(dearer * luck.expovariate(1 / 50) + 1, 2),
        }
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def watched(cloud: Cloud) -> Cloud:
    """Version 1 decides."""
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.app.write_text(WATCHED)
    plan = " ".join(cloud.command("deploy", "shop.py", "-y").succeeded().err.split())
    assert "+ create watch comes_back" in plan
    cloud.command("table", "load", "orders", write_csv(cloud.folder / "a.csv", history())).succeeded()
    cloud.json("run")
    cloud.wait_ready()
    return cloud


def test_what_drifts_is_seen_trained_for_and_told(watched: Cloud) -> None:
    def get() -> dict[str, Any]:
        found: dict[str, Any] = watched.json("watch", "get", "comes_back")
        return found

    numbers = count()

    def sending(dearer: float, seen: Callable[[dict[str, Any]], object]) -> Callable[[], bool]:
        """Sends more at each look, until this was seen."""

        def looked() -> bool:
            rows = later(500 * next(numbers), 500, dearer=dearer)
            assert watched.json("send", "orders", write_lines(watched.folder / "some.jsonl", rows))["accepted"] == 500
            return bool(seen(get()))

        return looked

    wait_for(
        sending(1.0, lambda w: (w["status"].get("seen") or {}).get("drift", {}).get("verdict") == "none"),
        "a look",
        every=1.0,
    )
    seen = get()
    assert (seen["state"], seen["reason"]) == ("WATCHING", "")
    assert "rows are as those that it was trained on" in seen["message"]
    assert {c["column"] for c in seen["status"]["seen"]["drift"]["columns"]} == {"amount", "its score"}
    wait_for(lambda: get()["status"].get("quality"), "a look for quality")
    judged = get()["status"]["quality"]
    assert (judged["version"], judged["worse"], judged["looks"]) == (1, None, 0), "16 s have few orders with labels"
    assert "rows with known labels" in judged["message"]
    wait_for(sending(8.0, lambda w: w["status"].get("trainings")), "the drift", every=1.0)
    wait_for(lambda: (get()["status"]["trainings"][-1].get("outcome") or "") != "", "the training")
    training = get()["status"]["trainings"][-1]
    assert training["cause"] == "drift"
    assert ": index" in training["why"]
    assert training["outcome"] == "comes_back:2 serves."
    assert watched.json("watch", "list")[0]["name"] == "comes_back"
    shown = watched.command("watch", "get", "comes_back").succeeded().out
    assert training["run"] in shown
    assert "trains for drift and worse quality, at most once in 1h" in shown
    assert f"follows up {training['run']}: the next training is at" in shown
    told = " ".join(watched.command("explain", "comes_back").succeeded().out.split())
    assert f"by {training['run']}, by itself for drift: " in told
    assert f"It is trained again once more for the change that {training['run']} was for: " in told


def test_it_is_paused_and_goes_on_by_hand(watched: Cloud) -> None:
    paused = watched.command("watch", "pause", "comes_back", "--why", "holidays").succeeded().err
    assert "The watch of comes_back is PAUSED. It was paused by hand: holidays." in paused
    watched.command("watch", "pause", "comes_back").refused("REFUSED_TRANSITION", 6, "is PAUSED")
    assert watched.json("watch", "resume", "comes_back")["state"] == "WATCHING"
    watched.command("watch", "get", "nobody").refused("NOT_FOUND", 3, "nobody")


def test_where_no_stream_decides_its_replicas_count_what_they_are_asked(watched: Cloud) -> None:
    asked = re.sub(r"app\.decide\(.*\n", "", WATCHED).replace(', follow_up="2h"', "")
    asked = asked.replace('["drift", "quality"]', '"drift"')
    watched.app.write_text(asked)
    watched.command("deploy", "shop.py", "-y").succeeded()
    luck = random.Random(5)

    held: list[dict[str, Any]] = []

    def drifts() -> bool:
        """And it is told, of one and the same look: a busy machine asks too little for some."""
        rows = [{"amount": luck.uniform(50_000, 90_000)} for _ in range(50)]
        assert watched.ask("POST", "/predict/comes_back", {"rows": rows})[0] == 200
        held.append(watched.json("watch", "get", "comes_back"))
        return "answered" in held[-1]["status"]["seen"] and held[-1]["reason"] == "DRIFTED"

    wait_for(drifts, "the drift of what is asked over HTTP")
    found = held[-1]["status"]["seen"]
    assert "amount" in {c["column"] for c in found["drift"]["columns"] if c["severity"] != "none"}
    assert found["answered"]["drawn"] <= found["answered"]["rows"]
    assert held[-1]["state"] == "WATCHING", "it was trained within the hour"
    shown = watched.command("watch", "get", "comes_back").succeeded().out
    assert "answered over HTTP" in " ".join(shown.split())
    before = len(held[-1]["status"]["trainings"])
    watched.app.write_text(asked.replace('at_most="1h"', 'at_most="1s"'))
    watched.command("deploy", "shop.py", "-y").succeeded()

    def trains() -> bool:
        drifts()
        return len(held[-1]["status"]["trainings"]) > before

    wait_for(trains, "a training for it")
    watched.command("watch", "pause", "comes_back").succeeded()
    training = held[-1]["status"]["trainings"][-1]
    assert (training["cause"], "amount: index" in training["why"]) == ("drift", True)
