"""A replica that sends copies of its requests to another version, and compares what both answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import onnx.parser
import pytest
import uvloop

from skyriver.core.errors import InvalidInput
from skyriver.serve import shadow
from skyriver.serve.listening import unix_listener
from skyriver.serve.metrics import Histogram
from skyriver.serve.replica import Replica, ReplicaSettings
from skyriver.serve.runner import Runner
from skyriver.serve.scores import Scores
from skyriver.serve.shadow import QUEUE, Answered, Compared, ShadowSettings, first_score
from skyriver.wiring.replica import follow_live

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
price (float[n, 2] x) => (float[n, 1] score)
<float[2, 1] weight = {1, 0}, float[1] base = {BASE}, float[3] some = {1, 1, 1}, int64[1] axes = {1}>
{
  scaled = MatMul(x, weight)
  most = ReduceMax<keepdims=1>(x, axes)
  place = Cast<to=7>(most)
  limited = Mul(place, FACTOR)
  one = Gather(some, limited)
  same = Mul(scaled, one)
  score = Add(same, base)
}
"""


def model(base: float = 0.0, *, fails_above_two: bool = False) -> Runner:
    text = MODEL.replace("BASE", str(base)).replace("Mul(place, FACTOR)", "Mul(place, factor)")
    text = text.replace("int64[1] axes = {1}", f"int64[1] axes = {{1}}, int64 factor = {{{int(fails_above_two)}}}")
    return Runner(onnx.parser.parse_model(text).SerializeToString())


async def ask(path: Path, document: Any, where: bytes = b"/predict", more: bytes = b"") -> tuple[int, Any]:
    body = json.dumps(document).encode()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (where, more, len(body)) + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    length = next(int(line.split(": ")[1]) for line in head if line.startswith("content-length"))
    answered = json.loads(await reader.readexactly(length))
    writer.close()
    return int(head[0].split()[1]), {**answered, "headers": head}


Scene = Callable[[Replica, Replica, Path, Path], Awaitable[None]]


def play(folder: Path, scene: Scene, shadow: Runner | None = None) -> None:
    """With a champion and, on a socket of its own, a shadow."""

    async def main() -> None:
        old, new = folder / "old", folder / "new"
        champion = Replica(model(), ReplicaSettings("price", 1, grace_s=1.0))
        candidate = Replica(shadow or model(0.5), ReplicaSettings("price", 2, grace_s=1.0))
        with unix_listener(old) as first, unix_listener(new) as second:
            await champion.start(first)
            await candidate.start(second)
            try:
                await asyncio.wait_for(scene(champion, candidate, old, new), 60)
            finally:
                await champion.stop()
                await candidate.stop()

    uvloop.run(main())


async def until(told: Callable[[], bool]) -> None:
    while not told():
        await asyncio.sleep(0.001)


def report(champion: Replica) -> Any:
    return champion.report()["shadow"]


def to(*sockets: Path, share: int = 100) -> ShadowSettings:
    return ShadowSettings(2, share, tuple(map(str, sockets)))


async def connected(champion: Replica) -> None:
    """Its lines are open."""
    champion.report()
    assert champion._shadow is not None
    await until(lambda: any(line.idle for line in champion._shadow._lines))  # type: ignore[union-attr]


def test_the_champion_answers_and_both_answers_are_compared(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.copy_to(to(new))
        await connected(champion)
        for _ in range(3):
            status, told = await ask(old, {"x": [1, 0]})
            assert (status, told["version"], told["score"]) == (200, 1, 1.0)
        infer = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 0]}]}
        assert (await ask(old, infer, b"/v2/models/price/infer"))[0] == 200
        await until(lambda: report(champion)["candidate"]["answered"] == 4)
        found = report(champion)
        assert found["copies"] == {"sent": 4, "dropped": 0, "unanswered": 0}
        assert found["pairs"]["errors"] == [[4, 0, 0]]
        ((difference, count),) = found["differences"]
        assert count == 4
        assert difference == pytest.approx(500_000, rel=0.13), "half a point, in millionths, in its bucket"
        assert sum(count for _, count in found["latency_us"]["candidate"]) == 4
        assert candidate.report()["requests"] == 4

    play(tmp_path, scene)


