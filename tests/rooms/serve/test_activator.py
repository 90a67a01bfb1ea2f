"""The activator over real sockets in one loop: it holds, tells, forwards; with replicas that tests play."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from skyriver.serve.activator import Activator, ActivatorSettings, seconds_left, serve_activator, target_of
from skyriver.serve.http import HttpLimits, HttpServer, Request
from skyriver.serve.listening import unix_listener

Answer = tuple[int, dict[str, str], bytes]


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live: dict[str, Any] | None = None
        self.activator: Activator
        self.replica = folder / "replica.sock"
        self.asked: list[bytes] = []

    def tell(self, *, trouble: dict[str, Any] | None = None, **sockets: Path | None) -> None:
        """The control plane names the replicas of `price`: v1=path."""
        versions = {
            name.removeprefix("v"): {
                "weight": 100 if name == "v1" else 0,
                "sockets": [] if path is None else [str(path)],
            }
            for name, path in sockets.items()
        }
        self.live = {"services": {"price": {"versions": versions, "trouble": trouble}}}

    def take_live(self) -> dict[str, Any] | None:
        live, self.live = self.live, None
        return live

    async def ask(
        self, path: str = "/predict/price", body: bytes = b"{}", method: str = "POST", **headers: str
    ) -> Answer:
        reader, writer = await asyncio.open_unix_connection(str(self.folder / "activator.sock"))
        told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{told}content-length: {len(body)}\r\n\r\n".encode() + body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode()[:-4].split("\r\n")
            found = dict(line.split(": ", 1) for line in lines)
            return int(first.split()[1]), found, await reader.readexactly(int(found.get("content-length", 0)))
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def listening(self, path: Path | None = None, answer: Callable[[Request], None] | None = None) -> Any:
        def handle(request: Request) -> None:
            self.asked.append(request.path)
            told = {"body": request.body.decode(), "query": request.query.decode(), "by": (path or self.replica).name}
            headers = {n.decode(): v.decode() for n, v in request.headers.items()}
            request.answer(200, json.dumps({**told, "headers": headers}).encode(), headers=((b"x-own", b"1"),))

        server = HttpServer(answer or handle)
        with unix_listener(path or self.replica) as socket:
            await server.start(socket)
            try:
                yield server
            finally:
                await server.stop(0.0)

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "not within 20 s"
            await asyncio.sleep(0.002)

    async def held(self, count: int) -> None:
        await self.until(lambda: self.activator.report()["waiting"] == ({"price": count} if count else {}))


@contextlib.asynccontextmanager
async def running(folder: Path, settings: ActivatorSettings | None = None) -> AsyncIterator[Stage]:
    stage = Stage(folder)
    stage.tell(v1=None)
    with unix_listener(folder / "activator.sock") as socket:
        stage.activator = Activator(stage.take_live, settings)
        await stage.activator.start(socket)
        try:
            yield stage
        finally:
            await stage.activator.stop(0.0)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scene(), 60)

    uvloop.run(main())


def test_a_request_is_held_until_a_replica_listens_and_passed_on_as_it_came(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            asking = asyncio.ensure_future(
                stage.ask("/v2/models/price/infer?a=b", b"\x00body", x_skyriver_tenant="t", inference_header="4")
            )
            await stage.held(1)
            assert stage.activator.changed.is_set()
            stage.tell(v1=stage.replica)  # its process starts, and nobody listens yet
            await asyncio.sleep(0)
            assert not asking.done()
            async with stage.listening():
                status, headers, body = await asking
            told = json.loads(body)
            assert (status, headers["x-own"], headers["content-type"]) == (200, "1", "application/json")
            assert (told["body"], told["query"], stage.asked) == ("\x00body", "a=b", [b"/v2/models/price/infer"])
            assert told["headers"] == {"x-skyriver-tenant": "t", "inference-header": "4", "content-length": "5"}
            await stage.held(0)
            assert stage.activator.report()["forwarded"] == 1

    play(scene)


def test_a_request_is_held_no_longer_than_its_deadline(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, ActivatorSettings(hold_s=0.2)) as stage:
            stage.tell(v1=None, trouble={"failed": False, "reason": "", "message": "It exited with status 1."})
            for headers in ({}, {"x_request_deadline": f"{time.time() + 0.1:.3f}"}, {"x_request_deadline": "12.5"}):
                status, answered, body = await stage.ask(**headers)
                problem = json.loads(body)
                assert (status, problem["code"], problem["status"]) == (504, "DEADLINE_EXCEEDED", 504)
                assert problem["detail"].endswith("before the request's deadline. It exited with status 1.")
                assert problem["next_action"]
                assert answered["retry-after"] == "1"
            status, _, body = await stage.ask("/v2/models/price/infer")
            assert (status, json.loads(body)["code"]) == (504, "DEADLINE_EXCEEDED")
            assert "error" in json.loads(body)
            await stage.held(0)
            assert stage.activator.report()["expired"] == 4

    play(scene)


def test_a_later_deadline_gives_it_more_time(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, ActivatorSettings(hold_s=0.05)) as stage:
            short = asyncio.ensure_future(stage.ask())
            long = asyncio.ensure_future(stage.ask(x_request_deadline=str(time.time() + 50)))
            assert (await short)[0] == 504
            stage.tell(v1=stage.replica)
            async with stage.listening():
                assert (await long)[0] == 200

    play(scene)


def test_more_than_can_wait_are_refused_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, ActivatorSettings(held=3)) as stage:
            asking = [asyncio.ensure_future(stage.ask()) for _ in range(3)]
            await stage.held(3)
            status, headers, body = await stage.ask()
            assert (status, headers["retry-after"], json.loads(body)["code"]) == (503, "1", "OVERLOADED")
            stage.tell(v1=stage.replica)
            async with stage.listening():
                assert [status for status, *_ in await asyncio.gather(*asking)] == [200] * 3

    play(scene)


def test_a_service_that_cannot_wake_is_answered_for_at_once_with_the_reason(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            asking = asyncio.ensure_future(stage.ask())
            await stage.held(1)
            stage.tell(v1=None, trouble={"failed": True, "reason": "BAD_MODEL", "message": "It cannot be read."})
            for status, headers, body in (await asking, await stage.ask(), await stage.ask("/v2/models/price/ready")):
                told = json.loads(body)
                assert (status, headers["retry-after"], told["code"]) == (503, "10", "WAKE_FAILED")
                assert "price cannot wake: It cannot be read." in (told.get("detail") or told["error"])
            assert stage.activator.report()["waiting"] == {}

    play(scene)


def test_to_ask_whether_it_is_ready_wakes_nobody(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            assert (await stage.ask("/v2/models/price/ready", b"", "GET"))[0] == 200
            assert (await stage.ask("/v2/health/ready", b"", "GET"))[0] == 200
            assert not stage.activator.changed.is_set()
            asking = asyncio.ensure_future(stage.ask("/v2/models/price", b"", "GET"))  # that, only a replica knows
            await stage.held(1)
            stage.tell(v1=stage.replica)
            async with stage.listening():
                assert (await asking)[0] == 200

    play(scene)


def test_a_version_that_is_named_is_asked_itself(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            second = tmp_path / "second.sock"
            stage.tell(v1=stage.replica, v2=second)
            async with stage.listening(), stage.listening(second):
                named = await stage.ask("/v2/models/price/versions/2/infer")
                other = await stage.ask("/v2/models/price/infer")
            assert [json.loads(a[2])["by"] for a in (named, other)] == ["second.sock", "replica.sock"]

    play(scene)


def test_a_thousand_at_once_are_all_answered_and_nothing_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            asking = [asyncio.ensure_future(stage.ask(body=str(n).encode())) for n in range(1000)]
            await stage.held(1000)
            stage.tell(v1=stage.replica)
            async with stage.listening() as replica:
                answers = await asyncio.gather(*asking)
                assert len(replica.connections) <= 32
            assert [status for status, *_ in answers] == [200] * 1000
            assert [json.loads(body)["body"] for *_, body in answers] == [str(n) for n in range(1000)]
            assert len(stage.asked) == 1000
            await stage.held(0)
            assert not stage.activator._queues
            await stage.until(lambda: not stage.activator._tasks)

    play(scene)


def test_what_a_replica_took_along_is_not_sent_again_and_the_others_go_to_the_next(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, ActivatorSettings(lines=2)) as stage:
            asking = [asyncio.ensure_future(stage.ask()) for _ in range(20)]
            await stage.held(20)
            stage.tell(v1=stage.replica)
            taken: list[Request] = []
            async with stage.listening(answer=taken.append):
                await stage.until(lambda: len(taken) == 2)
            async with stage.listening():
                answers = await asyncio.gather(*asking)
            statuses = sorted(status for status, *_ in answers)
            assert statuses == [200] * 18 + [502] * 2
            lost = next(json.loads(body) for status, _, body in answers if status == 502)
            assert (lost["code"], lost["status"]) == ("UPSTREAM_FAILED", 502)
            assert len(stage.asked) == 18

    play(scene)


def test_a_second_replica_takes_of_what_the_first_has_not_begun(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, ActivatorSettings(lines=2)) as stage:
            asking = [asyncio.ensure_future(stage.ask()) for _ in range(20)]
            await stage.held(20)
            second = tmp_path / "second.sock"
            told = {"weight": 100, "sockets": [str(stage.replica), str(second)]}
            stage.live = {"services": {"price": {"versions": {"1": told}, "trouble": None}}}
            taken: list[Request] = []
            async with stage.listening(answer=taken.append):
                await stage.until(lambda: len(taken) == 2)
                async with stage.listening(second):
                    await stage.held(0)
                    await stage.until(lambda: stage.activator.report()["forwarded"] == 18)
                    for request in taken:
                        request.answer(200, b"{}")
                    answers = await asyncio.gather(*asking)
            assert [status for status, *_ in answers] == [200] * 20
            assert len(taken) == 2
            assert len(stage.asked) == 18

    play(scene)


def test_what_was_held_is_counted_by_service_of_those_there_are(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            assert (await stage.ask(x_request_deadline="1"))[0] == 504
            assert (await stage.ask("/predict/unknown", x_request_deadline="1"))[0] == 504
            asking = asyncio.ensure_future(stage.ask())
            await stage.held(1)
            stage.tell(v1=stage.replica)
            async with stage.listening():
                assert (await asking)[0] == 200
            told = stage.activator.report()["services"]
            assert told.keys() == {"price"}
            assert (told["price"]["expired"], told["price"]["refused"]) == (1, 0)
            assert sum(count for _, count in told["price"]["hold_us"]) == 1

    play(scene)


@pytest.mark.parametrize("leave", ["close", "abort"])
def test_who_has_left_is_not_worked_for(tmp_path: Path, leave: str) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "activator.sock"))
            writer.write(b"POST /predict/price HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
            await stage.held(1)
            asking = asyncio.ensure_future(stage.ask(body=b"[]"))
            await stage.held(2)
            getattr(writer if leave == "close" else writer.transport, leave)()
            del reader
            await stage.held(1)
            stage.tell(v1=stage.replica)
            async with stage.listening():
                assert json.loads((await asking)[2])["body"] == "[]"
            await stage.held(0)
            assert len(stage.asked) == 1
            assert stage.activator.report()["left"] == 1
            assert stage.activator._server.bodies == 0

    play(scene)


def test_when_all_have_left_nothing_wakes_the_service(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            asking = [asyncio.ensure_future(stage.ask()) for _ in range(3)]
            await stage.held(3)
            for each in asking:
                each.cancel()
            await stage.until(lambda: not stage.activator._queues)
            assert stage.activator.report()["waiting"] == {}
            assert stage.activator.report()["left"] == 3

    play(scene)


def test_a_client_that_leaves_is_left_by_the_replica_that_has_its_request(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, ActivatorSettings(lines=1)) as stage:
            taken: list[Request] = []
            leaving, staying = (asyncio.ensure_future(stage.ask(body=body)) for body in (b"1", b"2"))
            await stage.held(2)
            stage.tell(v1=stage.replica)
            async with stage.listening(answer=taken.append):
                await stage.until(lambda: len(taken) == 1)
                leaving.cancel()
                await stage.until(lambda: taken[0].gone)
                await stage.until(lambda: len(taken) == 2)
                taken[1].answer(200, b"{}")
                assert (await staying)[0] == 200
            told = stage.activator.report()
            assert (told["left"], told["failed"], told["forwarded"]) == (1, 0, 1)

    play(scene)


def test_one_service_does_not_take_all_room_for_bodies(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = ActivatorSettings(bodies=8000, http=HttpLimits(bodies=16000))
        async with running(tmp_path, settings) as stage:
            large = [asyncio.ensure_future(stage.ask(body=b"x" * 1000)) for _ in range(4)]
            await stage.held(4)
            status, _, body = await stage.ask(body=b"x" * 1000)
            problem = json.loads(body)
            assert (status, problem["code"]) == (503, "OVERLOADED")
            assert "4000 bytes wait for it already" in problem["detail"]
            assert problem["next_action"]
            others = [
                asyncio.ensure_future(stage.ask("/predict/rent", body=b"x" * 1000)),
                asyncio.ensure_future(stage.ask("/predict/rent", body=b"x" * 1000)),
                asyncio.ensure_future(stage.ask("/predict/loan", body=b"x" * 1000)),
                asyncio.ensure_future(stage.ask(method="GET", body=b"")),
            ]
            await stage.until(lambda: stage.activator.report()["waiting"] == {"price": 5, "rent": 2, "loan": 1})
            assert (await stage.ask("/predict/rent", body=b"x" * 1000))[0] == 503
            for each in (*large, *others):
                each.cancel()
            await stage.until(lambda: not stage.activator._queues)
            asking = asyncio.ensure_future(stage.ask(body=b"x" * 1000))
            await stage.held(1)
            asking.cancel()

    play(scene)


def test_where_replicas_are_is_read_again_when_it_could_not_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            asking = asyncio.ensure_future(stage.ask())
            await stage.held(1)
            read, looks = stage.take_live, []

            def unreadable() -> dict[str, Any] | None:
                looks.append(1)
                raise OSError(24, "Too many open files") if len(looks) % 2 else ValueError("no JSON")

            stage.activator._live = unreadable
            await stage.until(lambda: len(looks) > 4)
            late = asyncio.ensure_future(stage.ask())
            await stage.held(2)
            stage.activator._live = read
            stage.tell(v1=stage.replica)
            async with stage.listening():
                assert [(await each)[0] for each in (asking, late)] == [200, 200]

    play(scene)
    assert [r.getMessage() for r in caplog.records] == [
        "where replicas are cannot be read: [Errno 24] Too many open files"
    ]


def test_its_metrics_tell_what_waits_and_what_became_of_the_others(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            asking = asyncio.ensure_future(stage.ask())
            await stage.held(1)
            status, headers, body = await stage.ask("/metrics", b"", "GET")
            assert (status, headers["content-type"].partition(";")[0]) == (200, "text/plain")
            assert b'skyriver_held_requests{model="price"} 1\n' in body
            stage.tell(v1=stage.replica)
            async with stage.listening():
                await asking
            lines = (await stage.ask("/metrics", b"", "GET"))[2].decode().splitlines()
            assert 'skyriver_held_requests_total{outcome="forwarded"} 1' in lines
            assert 'skyriver_hold_seconds_count{outcome="forwarded"} 1' in lines
            assert not [line for line in lines if line.startswith("skyriver_held_requests{")]

    play(scene)


def test_what_is_no_model_is_not_found(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path) as stage:
            assert (await stage.ask("/streams/orders/events"))[0] == 404
            assert stage.activator.report()["waiting"] == {}

    play(scene)


def test_its_report_is_written_at_once_when_somebody_begins_to_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        stage = Stage(tmp_path)
        stage.tell(v1=None)
        stop, reports = asyncio.Event(), []
        with unix_listener(tmp_path / "activator.sock") as socket:
            activator = stage.activator = Activator(stage.take_live)
            serving = asyncio.ensure_future(
                serve_activator(activator, socket, stop=stop, report=reports.append, report_s=60.0)
            )
            await stage.until(lambda: bool(reports))
            asking = [asyncio.ensure_future(stage.ask()) for _ in range(3)]
            await stage.until(lambda: bool(reports[-1]["waiting"]))
            await stage.held(3)
            stop.set()  # asked to end, it goes on waiting for what it holds
            await stage.until(lambda: reports[-1]["ready"] is False)
            assert reports[-1]["waiting"] == {"price": 3}
            stage.tell(v1=stage.replica)
            async with stage.listening():
                assert [status for status, *_ in await asyncio.gather(*asking)] == [200] * 3
            assert await serving == 0

    play(scene)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"/predict/price", ("price", "")),
        (b"/v2/models/price", ("price", "")),
        (b"/v2/models/price/versions/3/infer", ("price", "3")),
        (b"/v2/models/price/versions", ("price", "")),
        (b"/v2/models/", None),
        (b"/predict/", None),
        (b"/", None),
        (b"\xff", None),
    ],
)
def test_whom_a_path_is_for(path: bytes, key: tuple[str, str] | None) -> None:
    assert target_of(path) == key


@pytest.mark.parametrize(
    ("given", "left"), [(None, 30), (b"110.5", 10.48), (b"99", -1.02), (b"soon", 30), (b"nan", 30), (b"inf", 30)]
)
def test_how_long_a_request_may_wait(given: bytes | None, left: float) -> None:
    headers = {} if given is None else {b"x-request-deadline": given}
    assert seconds_left(headers, 100.0, 30) == pytest.approx(left)
