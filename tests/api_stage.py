"""The API in this process over real kinds and actions, with processes and gateway in memory."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from skyriver.adapters.memory.asking import MemoryAsker
from skyriver.adapters.memory.keys import MemoryTrust
from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.client.appfile import load_app
from skyriver.control.api import Cloud, create_api
from skyriver.control.signing import Signer
from skyriver.control.store import Store
from skyriver.core.resources import Put, Resource
from skyriver.trust.keys import Keys, PublicKey, Signed, key_id
from skyriver.trust.tokens import new_token
from skyriver.wiring.alerts import AlertFiles
from skyriver.wiring.control import ACTIONS
from skyriver.wiring.simulation import Simulation

BASE = "/api/v1/tenants/default"

APP = """\
import lightgbm

import skyriver as sr

app = sr.App("shop")


class Order(sr.Event):
    order: int
    at: sr.Time
    customer: int
    amount: float | None = sr.field(ge=0, le={limit})


orders = app.stream("orders", Order, id="order", time="at", key="customer", disorder="1h")
returned = app.labels("returned", of=orders, delay="2d")
habits = app.features("habits", orders, {{"mean_7d": sr.mean("amount", by="customer", over="7d")}})


@app.train(habits, label=returned, test="7d")
def fit(data: sr.TrainingData) -> lightgbm.Booster:
    return lightgbm.train({{}}, lightgbm.Dataset(data.x, data.y))


model = app.model("comes_back", fit)
decisions = app.decide(orders, model, {{"call": "score >= 0.25"}}, otherwise="ship")
decisions.review("call", label=returned, answers={{"hold": 1, "ship": 0}})
decisions.sink("callers", on="call", approve=True)
"""


class PlainKeys:
    """Keys that sign nothing that verifies: what a key does is the exam's matter."""

    def __init__(self) -> None:
        self.made: dict[str, list[PublicKey]] = {}

    def list(self, tenant: str) -> list[PublicKey]:
        return self.made.get(tenant, [])

    def sign(self, tenant: str, data: bytes) -> Signed:
        return Signed(self.made[tenant][-1].id, hashlib.sha512(data).digest())

    def rotate(self, tenant: str, *, now: int) -> PublicKey:
        public = hashlib.sha256(f"{tenant} {len(self.list(tenant))}".encode()).digest()
        self.made.setdefault(tenant, []).append(PublicKey(key_id(public), public, now))
        return self.made[tenant][-1]


class Stage:
    """`store` may be one that fails, or one on the disk that another stage had before; `keys` ones that sign."""

    def __init__(self, folder: Path, store: Store | None = None, keys: Keys | None = None) -> None:
        self.folder = folder
        self.world = Simulation(store=store)
        self.objects = MemoryObjects()
        self.asker = MemoryAsker()
        signer = Signer(keys or PlainKeys(), MemoryTrust(), self.world.clock)
        signer.begin(self.world.store, self.world.fence)
        self.cloud = Cloud(
            self.world.store,
            self.objects,
            self.world.compute,
            self.world.loop,
            self.world.clock,
            self.world.fence,
            ACTIONS,
            folder,
            self.asker,
            signer=signer,
            alerts=AlertFiles(folder, self.world.clock.wall),
        )
        self.api = create_api(self.cloud)
        self.caller = Caller(self.api)

    @property
    def store(self) -> Store:
        return self.world.store

    def issue(self, role: str = "admin", tenant: str = "default", name: str = "") -> dict[str, str]:
        """The header with a new token."""
        text, digest = new_token()
        row = Resource(tenant, "token", name or f"{role}-token", spec={"sha256": digest, "role": role}, state="ACTIVE")
        self.store.commit([Put(row, 0)], audit=(), fence=self.world.fence, actor="test", now=0)
        return {"Authorization": f"Bearer {text}"}

    def body(self, limit: int = 100_000) -> dict[str, Any]:
        """What deploys the application; another limit is another specification."""
        file = self.folder / f"shop{limit}.py"
        file.write_text(APP.format(limit=limit))
        spec = load_app(file).spec
        bundle = self.objects.put(f"bundle {limit}".encode())
        return {"spec": spec.to_json(), "spec_digest": spec.digest(), "code": bundle, "main": file.name}

    def put(self, row: Resource) -> Resource:
        """Writes a row as the loop does."""
        current = self.world.loop.snapshot().find(*row.key)
        expected = current.revision if current is not None else 0
        [written] = self.store.commit(
            [Put(replace(row), expected)], audit=(), fence=self.world.fence, actor="test", now=self.world.clock.wall()
        )
        return written


class Caller:
    """Requests to an application in this process."""

    def __init__(self, api: FastAPI) -> None:
        self.transport = httpx.ASGITransport(api, raise_app_exceptions=False)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)
