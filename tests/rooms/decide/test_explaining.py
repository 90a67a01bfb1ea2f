"""Reasons of decisions that somebody asks for: in time, or with why there are none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from skyriver.core.errors import NotFound
from skyriver.data.decisions import Reason, Status
from skyriver.decide.decision.reasons import Explainer
from skyriver.decide.log.records import DecisionRecord
from skyriver.decide.worker import explaining as module
from skyriver.decide.worker.explaining import Explaining, Sources, Told
from skyriver.train.trees_onnx import read_lightgbm, to_onnx

NAMES = ("a", "b", "c")
LIVE = {"explain": {"artifacts": {"3": "digest"}, "texts": {"a": "unlike before"}}}


@pytest.fixture(scope="module")
def model() -> bytes:
    x = np.random.default_rng(0).normal(size=(2_000, 3)).astype(np.float32)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, (x[:, 0] > 0.5).astype(np.float32)), 10)
    return to_onnx(read_lightgbm(booster.model_to_string()))


def decision(version: int = 3, score: float | None = 0.5, digest: str = "f") -> DecisionRecord:
    features = np.array([2, 0, np.nan], np.float32).tobytes()
    rest = (Reason.NONE, 0, 0)
    return DecisionRecord(7, 1, Status.DECIDED, "block", score, features, "fraud", version, "r", digest, *rest)


def sources() -> Sources:
    return Sources.of(LIVE, {"f": NAMES})


def told(explaining: Explaining, *records: DecisionRecord) -> list[Told]:
    async def ask() -> list[Told]:
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Told]] = [loop.create_future() for _ in records]
        for record, answer in zip(records, answers, strict=True):
            explaining.begin(record, answer.set_result)
        async with asyncio.timeout(60):
            return list(await asyncio.gather(*answers))

    try:
        return asyncio.run(ask())
    finally:
        explaining.close()


def test_reasons_are_those_of_the_version_that_scored(model: bytes, kernels: Path) -> None:
    read: list[str] = []

    def reading(artifact: str) -> bytes:
        read.append(artifact)
        return model

    found = told(Explaining(reading, kernels, sources), decision(), decision())
    expected = Explainer.load(model, NAMES, kernels, {"a": "unlike before"}).reasons(decision().features)
    assert found == [Told(expected, "TreeSHAP", "log-odds")] * 2
    assert found[0].reasons[0].text == "unlike before"
    assert read == ["digest"], "it is loaded once"


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (decision(score=None), "there was no score."),
        (decision(version=2), "version 2 of fraud is not known any more."),
        (decision(digest="other"), "its features are not computed any more."),
    ],
)
def test_what_cannot_be_explained_says_why_at_once(kernels: Path, record: DecisionRecord, why: str) -> None:
    def reading(_: str) -> bytes:
        raise AssertionError

    assert told(Explaining(reading, kernels, sources), record) == [Told(reasons_why=why)]


def test_live_settings_of_before_explain_nothing() -> None:
    for live in (None, {}, {"explain": None}):
        assert Sources.of(live, {}) == Sources()


@pytest.mark.parametrize(
    ("error", "why"), [(NotFound("It is gone."), "It is gone."), (ZeroDivisionError(), "the worker's log says why.")]
)
def test_what_goes_wrong_is_told_in_the_place_of_reasons(kernels: Path, error: Exception, why: str) -> None:
    def reading(_: str) -> bytes:
        raise error

    assert told(Explaining(reading, kernels, sources), decision()) == [Told(reasons_why=why)]


def test_so_many_wait_and_no_more(model: bytes, kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    go = threading.Event()

    def reading(_: str) -> bytes:
        assert go.wait(60)
        return model

    explaining = Explaining(reading, kernels, sources)
    begin: Callable[..., Any] = explaining.begin

    def last(record: DecisionRecord, answer: Callable[[Told], None]) -> None:
        begin(record, answer)
        if len(explaining._tasks) == 2:
            monkeypatch.setattr(explaining, "begin", lambda record, answer: (begin(record, answer), go.set()))

    monkeypatch.setattr(explaining, "begin", last)
    found = told(explaining, decision(), decision(), decision())
    assert [bool(one.reasons) for one in found] == [True, True, False]
    assert found[2].reasons_why == "2 decisions are being explained: ask again."
