"""Waiting for operations through the gateway: events come at once, over the end of the control plane, and end with the
cloud."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloud_process import DEADLINE, Cloud, history, kill, wait_for, write_csv

from skyriver.client.api import AsyncClient, Client


@pytest.fixture(scope="module")
def shop(cloud: Cloud) -> Cloud:
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "shop.py", "-y").succeeded()
    return cloud


def url_of(shop: Cloud) -> str:
    return f"http://127.0.0.1:{shop.port}"


def start_load(shop: Cloud, path: Path) -> str:
    with Client(url_of(shop), shop.token) as client:
        digest = client.upload(path)
        file = {"digest": digest, "name": path.name, "format": "csv", "label": ""}
        return client.act("load", "orders", inputs={"files": [file]})


def test_a_wait_goes_on_over_a_kill_of_the_control_plane(shop: Cloud) -> None:
    operation = start_load(shop, write_csv(shop.folder / "first.csv", history()[:2_000]))
    told: list[str] = []
    found: list[Any] = []

    def wait() -> None:
        with Client(url_of(shop), shop.token) as client:
            found.append(client.wait(operation, timeout=DEADLINE, told=lambda row: told.append(row["state"])))

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(lambda: told, "the first event", DEADLINE)
    kill(shop.control_pid())
    waiting.join(2 * DEADLINE)
    assert [row["state"] for row in found] == ["SUCCEEDED"]
    assert told[-1] == "SUCCEEDED"

    async def on_asyncio() -> str:
        async with AsyncClient(url_of(shop), shop.token) as client:
            done, _ = await asyncio.gather(client.wait(operation), client.whoami())
            return str(done["state"])

    assert asyncio.run(on_asyncio()) == "SUCCEEDED"


def test_a_key_does_a_thing_once_over_a_kill_of_the_control_plane(shop: Cloud) -> None:
    headers = {"Authorization": f"Bearer {shop.token}", "Idempotency-Key": "once"}
    asked = {"url": f"{url_of(shop)}/api/v1/tenants/default/actions/verify", "json": {"target": "orders"}}
    first = httpx.post(**asked, headers=headers, timeout=DEADLINE)
    assert first.status_code == 202
    kill(shop.control_pid())

    def again() -> httpx.Response | None:
        answer = httpx.post(**asked, headers=headers, timeout=DEADLINE)
        return answer if answer.status_code == 202 else None

    answer = wait_for(again, "the control plane is back", DEADLINE)
    assert answer.json() == first.json()
    assert answer.headers["location"] == first.headers["location"]


def test_a_stream_shows_life_and_ends_with_the_cloud(shop: Cloud) -> None:
    operation = start_load(shop, write_csv(shop.folder / "second.csv", history()[2_000:] * 50))  # not over at once
    # The load's job has its name.
    job = wait_for(
        lambda: next((p for p in shop.rows("processes") if p["name"] == operation and p["alive"]), None),
        "the load's process",
        DEADLINE,
    )
    os.killpg(os.getpgid(job["pid"]), signal.SIGSTOP)  # with its watcher, which has the same group
    path = f"{url_of(shop)}/api/v1/tenants/default/operations/{operation}/events"
    came: list[tuple[float, bytes]] = []
    began = time.monotonic()

    def listen() -> None:
        headers = {"Authorization": f"Bearer {shop.token}"}
        with httpx.stream("GET", path, headers=headers, timeout=DEADLINE) as answer:
            for piece in answer.iter_raw():
                came.append((time.monotonic() - began, piece))

    listening = threading.Thread(target=listen)
    listening.start()
    wait_for(lambda: any(b": still here" in piece for _, piece in came), "a sign of life", DEADLINE)
    assert any(b"event: state" in piece for _, piece in came)
    assert came[-1][0] - came[0][0] > 2, "the first ones were not held back until the last"
    shop.command("down").succeeded()
    listening.join(DEADLINE)
    assert not listening.is_alive()
    assert shop.living() == {}
