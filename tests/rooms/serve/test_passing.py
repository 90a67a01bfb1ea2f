"""Requests of keys that another version has a share of: passed on, brought back, counted by places."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import uvloop

from skyriver.core.errors import InvalidInput
from skyriver.core.resources import ProcessStatus, Resource, Snapshot, WantRoute
from skyriver.core.spec import BY_ENTITY
from skyriver.data.keys import key_of, keys_of_texts
from skyriver.decide.decision.scoring import in_canary, places_of
from skyriver.release.places import PLACES, place_between, place_of
from skyriver.serve import passing
from skyriver.serve.http import Request
from skyriver.serve.kinds import SERVICE
from skyriver.serve.listening import unix_listener
from skyriver.serve.passing import PLACED, PlaceCounts, Sharing, SharingSettings
from skyriver.serve.replica import Replica, ReplicaSettings
from skyriver.serve.runner import Runner
from skyriver.serve.scores import COARSE, score_bucket
from skyriver.serve.sharing import sharing_of_replica

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
price (float[n, 2] x) => (float[n, 1] score)
<float[2, 1] weight = {1, 0}, float[1] base = {BASE}>
{ scaled = MatMul(x, weight) score = Add(scaled, base) }
"""
HEADER = "x-customer"


def model(base: float) -> Runner:
    return Runner(onnx.parser.parse_model(MODEL.replace("BASE", str(base))).SerializeToString())


def to(*sockets: Path, percent: int = 50, at: int = 0, **more: Any) -> SharingSettings:
    told = {"key": HEADER, "field": "", "number": False} | more
    return SharingSettings(1, 2, percent, at=at, sockets=tuple(map(str, sockets)), **told)


def key_at(*places: int) -> str:
    """A key whose place for version 2 is among these."""
    return next(str(n) for n in range(10_000) if place_of(key_of(str(n)), 2) in places)


async def ask(path: Path, key: str | None, x: Any = (1, 0), where: bytes = b"/predict", **headers: str) -> Any:
    body = json.dumps({"x": list(x) if not isinstance(x, str) else x}).encode()
    more = {HEADER: key, **headers} if key is not None else headers
    head = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in more.items())
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (where, head, len(body)) + body)
    told = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    length = next(int(line.split(": ")[1]) for line in told if line.startswith("content-length"))
    answered = json.loads(await reader.readexactly(length))
    writer.close()
    return {**answered, "status": int(told[0].split()[1]), "headers": told}


Scene = Callable[[Replica, Replica, Path, Path], Awaitable[None]]


def play(folder: Path, scene: Scene) -> None:
    """With a replica of the champion and, on a socket of its own, one of the candidate."""

    async def main() -> None:
        old, new = folder / "old", folder / "new"
        champion = Replica(model(0.0), ReplicaSettings("price", 1, grace_s=1.0))
        candidate = Replica(model(0.5), ReplicaSettings("price", 2, grace_s=1.0))
        with unix_listener(old) as first, unix_listener(new) as second:
            await champion.start(first)
            await candidate.start(second)
            try:
                await asyncio.wait_for(scene(champion, candidate, old, new), 60)
            finally:
                await champion.stop()
                await candidate.stop()

    uvloop.run(main())


def places(replica: Replica) -> dict[int, list[Any]]:
    """Those at which something was counted."""
    told: Any = replica.report()["sharing"]
    return {place: counts for place, counts in enumerate(told["places"]) if any(counts[:3])}


def test_the_place_of_a_key_is_the_stream_s() -> None:
    texts = [f"customer {n}" for n in range(500)]
    for version in (1, 2, 77):
        of_stream = places_of(keys_of_texts(texts), version)
        assert [place_of(key_of(text), version) for text in texts] == of_stream.tolist()
        numbers = np.arange(-250, 250, dtype=np.int64)
        assert [place_of(key_of(int(n)), version) for n in numbers] == places_of(numbers, version).tolist()
        for percent in (1, 10, 50):
            mine = [place_of(key_of(text), version) < percent for text in texts]
            assert mine == in_canary(keys_of_texts(texts), version, percent).tolist()


def test_an_older_version_that_comes_back_has_the_keys_that_a_stream_gives_it() -> None:
    """There the newer one is the canary, for the first of the places, whichever is the champion."""
    keys = range(2_000)
    before: set[int] = set()
    for percent in (10, 50, 99):
        mine = {key for key in keys if place_between(key, 7, 3) < percent}
        of_newer = in_canary(np.array(keys, np.int64), 7, 100 - percent)
        assert mine == {key for key in keys if not of_newer[key]}
        assert before < mine
        before = mine
    assert [place_between(key, 3, 7) for key in keys] == [place_of(key, 7) for key in keys]