def test_what_one_of_them_alone_refuses_or_cannot_answer_is_counted(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.copy_to(to(new))
        await connected(champion)
        assert (await ask(old, {"x": [1, 7]}))[0] == 200
        assert (await ask(old, {"x": "no"}))[0] == 422
        await until(lambda: sum(report(champion)["candidate"].values()) >= 2)
        found = report(champion)
        assert found["champion"] == {"answered": 1, "failed": 0, "refused": 1}
        worse = [found["pairs"][guard][0][1] for guard in ("errors", "refusals")]
        assert sum(worse) == 1, "the shadow fails where a value is above 2"

    play(tmp_path, scene, model(fails_above_two=True))


def test_what_is_asked_of_a_version_by_its_number_is_not_copied(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.copy_to(to(new))
        await connected(champion)
        infer = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 0]}]}
        assert (await ask(old, infer, b"/v2/models/price/versions/1/infer"))[0] == 200
        assert (await ask(old, {}, b"/nowhere"))[0] == 404
        assert report(champion)["copies"]["sent"] == 0

    play(tmp_path, scene)


def test_a_shadow_that_answers_nothing_costs_copies_and_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "ANSWER_S", 60.0)  # longer than all of them take

    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        writers = []
        silent = await asyncio.start_unix_server(lambda _, writer: writers.append(writer), tmp_path / "silent")
        champion.copy_to(to(tmp_path / "silent"))
        await connected(champion)
        for _ in range(QUEUE + 20):
            assert (await ask(old, {"x": [1, 0]}))[0] == 200
        found = report(champion)["copies"]
        assert found["dropped"] > 0
        assert found["sent"] + found["dropped"] <= QUEUE + 20
        champion.copy_to(None)
        assert "shadow" not in champion.report()
        for writer in writers:
            writer.close()
        silent.close()

    play(tmp_path, scene)


def test_a_shadow_that_is_not_there_costs_its_copies_alone_and_is_found_again(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.copy_to(to(tmp_path / "nobody"))
        champion.report()
        assert (await ask(old, {"x": [1, 0]}))[0] == 200
        champion.copy_to(to(new))
        await connected(champion)
        await until(lambda: report(champion)["candidate"]["answered"] >= 1)
        champion.copy_to(to())
        assert (await ask(old, {"x": [1, 0]}))[0] == 200
        assert report(champion)["copies"]["dropped"] == 1

    play(tmp_path, scene)


@pytest.mark.parametrize("ends", [False, True])
def test_who_hangs_up_has_failed_and_who_ends_has_not(
    tmp_path: Path, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "IDLE_S", 60.0)  # the connection is a new one, however slow the machine is

    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                if ends:
                    server.close()
                    (tmp_path / "leaving").unlink(missing_ok=True)
            writer.close()

        server = await asyncio.start_unix_server(leave, tmp_path / "leaving")
        champion.copy_to(to(tmp_path / "leaving"))
        await connected(champion)
        assert (await ask(old, {"x": [1, 0]}))[0] == 200
        if ends:
            await until(lambda: report(champion)["copies"]["unanswered"] == 1)
            assert report(champion)["pairs"]["errors"] == [[0, 0, 0]]
        else:
            await until(lambda: report(champion)["pairs"]["errors"] == [[1, 1, 0]])
            assert report(champion)["copies"]["unanswered"] == 0
        server.close()

    play(tmp_path, scene)


def test_a_connection_that_had_nothing_to_do_may_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "IDLE_S", 0.0)

    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "leaving")
        champion.copy_to(to(tmp_path / "leaving"))
        champion.report()
        for _ in range(100):
            assert (await ask(old, {"x": [1, 0]}))[0] == 200
            champion.report()
        assert report(champion)["pairs"]["errors"] == [[0, 0, 0]]
        server.close()

    play(tmp_path, scene)


