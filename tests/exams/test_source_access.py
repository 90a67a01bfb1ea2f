"""Brokers with TLS, certificates of clients and passwords: what is right is let in, what is wrong is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import nats
import pytest
from broker_servers import Mosquitto, NatsServer
from certificates import Authority

from skyriver.adapters.mqtt.source import MqttSource
from skyriver.adapters.nats.source import NatsSource
from skyriver.core.errors import SkyriverError
from skyriver.core.spec import MqttSpec, NatsSpec
from skyriver.decide.worker.sources import Access, Source


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def nats_server(authority: Authority) -> Iterator[NatsServer]:
    files = f'cert_file: "{authority.server}", key_file: "{authority.key(authority.server)}"'
    tls = f'tls {{ {files}, ca_file: "{authority.ca}", verify: true }}'
    server = NatsServer(tls=tls, more='authorization { users: [{user: "ann", password: "s3cret"}] }', mqtt=False)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def mosquitto(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    passwords = tmp_path_factory.mktemp("passwords") / "file"
    tool = shutil.which("mosquitto_passwd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    server = Mosquitto(
        scheme="mqtts",
        more=f"cafile {authority.ca}\ncertfile {authority.server}\nkeyfile {authority.key(authority.server)}\n"
        f"require_certificate true\nallow_anonymous false\npassword_file {passwords}\n",
    )
    server.command()  # skips where there is none
    assert tool is not None
    subprocess.run([tool, "-b", "-c", passwords, "ann", "s3cret"], check=True, timeout=300, capture_output=True)
    server.start()
    yield server
    server.close()


def right(authority: Authority) -> Access:
    return Access(
        user="ann",
        password="s3cret",
        ca=authority.ca,
        certificate=authority.client,
        key=authority.key(authority.client),
    )


def wrong_ways(authority: Authority) -> list[tuple[Access, set[str]]]:
    good = right(authority)
    return [
        (replace(good, password="wrong"), {"BROKER_REFUSED"}),
        (replace(good, user=""), {"BROKER_REFUSED"}),
        (replace(good, ca=""), {"BAD_CERTIFICATE"}),
        (replace(good, ca="/nowhere.pem"), {"BAD_CERTIFICATE"}),
        (replace(good, key=authority.key(authority.ca)), {"BAD_CERTIFICATE"}),
        (replace(good, certificate=""), {"BROKER_AWAY", "BROKER_REFUSED"}),
    ]


async def connects(source: Source) -> None:
    async with asyncio.timeout(30):
        await source.connect()
    await source.close()


async def refused(source: Source) -> SkyriverError:
    try:
        await connects(source)
    except SkyriverError as error:
        await source.close()
        return error
    raise AssertionError("it was let in")


def examine(make: Any, authority: Authority) -> None:
    asyncio.run(connects(make(right(authority))))
    for access, codes in wrong_ways(authority):
        error = asyncio.run(refused(make(access)))
        assert error.code in codes, f"{access}: {error.code}: {error}"
        assert error.next_action
        assert "s3cret" not in str(error)


def test_nats(nats_server: NatsServer, authority: Authority) -> None:
    async def make_stream() -> None:
        from skyriver.adapters.tls import client_context

        client = await nats.connect(
            nats_server.url.replace("tls:", "nats:"),
            user="ann",
            password="s3cret",
            tls=client_context(right(authority)),
        )
        await client.jetstream(timeout=300).add_stream(name="payments", subjects=["payments"])
        await client.close()

    asyncio.run(make_stream())
    spec = NatsSpec(url=nats_server.url, subject="payments", durable="d")
    examine(lambda access: NatsSource(spec, lambda: access), authority)


# paho leaves a socket whose handshake failed to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mqtt(mosquitto: Mosquitto, authority: Authority) -> None:
    spec = MqttSpec(url=mosquitto.url, topic="payments", durable="d")
    examine(lambda access: MqttSource(spec, lambda: access), authority)


def test_what_nats_does_not_have_is_told() -> None:
    server = NatsServer()
    server.start()
    try:
        error = asyncio.run(refused(NatsSource(NatsSpec(url=server.url, subject="nothing", durable="d"), Access)))
        assert error.code == "NO_SUBJECT"
        assert "nats stream add" in error.next_action
    finally:
        server.close()
    bare = NatsServer(jetstream=False)
    bare.start()
    try:
        error = asyncio.run(refused(NatsSource(NatsSpec(url=bare.url, subject="nothing", durable="d"), Access)))
        assert error.code == "NO_JETSTREAM"
    finally:
        bare.close()


def test_another_client_of_the_same_name_is_told() -> None:
    server = Mosquitto()
    server.start()

    async def check() -> None:
        spec = MqttSpec(url=server.url, topic="payments", durable="d")
        first, second = MqttSource(spec, Access), MqttSource(spec, Access)
        await first.connect()
        waiting = asyncio.create_task(first.receive())
        await second.connect()
        with pytest.raises(SkyriverError) as told:
            await waiting
        assert told.value.code in ("SESSION_TAKEN", "BROKER_AWAY"), "Mosquitto 2.0 only hangs up"
        assert "durable=" in told.value.next_action
        await first.close()
        await second.close()

    try:
        asyncio.run(check())
    finally:
        server.close()
