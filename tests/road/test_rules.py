"""Versions of rules on a whole cloud, by the command line: a candidate, its trial, its promotion and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from cloud_process import SHOP, Cloud, kill, wait_for, write_lines

DECIDES = 'app.decide(orders, model, {"call": "score >= 0.25"}, otherwise="ship")'
WORDS = ("call", "ship")


def written(cloud: Cloud, file: str, when: str) -> Path:
    """The shop without a version of its model: rules that read no score decide."""
    decides = f'app.decide(orders, model, {{"call": "{when}"}}, otherwise="ship", fallback_by=("rules",))'
    path = cloud.folder / file
    path.write_text(SHOP.replace(DECIDES, decides))
    return path


def send(cloud: Cloud, count: int) -> list[dict[str, Any]]:
    orders = cloud.next_orders(count)
    sent = cloud.json("send", "orders", write_lines(cloud.folder / "live.jsonl", orders))
    assert sent["accepted"] == count
    return orders


def compared(cloud: Cloud, version: int, events: int) -> dict[str, Any]:
    """Once the worker has told of so many."""

    def told() -> Any:
        found = cloud.json("rules", "get", "orders", version)["compared"]
        return found if found is not None and found["events"] >= events else None

    found: dict[str, Any] = wait_for(told, f"{events} events compared")
    return found


def conditions(cloud: Cloud) -> set[str]:
    """Of incidents of what the tenant has, by their kinds: a machine that does much else may have some of its own."""
    found = [condition for row in cloud.rows("incidents") for condition in row["status"]["conditions"]]
    return {condition["kind"] for condition in found if condition["subject"].startswith("default:")}


def over(orders: list[dict[str, Any]], amount: float) -> int:
    return sum(order["amount"] is not None and order["amount"] > amount for order in orders)


@pytest.fixture(scope="module")
def shop(cloud: Cloud) -> Cloud:
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", written(cloud, "shop.py", "amount > 60"), "-y").succeeded()
    cloud.wait_ready()
    return cloud


def test_a_candidate_is_tried_and_promoted_and_the_way_back_is_open(shop: Cloud) -> None:
    cloud = shop
    [first] = cloud.json("rules", "list", "orders")["items"]
    assert (first["version"], first["state"], first["rules"]) == (
        1,
        "LIVE",
        [{"decision": "call", "when": "amount > 60"}],
    )
    file = written(cloud, "stricter.py", "amount > 30")
    cloud.command("rules", "add", "orders", written(cloud, "bad.py", "amont > 30")).refused("BAD_RULE", 2, "amont")
    assert "is CANDIDATE" in cloud.command("rules", "add", "orders", file, "--why", "more calls").succeeded().err
    assert "is SHADOW" in cloud.command("rules", "shadow", "orders", 2).succeeded().err
    orders = send(cloud, 300)
    seen = compared(cloud, 2, 300)
    assert (seen["live"], seen["events"]) == (1, 300)
    assert seen["differed"] == over(orders, 30) - over(orders, 60) > 0
    assert seen["decided_by_candidate"] == {}
    assert f"differs on {seen['differed']} of 300" in cloud.command("stream", "get", "orders").succeeded().out
    assert cloud.json("explain", "decision", orders[0]["order"])["shadow_decision"] in WORDS
    cloud.command("rules", "promote", "orders", 2).refused("GATE_REFUSED", 6, "300 events were compared", "--anyway")
    # A share of the keys is the candidate's; a worker that is killed knows what it has counted.
    cloud.command("rules", "canary", "orders", 2, 50).succeeded()
    orders = send(cloud, 400)
    seen = compared(cloud, 2, 400)
    kill(cloud.processes()["orders-0"])
    orders += send(cloud, 700)
    cloud.wait_ready()
    seen = compared(cloud, 2, 1_100)
    assert seen["events"] == 1_100
    assert seen["differed"] == over(orders, 30) - over(orders, 60)
    by_live, by_candidate = seen["decided_by_live"], seen["decided_by_candidate"]
    assert sum(by_candidate.values()) > 300
    assert sum(by_live.values()) + sum(by_candidate.values()) == 1_100
    headers = {"Authorization": f"Bearer {cloud.token}"}
    metrics = httpx.get(f"http://127.0.0.1:{cloud.port}/streams/orders/metrics", headers=headers, timeout=60.0).text
    assert 'skyriver_rules_compared_total{stream="orders",partition="0",tried="2"' in metrics
    assert 'skyriver_rules_version{stream="orders",partition="0"} 1' in metrics
    assert "version 2 of the rules" in cloud.command("rules", "get", "orders", 2).succeeded().out
    promoted = cloud.json("rules", "promote", "orders", 2, "--why", "it calls enough")
    assert (promoted["state"], promoted["in_use"], promoted["compared"]["events"]) == ("LIVE", True, 1_100)
    orders = send(cloud, 100)
    decided = cloud.json("explain", "decision", next(o for o in orders if 30 < (o["amount"] or 0) <= 60)["order"])
    assert (decided["decision"], decided["shadow_decision"]) == ("call", "")
    report = cloud.json("stream", "verify", "orders")
    assert (report["different"], report["undecided"], report["decided_twice"]) == (0, 0, 0)
    assert cloud.json("rules", "promote", "orders", 1, "--why", "too many")["in_use"]
    told = cloud.command("rules", "list", "orders").succeeded().out
    assert "REPLACED" in told
    assert "more calls" in told


def test_a_deployment_tells_what_becomes_of_the_rules(shop: Cloud) -> None:
    cloud = shop
    cloud.command("rules", "promote", "orders", 2).succeeded()
    kept = cloud.command("deploy", "shop.py", "-y").succeeded().err
    assert "keep   ruleset  orders-r2  was promoted and decides" in kept
    assert cloud.json("deploy", "stricter.py", "--dry-run")["plan"]
    changed = cloud.command("deploy", written(cloud, "shop.py", "amount > 90"), "-y").succeeded().err
    assert "+ create ruleset  orders-r3  decides in place of orders-r2" in changed
    states = [version["state"] for version in cloud.json("rules", "list", "orders")["items"]]
    assert states == ["REPLACED", "REPLACED", "LIVE"]
    cloud.command("rules", "get", "orders", 9).refused("NOT_FOUND", 3, "no version 9")
    cloud.command("rules", "list", "nothing").refused("NOT_FOUND", 3)


def test_a_deployment_is_done_once_the_worker_decides_with_it(shop: Cloud) -> None:
    cloud = shop
    file = written(cloud, "shop.py", "amount > 90")
    known = conditions(cloud)  # the worker that was killed may have been away for long
    before = cloud.processes()["orders-0"]
    file.write_text(file.read_text().replace('fallback_by=("rules",)', 'fallback="call", latency="500ms"'))
    cloud.command("deploy", file, "-y").succeeded()
    [order] = cloud.next_orders(1)
    told = cloud.json("send", "orders", write_lines(cloud.folder / "one.jsonl", [order]))
    assert (told["decisions"], cloud.processes()["orders-0"]) == ({"call": 1}, before), "and no event waits for it"
    file.write_text(file.read_text().replace('id="order",', 'id="order", linger="2ms",'))
    cloud.command("deploy", file, "-y").succeeded()
    assert cloud.json("stream", "get", "orders")["state"] == "READY"
    assert cloud.processes()["orders-0"] != before
    came = conditions(cloud) - known
    assert came <= {"fallbacks", "slow"}, "but that no version of its model serves, no incident"
