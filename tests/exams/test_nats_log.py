"""The exam of the log, on a NATS server that syncs before it acknowledges; and which servers are refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import nats
import pytest
from broker_servers import NatsServer

from skyriver.adapters.nats import reader
from skyriver.adapters.nats.log import NatsLog, nats_reader, open_nats_log
from skyriver.adapters.nats.proof import check_version
from skyriver.adapters.nats.reader import NatsReader
from skyriver.core.errors import Conflict, SkyriverError, Unavailable
from skyriver.data.log import Log, Record, RecordKind
from skyriver.data.log_exam import LOG_CHECKS, LogHarness, Make, event
from skyriver.decide.worker.sources import Access


class NatsLogHarness:
    def __init__(self, server: NatsServer, name: str) -> None:
        self.server, self.name = server, name
        self.log: NatsLog | None = None
        self.opened: list[Any] = []

    def access(self) -> Access:
        return Access(monitor=f"http://127.0.0.1:{self.server.monitor}")

    def open(self) -> Log:
        self.log = open_nats_log(self.server.url, self.name, self.access, holder="exam")
        self.opened.append(self.log)
        return self.log

    def usurp(self) -> Log:
        return self.open()

    def reader(self) -> NatsReader:
        reader = nats_reader(self.server.url, self.name, self.access)
        self.opened.append(reader)
        return reader

    def crash(self) -> None:
        """The writer ends, and the server with it, as at the end of the power."""
        assert self.log is not None
        self.log.abandon()
        self.server.kill()
        self.server.start()

    def limit_room(self, room: int | None) -> None:
        async def limit() -> None:
            client = await nats.connect(self.server.url)
            context = client.jetstream(timeout=60)
            info = await context.stream_info(self.name)
            limit = -1 if room is None else info.state.bytes + room
            await context.update_stream(replace(info.config, max_bytes=limit))
            await client.close()

        asyncio.run(limit())

    def rot(self, offset: int) -> None:
        content = next(r.payload for r in self.reader().read(offset))
        self.server.stop()
        for path in self.server.folder.glob(f"store/jetstream/*/streams/{self.name}/msgs/*.blk"):
            data = bytearray(path.read_bytes())
            at = data.find(content)
            if at >= 0:
                data[at + len(content) // 2] ^= 4
                path.write_bytes(data)
                break
        else:
            raise AssertionError("the record is in no file of the server")
        self.server.start()

    def close(self) -> None:
        for one in self.opened:
            one.abandon() if isinstance(one, NatsLog) else one.close()


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    server = NatsServer(mqtt=False)
    server.start()
    yield server
    server.close()


_numbers = itertools.count()


@pytest.fixture(params=["2.15", "2.10"])
def make(server: NatsServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Servers before 2.11 give one message a request."""
    if request.param == "2.10":
        monkeypatch.setattr(reader, "BATCHES_SINCE", 1_000)
    made: list[NatsLogHarness] = []

    def build() -> LogHarness:
        made.append(NatsLogHarness(server, f"exam-{next(_numbers)}"))
        return made[-1]

    yield build
    for harness in made:
        harness.close()


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Make], None], make: Make) -> None:
    check(make)


def take(server: NatsServer, access: Access, name: str = "proof") -> None:
    open_nats_log(server.url, name, lambda: access, holder="exam").close()


def refusal(server: NatsServer, access: Access, name: str = "proof") -> SkyriverError:
    with pytest.raises(SkyriverError) as refused:
        take(server, access, name)
    assert refused.value.next_action
    return refused.value


ACCOUNTS = (
    'accounts { SYS: { users: [{user: "sys", password: "s3cret"}] },'
    ' APP: { jetstream: enabled, users: [{user: "ann", password: "s3cret"}] } }\nsystem_account: SYS\n'
)


@pytest.mark.parametrize(("sync", "code"), [("always", ""), ('"2m"', "DOES_NOT_SYNC")])
def test_the_system_account_shows_whether_a_server_syncs(sync: str, code: str) -> None:
    server = NatsServer(sync=sync, more=ACCOUNTS, mqtt=False)
    server.start()
    ann = Access(user="ann", password="s3cret")
    try:
        assert refusal(server, ann).code == "NO_PROOF", "nothing shows it"
        shown = replace(ann, system_user="sys", system_password="s3cret")
        assert refusal(server, replace(shown, system_user="ann")).code == "NO_PROOF", "no user of the system account"
        assert refusal(server, replace(shown, system_password="wrong")).code == "BROKER_REFUSED"
        if code:
            assert refusal(server, shown).code == code
        else:
            take(server, shown)
    finally:
        server.close()


