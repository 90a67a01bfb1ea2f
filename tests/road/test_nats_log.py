"""A cloud whose stream has its log in NATS: loads, training, changed features, tables and restarts go by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from broker_servers import NatsServer
from cloud_process import HISTORY, SHOP, Cloud, history, kill, wait_for, write_csv, write_lines

from skyriver.trust.secretfile import write_secret

LOG = 'disorder="1h", log=sr.NatsLog("{url}", name="shop-orders", credentials="bus"))'
SECONDS = 300.0


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    server = NatsServer(mqtt=False)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def shop(server: NatsServer) -> str:
    return SHOP.replace('disorder="1h")', LOG.format(url=server.url))


@pytest.fixture(scope="module")
def released(cloud: Cloud, server: NatsServer, shop: str) -> Cloud:
    """History is loaded, and a version decides."""
    cloud.app.write_text(shop)
    cloud.command("up", "--port", cloud.port).succeeded()
    text = f'hosts = ["127.0.0.1:{server.port}"]\nmonitor = "http://127.0.0.1:{server.monitor}"\n'
    write_secret(cloud.home / "brokers" / "default" / "bus.toml", text.encode())
    cloud.command("deploy", "shop.py", "-y").succeeded()
    write_csv(cloud.folder / "history.csv", history())
    report = cloud.json("table", "load", "orders", "history.csv")
    assert (report["counts"]["rows_good"], report["counts"]["labels"]) == (HISTORY, HISTORY)
    assert cloud.json("run")["version"]["name"] == "comes_back:1"
    wait_for(cloud._all_ready, "everything READY", SECONDS)
    return cloud


def send(cloud: Cloud, count: int) -> dict[str, Any]:
    orders = cloud.next_orders(count)
    sent: dict[str, Any] = cloud.json("send", "orders", write_lines(cloud.folder / "live.jsonl", orders))
    assert (sent["accepted"], sent["rejected"]) == (count, [])
    return sent


def using(cloud: Cloud) -> int:
    return int(now(cloud)["decides"]["version"] or 0)


def now(cloud: Cloud) -> dict[str, Any]:
    status, answer = cloud.ask("GET", "/api/v1/tenants/default/now/streams/orders")
    assert status == 200, answer
    return dict(answer)


def rows_of(cloud: Cloud, table: str) -> int:
    found = {row["name"]: row["status"] for row in cloud.json("table", "list")}
    return int(found[table].get("rows", 0))


def verified(cloud: Cloud) -> dict[str, Any]:
    report: dict[str, Any] = cloud.json("stream", "verify", "orders")
    assert (report["different"], report["undecided"], report["decided_twice"], report["unknown"]) == (0, 0, 0, 0)
    return report


def test_it_loads_trains_decides_and_equals_a_backfill(released: Cloud) -> None:
    assert not list((released.home / "streams").rglob("*.log")), "nothing of the log is in files"
    assert sum(send(released, 60)["decisions"].values()) == 60
    assert released.ask("POST", "/streams/orders/labels", {"order": 100_001, "returned": 1})[0] == 200
    assert verified(released)["compared"] == 60


def test_changed_features_are_built_from_it_and_take_over(released: Cloud, shop: str) -> None:
    changed = shop.replace(
        '    "mean_7d"', '    "dearest_7d": sr.maximum("amount", by="customer", over="7d"),\n    "mean_7d"'
    )
    released.app.write_text(changed)
    released.command("deploy", "shop.py", "-y").succeeded()
    released.command("run", "--detach").succeeded()
    wait_for(lambda: using(released) == 2, "the second version decides", SECONDS)
    order = released.next_orders(1)[0]
    status, answer = released.ask("POST", "/streams/orders/events?wait=decision", order)
    assert (status, answer["decisions"][0]["version"]) == (200, 2)
    assert answer["decisions"][0]["features"]["dearest_7d"] > 0
    send(released, 40)
    assert verified(released)["feature_sets"] == 2


def test_a_killed_worker_goes_on_and_tables_get_all_of_it(released: Cloud) -> None:
    before = released.processes()["orders-0"]
    events = now(released)["partitions"][0]["events"] + 10
    kill(before)
    wait_for(lambda: released.processes().get("orders-0", before) != before, "another worker", SECONDS)
    wait_for(released._all_ready, "everything READY", SECONDS)
    send(released, 10)
    wait_for(lambda: now(released)["partitions"][0]["decided"] == events, "a report of all of them", SECONDS)
    released.command("run", "--detach").succeeded()  # what is new is in the tables before it trains
    filled = {"orders": HISTORY + events, "orders.decisions": events, "orders.labels": HISTORY + 1}
    wait_for(lambda: {name: rows_of(released, name) for name in filled} == filled, "the tables are filled", SECONDS)


def test_down_and_up_again(released: Cloud) -> None:
    released.command("down").succeeded()
    released.command("up").succeeded()
    wait_for(released._all_ready, "everything READY", SECONDS)
    send(released, 10)
    verified(released)