def test_a_share_is_taken_by_chance(tmp_path: Path) -> None:
    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        champion.copy_to(to(new, share=10))
        assert champion._shadow is not None
        draws = iter([0.0999, 0.1, 0.5, 0.05])
        champion._shadow._chance = lambda: next(draws)
        await connected(champion)
        for _ in range(4):
            await ask(old, {"x": [1, 0]})
        await until(lambda: report(champion)["candidate"]["answered"] == 2)

    play(tmp_path, scene)


def answered(score: float, took_us: int = 1_000, status: int = 200) -> Answered:
    return Answered(status, took_us, json.dumps({"score": score}).encode() if status == 200 else b"")


def compared() -> Compared:
    latency, scores = Histogram(), Scores()
    latency.add(1_000, 300)
    for score in range(300):
        scores.counts[score] = 1
    told = Compared(("score", "score"), lambda: (latency, scores))
    told.find_bounds()
    return told


def test_slow_and_beyond_are_judged_by_what_the_champion_did_before() -> None:
    told = compared()
    told.note(answered(0.5, took_us=1_000), answered(0.5, took_us=9_000))
    told.note(answered(0.5, took_us=9_000), answered(0.5, took_us=1_000))
    told.note(answered(0.5), answered(0.5))
    assert told.pairs["latency"] == [[3, 1, 1]]
    assert [counts[0] for counts in told.pairs["scores"]] == [3] * 6


def test_a_pair_of_which_one_failed_says_nothing_of_scores() -> None:
    told = compared()
    told.note(answered(0.5), answered(0.0, status=500))
    told.note(answered(0.0, status=500), answered(0.5))
    told.note(answered(0.5), answered(0.0, status=422))
    assert told.pairs["errors"] == [[3, 1, 1]]
    assert told.pairs["refusals"] == [[3, 1, 0]]
    assert told.pairs["latency"] == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ({"model": "m", "score": 0.5}, 0.5),
        ({"predictions": [{"score": 0.25}, {"score": 9}]}, 0.25),
        ({"score": [0.75]}, 0.75),
        ({"outputs": [{"name": "other", "data": [1]}, {"name": "raw", "data": [0.5, 2]}]}, 0.5),
        ({"outputs": [{"name": "other", "data": [1]}]}, None),
        ({"predictions": []}, None),
        ({"score": None}, None),
        ([], None),
    ],
    ids=str,
)
def test_the_score_of_the_first_row_is_found(body: Mapping[str, Any], score: float | None) -> None:
    assert first_score(json.dumps(body).encode(), ("score", "raw")) == score


@pytest.mark.parametrize("told", [{"version": 2, "share": 10}, {}, {"version": "new"}, None])
def test_settings_of_another_release_are_refused_with_what_to_do(told: Any) -> None:
    with pytest.raises(InvalidInput, match="told wrong") as caught:
        ShadowSettings.of(told)
    assert (caught.value.code, bool(caught.value.next_action)) == ("BAD_CONFIG", True)


def test_a_replica_goes_on_with_the_copies_that_it_was_told_of_before(tmp_path: Path) -> None:
    class Told:
        """As a process's context tells its live settings."""

        def __init__(self, **live: Any) -> None:
            self._live = live

        def live(self) -> Any:
            return self._live

    async def scene(champion: Replica, candidate: Replica, old: Path, new: Path) -> None:
        good = {"version": 2, "share": 10, "sockets": [str(new)], "slower": 2.0}
        follow_live(Told(shadow=good), champion)  # type: ignore[arg-type]
        follow_live(Told(shadow={"version": 3}), champion)  # type: ignore[arg-type]
        assert champion.report()["shadow"]["version"] == 2  # type: ignore[index]

    play(tmp_path, scene)