def test_a_key_stays_with_its_version_and_both_count_by_places(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.share_by(to(new))
        candidate.share_by(to())
        seen: dict[int, set[int]] = {}
        for number in range(60):
            for _ in range(2):
                told = await ask(old, str(number))
                assert told["status"] == 200
                assert told["score"] == 1.0 + 0.5 * (told["version"] == 2)
                seen.setdefault(place_of(key_of(str(number)), 2), set()).add(told["version"])
        assert all(versions == {2 if place < 50 else 1} for place, versions in seen.items())
        assert set(places(champion)) | set(places(candidate)) == set(seen)
        assert all(place >= 50 for place in places(champion))
        assert all(place < 50 for place in places(candidate))
        counted = [counts for replica in (champion, candidate) for counts in places(replica).values()]
        assert sum(answered for answered, *_ in counted) == 120
        assert all(sum(n for _, n in latency) == answered for answered, _, _, latency, _ in counted)
        of_candidate = [scores for *_, scores in places(candidate).values()]
        assert {bucket for scores in of_candidate for bucket, _ in scores} == {score_bucket(1.5) // COARSE}
        assert (champion.report()["requests"], candidate.report()["requests"]) == (
            sum(answered for answered, *_ in places(champion).values()),
            sum(answered for answered, *_ in places(candidate).values()),
        ), "what is passed on is no request of the champion's"

    play(tmp_path, scene)


def test_what_has_no_key_or_names_a_version_is_the_champion_s(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.share_by(to(new, percent=99))
        assert (await ask(old, None))["version"] == 1
        assert (await ask(old, " "))["version"] == 1
        infer = b"/v2/models/price/versions/1/infer"
        assert (await ask(old, key_at(0), where=infer))["status"] == 400
        assert places(champion) == {}
        champion.share_by(to(new, percent=99, number=True))
        for odd in ("abc", "007", "+7", "1e3", "9" * 19, "-"):
            assert (await ask(old, odd))["version"] == 1, odd
        number = next(n for n in range(1_000) if place_of(n, 2) < 99)
        assert (await ask(old, str(number)))["version"] == 2, "as a stream with whole numbers as keys has it"

    play(tmp_path, scene)


def test_what_is_refused_comes_back_as_it_was_and_is_counted(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.share_by(to(new))
        candidate.share_by(to())
        told = await ask(old, key_at(3), "no")
        assert (told["status"], told["code"]) == (422, "INVALID_FIELD")
        assert "content-type: application/problem+json" in told["headers"]
        assert places(candidate) == {3: [0, 0, 1, places(candidate)[3][3], []]}
        assert (await ask(old, key_at(77), "no"))["status"] == 422
        assert places(champion)[77][:3] == [0, 0, 1]
        assert "sharing" in champion.report()
        champion.share_by(None)
        assert (await ask(old, key_at(3)))["version"] == 1
        assert "sharing" not in champion.report()

    play(tmp_path, scene)


def test_where_the_other_version_does_not_answer_the_champion_does(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        rude = await asyncio.start_unix_server(hang_up, tmp_path / "rude")
        for number, path in enumerate((tmp_path / "nobody", tmp_path / "rude"), start=1):
            champion.share_by(to(path))
            told = await ask(old, key_at(5))
            assert (told["status"], told["version"]) == (200, 1)
            lost: Any = champion.report()["sharing"]
            assert lost["lost"][5] == number
            assert places(champion) == {}, "it is no answer of the champion's key"
        champion.share_by(to())
        assert (await ask(old, key_at(5)))["version"] == 1
        assert sum(champion.report()["sharing"]["lost"]) == 2, "nobody to pass it on to"  # type: ignore[index]
        rude.close()

    play(tmp_path, scene)


def test_who_says_nothing_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "ANSWER_S", 2.0)

    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        asked, writers = 0, []

        async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            writers.append(writer)
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(len(b'{"x": [1, 0]}'))
                    asked += 1
                    if asked == 1:
                        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"version": 2}')

        silent = await asyncio.start_unix_server(answer_once, tmp_path / "silent")
        champion.share_by(to(tmp_path / "silent"))
        assert (await ask(old, key_at(5)))["version"] == 2
        assert (await ask(old, key_at(5)))["version"] == 1
        assert asked == 2
        lost: Any = champion.report()["sharing"]
        assert lost["lost"][5] == 1, "it is the other version's failure"
        for writer in writers:
            writer.close()
        silent.close()

    play(tmp_path, scene)


def test_who_hangs_is_waited_for_as_the_model_s_latency_is_declared() -> None:
    told = {"champion": 1, "version": 2, "percent": 9, "key": HEADER, "field": "", "number": False, "at": 0}
    for latency_us, wait_s in ((0, 5.0), (50_000, 1.0), (2_000_000, 8.0), (60_000_000, 40.0)):
        assert SharingSettings.of({**told, "sockets": [], "latency_us": latency_us}).answer_s == wait_s
    assert SharingSettings.of({**told, "sockets": []}).answer_s == 5.0


def test_a_connection_that_was_closed_meanwhile_is_made_anew(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.share_by(to(new))
        assert (await ask(old, key_at(5)))["version"] == 2
        for connection in list(candidate._server.connections):
            connection.abort()
        assert (await ask(old, key_at(5)))["version"] == 2
        assert "lost" not in champion.report()["sharing"]  # type: ignore[operator]

    play(tmp_path, scene)


@pytest.mark.parametrize("place", [5, 77])
def test_a_body_that_comes_packed_is_read_where_it_is_answered(tmp_path: Path, place: int) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.share_by(to(new))
        candidate.share_by(to())
        body = gzip.compress(json.dumps({"x": [1, 0]}).encode() + b" " * 5_000)
        head = b"content-encoding: gzip\r\nx-customer: %b\r\ncontent-length: %d" % (key_at(place).encode(), len(body))
        reader, writer = await asyncio.open_unix_connection(str(old))
        writer.write(b"POST /predict HTTP/1.1\r\nconnection: close\r\n" + head + b"\r\n\r\n" + body)
        answered = await reader.read()
        writer.close()
        assert b'"version":%d' % (2 if place < 50 else 1) in answered
        assert [replica._server.bodies for replica in (champion, candidate)] == [0, 0]

    play(tmp_path, scene)


def test_another_share_begins_at_all_replicas_in_one_moment_with_counts_of_its_own(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.share_by(to(new, percent=20))
        assert (await ask(old, key_at(30)))["version"] == 1
        assert set(places(champion)) == {30}
        champion.share_by(to(new, percent=60, at=time.time_ns() // 1_000 + 10**12))
        assert (await ask(old, key_at(30)))["version"] == 1, "not yet"
        assert places(champion)[30][0] == 2
        champion.share_by(to(new, percent=60))
        assert places(champion) == {}
        assert (await ask(old, key_at(30)))["version"] == 2
        champion.share_by(to(new, percent=60))
        assert (await ask(old, key_at(80)))["version"] == 1
        champion.share_by(to(new, percent=60))
        assert set(places(champion)) == {80}, "told the same again it goes on counting"

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("body", "number", "key"),
    [
        ({"entity": {"customer": 17}, "event": {"amount": 8}}, True, 17),
        ({"entity": {"customer": "17"}}, True, None),
        ({"entity": {"customer": True}}, True, None),
        ({"entity": {"customer": 2**63}}, True, None),
        ({"entity": {"customer": "a"}}, False, key_of("a")),
        ({"entity": {"shop": 3}}, True, None),
        ({"entity": [17]}, True, None),
        ({"rows": [{"entity": {"customer": 17}}]}, True, None),
        ({"amount": 8.0}, True, None),
    ],
)
def test_the_key_of_an_entity_is_the_stream_s(body: Any, number: bool, key: int | None) -> None:
    async def main() -> None:
        settings = to(percent=0, key=BY_ENTITY, field="customer", number=number)
        sharing = Sharing(settings, None, lambda request: None)
        data = json.dumps(body).encode()
        request = Request(None, b"POST", b"/predict", b"", {}, data, True, 0)  # type: ignore[arg-type]
        assert sharing._key(request) == key
        packed = Request(None, b"POST", b"/predict", b"", {b"content-encoding": b"gzip"}, data, True, 0)  # type: ignore[arg-type]
        assert sharing._key(packed) is None

    asyncio.run(main())


def test_counts_by_places_know_what_failed_and_what_was_refused() -> None:
    counts = PlaceCounts()
    for status in (200, 200, 500, 503, 404, 501):
        counts.add(7, status, 1_100, 0.5 if status == 200 else None)
    counts.add(7, 200, 0, float("nan"))
    told = counts.told()
    assert len(told) == PLACES
    assert told[7] == [5, 2, 2, [(0, 1), (1_024, 6)], [(score_bucket(0.5) // COARSE, 2)]]
    assert told[8] == [0, 0, 0, [], []]


# What the control plane tells.

VERSIONS = {"1": {"weight": 90}, "2": {"weight": 10, "key": HEADER, "at": 5}}


def shop(versions: dict[str, Any], *more: Resource) -> tuple[Snapshot, Resource, list[Resource]]:
    service = Resource("t", "service", "m", spec={"serve": {"replicas": 1}, "versions": versions}, state="READY")
    replicas = [
        Resource("t", "replica", f"m-{n}-1", spec={"version": n}, state="READY", parent=service.ref) for n in (1, 2)
    ]
    rows = {r.key: r for r in (service, *replicas, *more)}
    processes = {
        r.process: ProcessStatus(r.process, alive=True, socket=f"/{r.name}", report={"ready": True}) for r in replicas
    }
    return Snapshot(rows, processes, {}, 0), service, replicas


@pytest.mark.parametrize(
    ("versions", "split"),
    [
        (VERSIONS, (("m:1", 100),)),
        ({"1": {"weight": 90}, "2": {"weight": 10}}, (("m:1", 90), ("m:2", 10))),
        ({"2": {"weight": 100, "key": HEADER, "at": 5}, "1": {"weight": 0}}, (("m:2", 100),)),
    ],
)
def test_by_key_the_gateway_sends_all_to_the_champion(versions: dict[str, Any], split: tuple[Any, ...]) -> None:
    snapshot, service, _ = shop(versions)
    (route,) = [a.route for a in SERVICE.step(snapshot, service) if isinstance(a, WantRoute)]
    assert route.split == split


@pytest.mark.parametrize(
    ("kind", "decides", "expected"),
    [("int", True, ("customer", True)), ("text", True, ("customer", False)), ("int", False, ("", False))],
)
def test_replicas_are_told_who_has_which_share(kind: str, decides: bool, expected: tuple[str, bool]) -> None:
    fields = [{"name": "order", "type": "int"}, {"name": "customer", "type": kind}]
    decide = {"model": "m"} if decides else None
    orders = Resource("t", "stream", "orders", spec={"stream": {"key": "customer", "fields": fields}, "decide": decide})
    snapshot, service, (old, new) = shop(VERSIONS, orders)
    told = sharing_of_replica(snapshot, service, old, ["/s"])["sharing"]
    assert SharingSettings.of(told) == to(Path("/s"), percent=10, at=5, field=expected[0], number=expected[1])
    assert sharing_of_replica(snapshot, service, new, ["/s"])["sharing"] == {**told, "sockets": []}
    declared = replace(service, spec={**service.spec, "serve": {**service.spec["serve"], "latency": "50ms"}})
    assert sharing_of_replica(snapshot, declared, old, ["/s"])["sharing"]["latency_us"] == 50_000
    without = replace(service, spec={**service.spec, "versions": {"1": {"weight": 100}}})
    assert sharing_of_replica(snapshot, without, old, []) == {}
    assert sharing_of_replica(snapshot, None, old, []) == {}
    taken = {"2": {"weight": 100, "key": HEADER, "at": 9}, "1": {"weight": 0}}
    over = replace(service, spec={**service.spec, "versions": taken})
    assert sharing_of_replica(snapshot, over, old, ["/s"])["sharing"]["percent"] == 100, "for what is on its way to it"
    alone = replace(service, spec={**service.spec, "versions": {"2": taken["2"]}})
    assert sharing_of_replica(snapshot, alone, new, []) == {}


def test_settings_of_another_release_are_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="told wrong: KeyError") as caught:
        SharingSettings.of({"version": 2, "percent": 10})
    assert caught.value.code == "BAD_CONFIG"


def test_no_path_from_outside_is_taken_for_one_that_was_passed_on(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        assert (await ask(new, None, where=PLACED + b"7/predict"))["version"] == 2, "also where it is told of no share"
        for odd in (b"100/predict", b"x/predict", b"-1/predict"):
            assert (await ask(new, None, where=PLACED + odd))["status"] == 404

    play(tmp_path, scene)
