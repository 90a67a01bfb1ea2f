"""The bench of serving without peers and with tiny sizes: its parts run, and it finds wrong answers."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker_servers import program

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]  # a bench is no package, nor are tests
    import serving

    return serving


@pytest.fixture(scope="module")
def models(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bench.Models.write(tmp_path_factory.mktemp("models"))


def test_the_bare_loop_and_a_replica(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import _serving_rates
    import _serving_wrk

    def asked(_: Path, url: str, body: bytes, token: str, connections: int, seconds: float, pids: list[int]) -> Any:
        """Instead of wrk, which not every machine has."""
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)
        begun = time.perf_counter()
        for _ in range(5):
            connection.request("POST", "/" + url.split("/", 3)[3], body)
            answer = connection.getresponse()
            assert (answer.status, answer.read()[:1]) == (200, b"{")
        connection.close()
        return _serving_wrk.Figures(5 / (time.perf_counter() - begun), 1.0, 2.0, 0, 0, 50.0, 0.1)

    monkeypatch.setattr(_serving_rates, "load", asked)
    monkeypatch.setattr(_serving_rates, "find_wrk", lambda: "")
    document = bench.Document("serving", bench.GOALS)
    timing = bench.Timing(0.1, 2)
    bench.measure(document, bench.Sizes(timing, timing, bench.ALL, False, bench.scenes.QUICK), ["bare", "replica"])
    assert [row for row in document.rows if "reason" in row] == []
    cases = [(row["system"], row["case"]) for row in document.rows]
    assert len(cases) == len(set(cases)) == 9 + 6  # a replica alone serves the trees only
    assert all(row["rounds"] == 2 and row["rss_megabytes"] > 20 for row in document.rows)
    assert {document.value(goal.name) for goal in bench.GOALS} == {None}


def test_what_wrk_finds(bench: Any, models: Any, tmp_path: Path) -> None:
    import _serving_systems
    import _serving_wrk

    program("wrk", "Debian's wrk")
    with _serving_systems.replica(models) as system:
        body, pids = models.body(bench.TREES_1), system.pids()
        found = _serving_wrk.load(tmp_path, system.url(bench.TREES_1), body, "", 2, 1.0, pids)
        assert (found.wrong, found.broken) == (0, 0)
        assert 0 < found.p50_ms <= found.p99_ms
        assert found.per_second > 10
        assert 1 < found.cpu_us < 100_000
        wrong = _serving_wrk.load(tmp_path, system.url(bench.TREES_1), b"{}", "", 2, 1.0, pids)
        assert wrong.wrong > 10


def test_wrong_answers_are_found(bench: Any, models: Any, tmp_path: Path) -> None:
    import _serving_systems

    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(models.path("mlp"), other / "trees.onnx")
    with (
        _serving_systems.replica(bench.Models(other)) as system,
        pytest.raises(_serving_systems.Failed, match=r"answers \[.*\] for trees, 1 row"),
    ):
        _serving_systems.check(system, models)


def test_a_peer_that_cannot_be_started_is_told(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import _serving_rates

    @contextmanager
    def broken(_: Any) -> Any:
        raise bench.Failed("pip found no such package")
        yield

    monkeypatch.setattr(_serving_rates, "find_wrk", lambda: "")
    monkeypatch.setitem(bench.STARTS, bench.LITSERVE, ("litserve", broken))
    monkeypatch.setitem(bench.STARTS, bench.GATEWAY_2, ("gateway", broken))
    document = bench.Document("serving", bench.GOALS)
    timing = bench.Timing(0.1, 1)
    monkeypatch.setattr(bench, "BLOCKS", [block for block in bench.BLOCKS if bench.LITSERVE in block.names])
    bench.measure(document, bench.Sizes(timing, timing, (), False, bench.scenes.QUICK), ["gateway", "litserve"])
    assert [row["reason"] for row in document.rows] == ["pip found no such package"] * 2
    assert document.value("ratio_to_litserve") is None


def test_ratios_are_of_rounds(bench: Any, models: Any, tmp_path: Path) -> None:
    from _serving_rates import Rates
    from _serving_wrk import Figures

    document = bench.Document("serving", bench.GOALS)
    rates = Rates(document, models, tmp_path)
    for name, per_second in (("a", (100.0, 10.0, 30.0)), ("b", (50.0, 10.0, 10.0))):
        rates.found[name, bench.MANY] = [Figures(each, 1.0, 2.0, 0, 0, 50.0, 0.1) for each in per_second]
    rates.ratio("ratio_to_bare_1", "a", "b", bench.MANY, "per_second")
    assert document.value("ratio_to_bare_1") == 2.0
    with pytest.raises(bench.Failed, match="c was not measured"):
        rates.ratio("ratio_to_bare_2", "a", "c", bench.MANY, "per_second")


def test_the_open_loop_counts_from_when_a_request_was_due(bench: Any, models: Any, tmp_path: Path) -> None:
    import _serving_scenes
    import _serving_systems

    with _serving_systems.replica(models) as system:
        body = models.body(bench.TREES_1)
        with _serving_scenes.sending(tmp_path, system, bench.TREES_1, body, 100, 0.5, "--deadline", "60") as sent:
            sent.wait(60)
        assert sent.counts() == {"200": 50}
        assert sorted(sent.found["due"]) == [round(number / 100, 6) for number in range(50)]
        assert all(latency > 0 for latency in sent.found["latency"])
        with _serving_scenes.sending(tmp_path, system, bench.TREES_1, b"{}", 100, 0.1) as sent:
            sent.wait(60)
        assert (sent.counts(), sent.failed()) == ({"400": 10}, 10)
    with _serving_scenes.sending(tmp_path, system, bench.TREES_1, body, 100, 0.1, "--retry") as sent:
        sent.wait(60)  # nobody listens any more
    assert sent.counts() == {"0": 10}


def test_what_is_tried_again_is_sent_on_a_new_connection() -> None:
    """Of a server that was killed, all old connections are broken, and not all of that is known at once."""
    import _serving_load

    class Open(asyncio.Transport):
        written = 0

        def is_closing(self) -> bool:
            return False

        def write(self, _: object) -> None:
            self.written += 1

    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            sender = _serving_load.Sender("127.0.0.1", listening.getsockname()[1], b"", b"", 0.0, True)
            old, known = Open(), _serving_load.Connection(sender)
            known.connection_made(old)
            sender.free.append(known)
            sender.ended(_serving_load.Sent(0.0), 0, None)
            await asyncio.gather(*sender.tasks)
            assert (old.written, sender.connections, sender.sent_again) == (0, 1, 1)

    asyncio.run(scene())


def test_a_server_that_still_gets_its_share_is_not_out(bench: Any) -> None:
    import _serving_slow
    import numpy as np

    evenly = np.arange(0, 10, _serving_slow.SERVERS / _serving_slow.RATE)
    assert _serving_slow.ejected(evenly, 3.0, 10.0) is None
    assert _serving_slow.ejected(evenly[evenly < 4.2], 3.0, 10.0) == pytest.approx(1.2, abs=0.15)
    assert _serving_slow.ejected(evenly[(evenly < 4.2) | (evenly > 4.9)], 3.0, 6.5) is None


def test_each_goal_can_be_missed(bench: Any) -> None:
    assert [goal.name for goal in bench.GOALS if goal.holds(0 if goal.op == ">=" else 1e9)] == []
    measured = [ratio.goal for block in bench.BLOCKS for ratio in block.ratios]
    measured += [goal for _, goals in bench.SCENES.values() for goal in goals]
    assert sorted(measured) == sorted(goal.name for goal in bench.GOALS)
