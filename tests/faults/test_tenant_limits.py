"""Limits of tenants from the API to a running HAProxy: one tenant is refused what is too much, the others are not."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from api_stage import Caller, Stage
from free_ports import free_port

from skyriver.adapters.haproxy.admin import Admin
from skyriver.adapters.haproxy.config import ROUTES
from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.adapters.haproxy.process import recorded
from skyriver.control import gateway_stage as field
from skyriver.control.api import create_api
from skyriver.control.gateway_stage import Client, Reply, upstream, wait_for
from skyriver.control.loop import ControlLoop
from skyriver.core.resources import Kind, Pool, Resource, Route, Server, WantPool, WantRoute


def serving(server: Server) -> Kind:
    """Each service is answered for by `server`."""

    def step(snapshot: object, service: Resource) -> Iterator[WantRoute | WantPool]:
        pool = f"{service.name}:1"
        yield WantPool(Pool(service.tenant, pool, (server,)))
        yield WantRoute(Route(service.tenant, "model", service.name, ((pool, 100),)))

    return Kind("service", "READY", {}, frozenset(), step)


@dataclass
class House:
    """The API and the loop of one control plane, with a real gateway; tenants `default` (the admin's), acme and globex
    have a model each."""

    caller: Caller
    admin: dict[str, str]
    at: field.Stage
    tokens: dict[str, str]
    upstream: field.Upstream

    def limit(self, name: str, **limits: Any) -> None:
        answer = self.caller.request("PATCH", f"/api/v1/tenants/{name}", json=limits, headers=self.admin)
        assert answer.status_code == 200, answer.text

    def client(self, tenant: str) -> contextlib.closing[Client]:
        return contextlib.closing(Client(self.at, self.tokens[tenant]))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    stage = Stage(tmp_path)
    with contextlib.ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="sky")))
        port = free_port()
        gateway = HaproxyGateway(folder / "gateway", port=port, control_socket=folder / "control.sock")
        gateway.start()
        ending.callback(gateway.stop)
        at = field.Stage(gateway, ("127.0.0.1", port), folder / "control.sock", folder, lambda: None)
        one = ending.enter_context(upstream(at, "one"))
        admin = stage.issue()
        headers = {tenant: stage.issue("operator", tenant=tenant) for tenant in ("acme", "globex")}
        for tenant in headers:
            stage.put(Resource(tenant, "service", "fraud", state="READY"))
        loop = ControlLoop(
            store=stage.store,
            compute=stage.world.compute,
            gateway=gateway,
            kinds={"service": serving(one.server)},
            clock=stage.world.clock,
            fence=stage.world.fence,
        )
        passes = threading.Thread(target=loop.run)
        passes.start()
        ending.callback(passes.join)
        ending.callback(loop.stop)
        caller = Caller(create_api(replace(stage.cloud, loop=loop)))
        tokens = {tenant: header["Authorization"].removeprefix("Bearer ") for tenant, header in headers.items()}
        house = House(caller, admin, at, tokens, one)
        for tenant in tokens:
            wait_for("it is served", lambda t=tenant: asked(house, t, 1)[0].status == 200)  # type: ignore[misc]
        yield house


def asked(house: House, tenant: str, count: int) -> list[Reply]:
    with house.client(tenant) as client:
        return [client.send("/predict/fraud") for _ in range(count)]


def test_a_tenant_at_its_rate_is_refused_and_another_one_is_not(house: House) -> None:
    house.limit("acme", rate="5/s")
    wait_for("acme is limited", lambda: asked(house, "acme", 20)[-1].status == 429)
    began, answers = time.monotonic(), asked(house, "acme", 40)
    refused = [a for a in answers if a.status == 429]
    assert refused[0].code == "RATE_LIMITED"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert len(answers) - len(refused) <= 5 * (time.monotonic() - began + 1)
    assert {a.status for a in asked(house, "globex", 40)} == {200}
    house.limit("acme", rate=None)
    wait_for("acme is free again", lambda: {a.status for a in asked(house, "acme", 20)} == {200})


def test_a_tenant_has_so_many_at_once_and_another_one_is_not_counted(house: House) -> None:
    house.limit("acme", concurrency=1)
    haproxy = Admin(house.at.sockets / "gateway")
    # What begins before a limit is there is not counted.
    wait_for("the limit is there", lambda: haproxy.read_map(ROUTES).get("acme/limits") == "0:1")
    with house.client("acme") as one:
        held: list[Reply] = []
        thread = threading.Thread(target=lambda: held.append(one.send("/predict/fraud?hold")))
        thread.start()
        wait_for("one is under way", lambda: "/predict/fraud?hold" in house.upstream.seen)
        assert asked(house, "acme", 1)[0].code == "TOO_MANY_AT_ONCE"
        assert {a.status for a in asked(house, "globex", 20)} == {200}
        house.limit("acme", concurrency=2)
        wait_for("there may be two", lambda: asked(house, "acme", 1)[0].status == 200)
        house.upstream.release.set()
        thread.join(field.DEADLINE)
    assert [a.status for a in held] == [200]


def test_a_changed_limit_replaces_no_process(house: House) -> None:
    directory = house.at.sockets / "gateway"
    before = recorded(directory)
    house.limit("globex", rate="1/s")
    wait_for("globex is limited", lambda: asked(house, "globex", 5)[-1].status == 429)
    assert before is not None
    assert recorded(directory) == before