def test_it_is_asked_again_at_each_connection() -> None:
    """The server comes back with another configuration."""
    server = NatsServer(mqtt=False)
    server.start()
    access = Access(monitor=f"http://127.0.0.1:{server.monitor}")
    with contextlib.ExitStack() as ending:
        ending.callback(server.close)
        log = open_nats_log(server.url, "again", lambda: access, holder="exam")
        ending.callback(log.abandon)
        server.stop()
        config = server.folder / "server.conf"
        config.write_text(config.read_text().replace("sync_interval: always", 'sync_interval: "2m"'))
        server.start()
        deadline, code = time.monotonic() + 60, ""
        while code != "DOES_NOT_SYNC":
            assert time.monotonic() < deadline, code
            try:
                log.append([event(1)])
                log.sync()
            except SkyriverError as refused:  # at first, perhaps, the server is away
                code = refused.code


def test_the_monitoring_address_must_be_of_this_server(server: NatsServer) -> None:
    other = NatsServer(mqtt=False)
    other.start()
    try:
        assert refusal(server, Access(monitor=f"http://127.0.0.1:{other.monitor}")).code == "NO_PROOF"
        assert refusal(server, Access(monitor=f"http://127.0.0.1:{other.port + 1}")).code == "NO_PROOF"
    finally:
        other.close()


@pytest.mark.parametrize(
    ("version", "old"), [("2.9.25", True), ("1.4.1", True), ("2.10.0", False), ("2.15.1-RC.2", False), ("3.0", False)]
)
def test_old_servers_are_refused(version: str, old: bool) -> None:
    if old:
        with pytest.raises(Conflict) as refused:
            check_version(version, "nats://h")
        assert refused.value.code == "OLD_SERVER"
    else:
        check_version(version, "nats://h")


@pytest.mark.parametrize(
    "wrong",
    [
        {"storage": "memory"},
        {"subjects": ["skyriver.log.NAME", "more"]},
        {"max_age": 60.0},
        {"max_msgs": 5},
        {"discard": "old"},
        {"retention": "workqueue"},
        {"allow_direct": False},
        {"max_msgs_per_subject": 1},
    ],
)
def test_a_stream_that_would_lose_records_is_refused(server: NatsServer, wrong: dict[str, Any]) -> None:
    name = f"unfit-{next(_numbers)}"
    given = {"subjects": ["skyriver.log.NAME"], "discard": "new", "allow_direct": True, **wrong}
    given["subjects"] = [subject.replace("NAME", name) for subject in given["subjects"]]

    async def make_stream() -> None:
        client = await nats.connect(server.url)
        await client.jetstream(timeout=60).add_stream(name=name, **given)
        await client.close()

    asyncio.run(make_stream())
    error = refusal(server, Access(monitor=f"http://127.0.0.1:{server.monitor}"), name)
    assert error.code == "UNFIT_STREAM"


def test_a_server_that_goes_away_and_comes_back(make: Make, server: NatsServer) -> None:
    """What was not synced is given up, the next epoch is opened, and the log goes on."""
    log = make().open()
    log.append([event(0)])
    log.sync()
    server.stop()
    log.append([event(1)])
    with pytest.raises(Unavailable) as away:
        log.sync()
    assert away.value.code == "BROKER_AWAY"
    with pytest.raises(Unavailable):
        log.append([event(2)])
    server.start()
    held = [record.payload for record in log.read()]
    assert held in ([event(0).payload], [event(0).payload, event(1).payload])
    assert log.epoch == 2
    log.append([event(3)])
    log.sync()
    assert [record.payload for record in log.read()] == [*held, event(3).payload]


def test_a_writer_that_dies_within_a_large_record_leaves_no_part_of_it(
    make: Make, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make()
    log = harness.open()
    log.append([event(0)])
    log.sync()
    send, sent = NatsLog._send, itertools.count()

    async def die(self: NatsLog, *given: Any) -> Any:
        if next(sent) == 2:
            raise ConnectionResetError
        return await send(self, *given)

    monkeypatch.setattr(NatsLog, "_send", die)
    log.append([Record(RecordKind.HISTORY, 5, b"x" * 3_000_000, count=9)])
    with pytest.raises(Unavailable):
        log.sync()
    harness.crash()
    monkeypatch.undo()
    again = harness.open()
    assert again.next_offset == 1
    large = Record(RecordKind.HISTORY, 5, bytes(range(256)) * 12_000, count=9)
    assert again.append([large, event(1)]) == 1
    again.sync()
    found = [(r.offset, r.count, r.payload) for r in harness.reader().read()]
    assert found == [(0, 1, event(0).payload), (1, 9, large.payload), (10, 1, event(1).payload)]
    assert [r.offset for r in harness.reader().read(5)] == [1, 10]
