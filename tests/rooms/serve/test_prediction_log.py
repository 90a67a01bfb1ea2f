"""What a replica counts of the rows that it answered."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from numpy.typing import NDArray

from skyriver.core.errors import Internal
from skyriver.core.spec_streams import FieldSpec
from skyriver.data.profile import count
from skyriver.release.profiled import ModelProfile, profile_model
from skyriver.release.requests import CELLS, DRAWN, ROWS, SQUARES
from skyriver.serve.batching import Ask
from skyriver.serve.listening import unix_listener
from skyriver.serve.prediction_log import BUFFER, PredictionLog
from skyriver.serve.replica import Replica, ReplicaSettings
from skyriver.serve.runner import Runner

Matrix = NDArray[np.float32]


def rows_of(seed: int, n: int) -> tuple[Matrix, Matrix]:
    """Features of which some are missing, some infinite, some one of few values; and scores."""
    luck = np.random.default_rng(seed)
    x = np.stack([luck.normal(size=n), luck.integers(0, 4, n), np.where(luck.random(n) < 0.1, np.nan, 1.0)], axis=1)
    x[:3, 0] = (np.inf, -np.inf, np.nan)
    return x.astype(np.float32), luck.random(n).astype(np.float32)


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    x, scores = rows_of(0, 5_000)
    return profile_model(("a", "b", "c"), x, np.arange(5_000), scores)


def ask(x: Matrix) -> Ask:
    return Ask({"features": x}, lambda result: None)


def answer(log: PredictionLog, x: Matrix, scores: Matrix) -> None:
    log.answered([ask(x)], [{"score": scores}], len(x))


def cells_of(profile: ModelProfile, x: Matrix, scores: Matrix) -> list[float]:
    """As `skyriver.data.profile` counts them."""
    columns = [*zip(profile.inputs.columns, x.T, strict=True), (profile.scores.columns[0], scores)]
    found: list[float] = []
    for column, values in columns:
        counted = count(column, values)
        found += [*counted.counts, counted.missing]
    return found


def made(profile: ModelProfile, **more: Any) -> PredictionLog:
    return PredictionLog(profile, "d", "score", now=lambda: 7_000_000, **more)


def test_rows_fall_into_the_bins_of_the_profile(profile: ModelProfile) -> None:
    log, (x, scores) = made(profile), rows_of(1, BUFFER)
    for at in range(0, BUFFER, 10):  # by batches of requests with several rows each, and columns of scores
        parts = [slice(at, at + 3), slice(at + 3, at + 10)]
        log.answered([ask(x[part]) for part in parts], [{"score": scores[part, None]} for part in parts], 10)
    log.turn()
    told = log.report()
    assert (told["profile"], told["began"]) == ("d", 7_000)
    assert told["counts"][:CELLS] == [BUFFER, BUFFER, BUFFER]
    assert told["counts"][CELLS:] == cells_of(profile, x, scores)
    log.turn()
    assert log.report() == told, "nothing was answered since"


def test_what_nobody_was_sent_is_not_counted(profile: ModelProfile) -> None:
    log, (x, scores) = made(profile), rows_of(1, 20)
    left = ask(x[:5])
    left.unwanted = True
    failed = Internal("No.", code="MODEL_FAILED")
    log.answered([left, ask(x[10:])], [{"score": scores[:5]}, {"score": scores[10:]}], 15)
    log.answered([ask(x[5:10])], [failed], 5)
    log.turn()
    assert log.report()["counts"][CELLS:] == cells_of(profile, x[10:], scores[10:])


def test_a_row_that_is_drawn_stands_for_those_that_were_not(profile: ModelProfile) -> None:
    log, (x, scores) = made(profile, chance=random.Random(3).random), rows_of(2, 100_000)
    counts: list[float] = []
    for turn in range(50):  # 2,000 rows a turn, of which about 80 are drawn
        for at in range(turn * 2_000, (turn + 1) * 2_000, 4):
            answer(log, x[at : at + 4], scores[at : at + 4])
        log.turn()
        assert log._drawn == 0
    counts = log.report()["counts"]
    assert counts[ROWS] == pytest.approx(100_000)
    assert 3_500 < counts[DRAWN] <= 50 * BUFFER
    assert counts[ROWS] ** 2 / counts[SQUARES] <= counts[DRAWN]
    whole = np.array(cells_of(profile, x, scores))
    apart = np.abs(np.array(counts[CELLS:]) - whole) / 100_000
    assert apart.max() < 4 * np.sqrt(0.25 / counts[DRAWN]), "within what chance does"


def test_what_comes_at_once_does_not_fit_and_is_stood_for(profile: ModelProfile) -> None:
    log, (x, scores) = made(profile), rows_of(4, 10_000)
    answer(log, x, scores)
    assert log._drawn == BUFFER
    log.turn()
    assert log.report()["counts"][:CELLS] == [10_000, BUFFER * 100.0**2, BUFFER]


def test_a_turn_of_which_no_row_is_drawn_is_stood_for_by_the_next(profile: ModelProfile) -> None:
    log, (x, scores) = made(profile, chance=lambda: 0.999), rows_of(5, 10_000)
    answer(log, x, scores)
    log.turn()
    for _ in range(2):
        answer(log, x[:3], scores[:3])
        log.turn()
    assert log.report()["counts"][ROWS] == 10_006


def test_rows_of_another_shape_than_the_profile_s_are_left_alone(profile: ModelProfile) -> None:
    log, (x, scores) = made(profile), rows_of(6, 5)
    answer(log, x[:, :2], scores)
    log.answered([ask(x)], [{"other": scores}], 5)
    log.answered([ask(x)], [{"score": scores[:2]}], 5)
    log.turn()
    assert not any(log.report()["counts"])


def test_what_leaves_the_replica_is_counts(profile: ModelProfile) -> None:
    columns = (*profile.inputs.columns, *profile.scores.columns)
    assert len(made(profile).report()["counts"]) == CELLS + sum(len(column.edges) + 2 for column in columns)


def test_a_replica_tells_what_it_counted_once_it_is_told_to(tmp_path: Path, sums: bytes, profile: ModelProfile) -> None:
    async def ask_for(values: list[float | None]) -> dict[str, Any]:
        body = json.dumps(dict(zip(("a", "b", "c"), values, strict=True))).encode()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"POST /predict HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        answered = await reader.read()
        writer.close()
        found: dict[str, Any] = json.loads(answered.partition(b"\r\n\r\n")[2])
        return found

    async def main() -> None:
        fields = tuple(FieldSpec(name=name, type="float", nullable=True) for name in ("a", "b", "c"))
        replica = Replica(Runner(sums), ReplicaSettings("m", 1, fields, grace_s=1.0))
        with unix_listener(tmp_path / "s") as listening:
            await replica.start(listening)
            assert (await ask_for([0.5, 2.0, 1.0]))["score"] == 3.5
            assert "log" not in replica.report()
            replica.log_by(profile, "digest")
            assert replica.logged == "digest"
            await ask_for([0.5, 2.0, 1.0])
            await ask_for([0.25, None, 1.0])
            assert "score" not in await ask_for([0.25, "no", 1.0])  # type: ignore[list-item]
            told: Any = replica.report()["log"]
            rows = np.array([[0.5, 2.0, 1.0], [0.25, np.nan, 1.0]], np.float32)
            assert told["profile"] == "digest"
            assert told["counts"] == [2, 2, 2, *cells_of(profile, rows, np.array([3.5, np.nan], np.float32))]
            replica.log_by(None)
            assert "log" not in replica.report()
            await replica.stop()

    uvloop.run(asyncio.wait_for(main(), 60))
