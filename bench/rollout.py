"""Versions that take over by steps: how often a good one is taken back, how soon a bad one is, and who saw it.

    python bench/rollout.py [--quick] [--parts simulated,by-key,shadow,live,passing]

Simulated: the product's own functions (`release.canary`, `release.stepping`) judge what a model of the traffic answers,
100 requests a second for an hour in steps of 1, 10 and 50%, looked at every five seconds. Candidates are as the
champion (0.5% of errors), or fail two points more, or take twice as long, or score 0.3 standard deviations higher.
The same where a key stays with its version, as in a stream and, by a header, over HTTP: 2,000 or 20,000 keys of
heavy-tailed activity, each with errors, scores and (over HTTP) latencies of its own.
The same in the shadow, where copies of a tenth of the requests are compared pair by pair (`_shadow.py`).
Live: a cloud with its gateway under 1,000 requests a second, an open loop (`_serving_load.py`): good versions take over
by steps, then two of them swap to and fro with rollbacks until 100 swaps are made (a deployment takes several
seconds); then one that refuses what it is asked, and one that scores higher. At last, what it costs a request that its
key is the new version's (`_passing.py`).
Prints one JSON document; progress goes to stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _document import Document, Goal, add_parts
from _passing import PASSING_GOALS, measure_passing
from _processes import Failed, cloud_home, free_port
from _serving_scenes import sending
from _serving_systems import System, product
from _shadow import SHADOW_GOALS, measure_shadow
from _shop_model import BODY, Asked, shop_model
from numpy.typing import NDArray
from scipy.stats import norm

from skyriver.client.api import Client
from skyriver.core.spec import CanarySpec
from skyriver.release.canary import Source, Tally, looked
from skyriver.release.stepping import begin_step, judge
from skyriver.serve.metrics import Histogram
from skyriver.serve.scores import score_bucket

GOALS = (
    Goal("false_rollback_share", "<=", 0.05, "of rollouts"),
    Goal("regression_caught_share", ">=", 0.95, "of rollouts"),
    Goal("by_key_false_rollback_share", "<=", 0.05, "of rollouts"),
    Goal("by_key_regression_caught_share", ">=", 0.95, "of rollouts"),
    *SHADOW_GOALS,
    Goal("live_failed_requests", "<=", 0, "requests"),
    Goal("live_exposed_miscounted", "<=", 0, "requests"),
    *PASSING_GOALS,
)
PARTS = {
    "simulated": ("false_rollback_share", "regression_caught_share"),
    "by-key": ("by_key_false_rollback_share", "by_key_regression_caught_share"),
    "shadow": ("shadow_false_rollback_share", "shadow_regression_caught_share"),
    "live": ("live_failed_requests", "live_exposed_miscounted"),
    "passing": tuple(goal.name for goal in PASSING_GOALS),
}
RATE, LOOK_S, STEP_S = 100, 5, 1_200
SPEC = CanarySpec(steps=(1, 10, 50), every="20m", wait="1h")
ERRORS, MORE_ERRORS = 0.005, 0.02
MEDIAN_US, SPREAD = 3_000, 0.5
SHIFT = 0.3


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of a version: the share of its requests that fails, and the chances of each bucket of latency and score."""

    errors: float
    latency: tuple[NDArray[np.int64], NDArray[np.float64]]
    scores: tuple[NDArray[np.int64], NDArray[np.float64]]


def behaviour(errors: float = ERRORS, slower: float = 1.0, shift: float = 0.0) -> Behaviour:
    """Latencies are lognormal. Scores are probabilities, as of rare events: the logistic function of a normal variable,
    whose mean is `shift` of its standard deviations higher."""
    chances = (np.arange(20_000) + 0.5) / 20_000
    latency, scores = Histogram(), {}
    for quantile in norm.ppf(chances):
        latency.add(int(MEDIAN_US * slower * math.exp(SPREAD * quantile)))
        bucket = score_bucket(1 / (1 + math.exp(4 - 1.5 * (quantile + shift))))
        scores[bucket] = scores.get(bucket, 0) + 1
    return Behaviour(errors, _shares(latency.told()), _shares(sorted(scores.items())))


def _shares(histogram: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    buckets, counts = np.array(histogram).T
    return buckets, counts / counts.sum()


CASES = {
    "as good": behaviour(),
    "fails 2 points more": behaviour(ERRORS + MORE_ERRORS),
    "twice as slow": behaviour(slower=2.0),
    "scores higher by 0.3 standard deviations": behaviour(shift=SHIFT),
}


class Side:
    """What a version has counted."""

    def __init__(self, of: Behaviour, rng: np.random.Generator) -> None:
        self._of, self._rng = of, rng
        self.answered = self.failed = 0
        self._latency = np.zeros(len(of.latency[0]), np.int64)
        self._scores = np.zeros(len(of.scores[0]), np.int64)

    def serve(self, requests: int) -> None:
        self.answered += requests
        self.failed += int(self._rng.binomial(requests, self._of.errors))
        self._latency += self._rng.multinomial(requests, self._of.latency[1])
        self._scores += self._rng.multinomial(requests, self._of.scores[1])

    def tally(self) -> Tally:
        latency, scores = _told(self._of.latency[0], self._latency), _told(self._of.scores[0], self._scores)
        return Tally(self.answered, self.failed, latency=latency, scores=scores)


def _told(buckets: NDArray[np.int64], counts: NDArray[np.int64]) -> list[list[int]]:
    there = counts > 0
    return np.stack([buckets[there], counts[there]], axis=1).tolist()


@dataclass(frozen=True, slots=True)
class Ended:
    seconds: int
    exposed: int
    reason: str
    """Why it was taken back or paused; "" when it took over."""


def simulate(case: str, seed: int) -> Ended:
    rng = np.random.default_rng([seed, *case.encode()])
    champion, candidate = Side(CASES["as good"], rng), Side(CASES[case], rng)
    canary = begin_step({}, 0, 0)
    for now in range(LOOK_S, 4 * 3_600, LOOK_S):
        requests = int(rng.poisson(RATE * LOOK_S))
        to_candidate = int(rng.binomial(requests, SPEC.steps[canary["step"]] / 100))
        champion.serve(requests - to_candidate)
        candidate.serve(to_candidate)
        source = Source("replicas", {"a": champion.tally()}, {"b": candidate.tally()})
        canary = {**canary, "compared": looked(canary["compared"], [source], now * 1_000_000)}
        verdict = judge(canary, SPEC, (1, 2), now * 1_000_000)
        if verdict.what in ("take_back", "pause"):
            return Ended(now, candidate.answered, verdict.reason)
        if verdict.what == "next":
            if canary["step"] + 1 == len(SPEC.steps):
                return Ended(now, candidate.answered, "")
            canary = begin_step(canary, canary["step"] + 1, now * 1_000_000)
    raise AssertionError("it does not end")


@dataclass(frozen=True, slots=True)
class Keys:
    """How many there are, by how much the logarithm of their activity, their scores and the logarithm of their errors
    differ, and what the candidate does worse. `latency`: by how much its logarithm does, over HTTP; a stream counts
    none."""

    count: int
    activity: float = 1.0
    scores: float = 1.0
    errors: float = 1.0
    fails_more: float = 0.0
    shift: float = 0.0
    latency: float = 0.0
    slower: float = 1.0


AS_GOOD_BY_KEY = {
    "as good, 2,000 keys": Keys(2_000),
    "as good, 20,000 keys": Keys(20_000),
    "as good, 2,000 keys of which few do most": Keys(2_000, activity=2.0),
    "as good over HTTP, 2,000 keys": Keys(2_000, latency=0.5),
    "as good over HTTP, 2,000 keys of which few do most": Keys(2_000, activity=2.0, latency=0.5),
}
WORSE_BY_KEY = {
    "fails 2 points more, 20,000 keys": Keys(20_000, fails_more=MORE_ERRORS),
    "scores higher by 0.3 standard deviations, 20,000 keys": Keys(20_000, shift=SHIFT),
    "fails 2 points more over HTTP, 20,000 keys": Keys(20_000, fails_more=MORE_ERRORS, latency=0.5),
    "twice as slow over HTTP, 20,000 keys": Keys(20_000, slower=2.0, latency=0.5),
}
KEY_LOOK_S, COARSE_BINS, LATENCY_BINS = 20, 64, 80


def simulate_by_key(keys: Keys, seed: int) -> Ended:
    """As `simulate`, counted as the worker of a stream does, or, with latencies, a replica."""
    rng = np.random.default_rng(seed)
    activity = np.cumsum(rng.lognormal(0, keys.activity, keys.count))
    own, place = rng.normal(0, keys.scores, keys.count), rng.integers(0, 100, keys.count)
    fails = ERRORS * rng.lognormal(-(keys.errors**2) / 2, keys.errors, keys.count)
    took = MEDIAN_US * rng.lognormal(0, keys.latency, keys.count)
    canary, exposed = begin_step({}, 0, 0), 0
    counted = np.zeros((100, 2 + COARSE_BINS + (LATENCY_BINS if keys.latency else 0)), np.int64)
    for now in range(KEY_LOOK_S, 4 * 3_600, KEY_LOOK_S):
        percent = SPEC.steps[canary["step"]]
        who = np.searchsorted(activity, rng.random(rng.poisson(RATE * KEY_LOOK_S)) * activity[-1])
        to_candidate = place[who] < percent
        exposed += int(to_candidate.sum())
        scores = (own[who] + rng.normal(0, 1, len(who))) / math.hypot(1, keys.scores) + keys.shift * to_candidate
        counted[:, 0] += np.bincount(place[who], minlength=100)
        failed = rng.random(len(who)) < fails[who] + keys.fails_more * to_candidate
        counted[:, 1] += np.bincount(place[who][failed], minlength=100)
        np.add.at(counted, (place[who], 2 + np.clip(scores * 8 + COARSE_BINS / 2, 0, COARSE_BINS - 1).astype(int)), 1)
        if keys.latency:
            us = (took[who] * rng.lognormal(0, SPREAD, len(who)) * np.where(to_candidate, keys.slower, 1.0)).astype(int)
            np.add.at(counted, (place[who], 2 + COARSE_BINS + _quarter(us)), 1)
        candidate, champion = (
            _arm(counted, percent, of=slice(0, percent)),
            _arm(counted, 100 - percent, of=slice(percent, 100)),
        )
        source = Source("stream/s", {"w": champion}, {"w": candidate})
        canary = {**canary, "compared": looked(canary["compared"], [source], now * 1_000_000)}
        verdict = judge(canary, SPEC, (1, 2), now * 1_000_000)
        if verdict.what in ("take_back", "pause"):
            return Ended(now, exposed, verdict.reason)
        if verdict.what == "next":
            if canary["step"] + 1 == len(SPEC.steps):
                return Ended(now, exposed, "")
            canary, counted = begin_step(canary, canary["step"] + 1, now * 1_000_000), np.zeros_like(counted)
    raise AssertionError("it does not end")


def _quarter(us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the quarter of a power of two that a replica counts it in (see `serve.passing.PlaceCounts`)."""
    bits = np.frexp(us.astype(np.float64))[1] - 3
    found: NDArray[np.int64] = 4 * bits + (us >> bits) - 4
    return found


def _from_us(quarter: int) -> int:
    bits, rest = divmod(quarter, 4)
    return (rest + 4) << bits


def _arm(counted: NDArray[np.int64], percent: int, of: slice) -> Tally:
    places = [Tally(0, 0)] * 100
    places[of] = [
        Tally(
            answered,
            failed,
            scores=[[bin_, count] for bin_, count in enumerate(bins[:COARSE_BINS]) if count],
            latency=[[_from_us(bin_), count] for bin_, count in enumerate(bins[COARSE_BINS:]) if count],
        )
        for answered, failed, *bins in counted[of].tolist()
    ]
    latency, scores = ([bucket for p in places for bucket in getattr(p, what)] for what in ("latency", "scores"))
    answered, failed = (sum(getattr(place, what) for place in places) for what in ("answered", "failed"))
    share = 100 * percent
    return Tally(answered, failed, started=share, share=share, latency=latency, scores=scores, places=places)


def measure_by_key(document: Document, runs: int) -> None:
    shares: dict[str, list[float]] = {"by_key_false_rollback_share": [], "by_key_regression_caught_share": []}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for goal, cases in zip(shares, (AS_GOOD_BY_KEY, WORSE_BY_KEY), strict=True):
            for case, keys in cases.items():
                ended = list(pool.map(simulate_by_key, [keys] * runs, range(runs), chunksize=5))
                back = [each for each in ended if each.reason.startswith("WORSE_")]
                document.row(
                    "skyriver",
                    f"simulated by key: {case}",
                    rollouts=runs,
                    taken_back=len(back),
                    paused=sum(each.reason == "TOO_FEW_REQUESTS" for each in ended),
                    exposed_requests_median=median(each.exposed for each in back) if back else None,
                    seconds_median=median(each.seconds for each in back) if back else None,
                )
                shares[goal].append(len(back) / runs)
    for (goal, found), worst in zip(shares.items(), (max, min), strict=True):
        document.measured(goal, worst(found), note=f"the worst of {len(found)} kinds, {runs} each")


def measure_simulated(document: Document, runs: int) -> None:
    caught = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for case in CASES:
            ended = list(pool.map(simulate, [case] * runs, range(runs), chunksize=5))
            back = [each for each in ended if each.reason]
            exposed = sorted(each.exposed for each in back)
            document.row(
                "skyriver",
                f"simulated: {case}",
                rollouts=runs,
                taken_back=len(back),
                reasons={reason: sum(e.reason == reason for e in back) for reason in sorted({e.reason for e in back})},
                exposed_requests_median=median(exposed) if exposed else None,
                exposed_requests_p95=exposed[int(0.95 * len(exposed))] if exposed else None,
                seconds_median=median(each.seconds for each in back) if back else None,
            )
            if case == "as good":
                document.measured("false_rollback_share", len(back) / runs, note=f"{runs} rollouts of an hour")
            else:
                caught.append(sum(each.reason.startswith("WORSE_") for each in back) / runs)
    document.measured("regression_caught_share", min(caught), note=f"the least of {len(caught)} kinds, {runs} each")


APP = """\
import skyriver as sr

app = sr.App("shop")
app.model("shop", onnx="shop.onnx", rollout=sr.Canary({steps}, every="1s"))
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """A cloud whose model has versions that take over by steps."""

    home: Path
    system: System

    def deploy(self, steps: Sequence[int], base: float = 0.5, place: int = 0) -> dict[str, Any]:
        """The rollout of the version that was made, once it has ended."""
        folder = self.home.parent / "app"
        folder.mkdir(exist_ok=True)
        (folder / "shop.onnx").write_bytes(shop_model(base, place))
        (folder / "app.py").write_text(APP.format(steps=list(steps)))
        product(self.home, "deploy", str(folder / "app.py"), "-y")
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            found: Any = product(self.home, "rollout", "list")
            last: dict[str, Any] = max(found, key=lambda row: int(row["name"].rpartition("-")[2]))
            if last["state"] in ("DONE", "ROLLED_BACK", "ABORTED"):
                return last
            time.sleep(0.2)
        raise Failed(f"the rollout did not end: {last['state']} {last['message']}")


def _swap_back(shop: Shop, to: int) -> None:
    """A rollback, once it has ended."""
    with Client(f"http://127.0.0.1:{shop.system.port}", shop.system.token) as cloud:
        cloud.wait(cloud.act("rollback", "shop", params={"version": to}))


def measure_live(document: Document, by_steps: int, swaps: int, rate: float) -> None:
    """`swaps`: of good versions in all, `by_steps` of them deployed."""
    with cloud_home() as home:
        home.parent.mkdir(exist_ok=True)
        told = product(home, "up", "--port", str(free_port()))
        port = int(str(told["url"]).rpartition(":")[2])
        shop = Shop(home, System("skyriver", "", port, list, token=str(told["token"])))
        shop.deploy([1, 100])
        with _load(shop, rate) as good:
            steps, backs, serving = [], [], 0
            for number in range(by_steps):
                begun = time.perf_counter()
                ended = shop.deploy([50, 100], base=0.5 + (number + 1) * 1e-6)
                steps.append(time.perf_counter() - begun)
                if ended["state"] != "DONE":
                    raise Failed(f"a good version did not take over: {ended['message']}")
                serving = int(ended["spec"]["to"])
            pair = (serving - 1, serving)
            for number in range(swaps - by_steps):
                begun = time.perf_counter()
                _swap_back(shop, pair[number % 2])
                backs.append(time.perf_counter() - begun)
            good.stop()
        document.row(
            "skyriver",
            f"{swaps} swaps of good versions, {by_steps} of them by steps, at {rate:.0f} requests a second",
            requests=len(good.found["status"]),
            statuses=good.counts(),
            rollout_seconds_median=round(median(steps), 1),
            rollback_seconds_median=round(median(backs), 2) if backs else None,
        )
        document.measured("live_failed_requests", good.failed())
        for what, version in (("refuses all it is asked", {"place": 7}), ("scores higher", {"base": 0.9})):
            with _load(shop, rate) as bad:
                ended = shop.deploy([1, 10, 50, 100], **version)  # type: ignore[arg-type]
                bad.stop()
            saw = ended["status"]["canary"]["compared"]["candidate"]
            document.row(
                "skyriver",
                f"a version that {what}, at {rate:.0f} requests a second",
                state=ended["state"],
                reason=ended["reason"],
                requests=len(bad.found["status"]),
                statuses=bad.counts(),
                requests_that_saw_it=saw["answered"] + saw["refused"],
            )
            if "place" in version:
                told_of = saw["answered"] + saw["refused"]
                document.measured("live_exposed_miscounted", abs(bad.failed() - told_of), note=f"{told_of} saw it")
            if ended["state"] != "ROLLED_BACK":
                raise Failed(f"a version that {what} was not taken back")


def _load(shop: Shop, rate: float) -> Any:
    return sending(shop.home.parent, shop.system, Asked(), BODY, rate, 3_600)  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rollouts, the same goals")
    add_parts(parser, PARTS)
    given = parser.parse_args()
    quick = given.quick
    document = Document("rollout", GOALS)
    measures: dict[str, Callable[[], None]] = {
        "simulated": lambda: measure_simulated(document, 100 if quick else 500),
        "by-key": lambda: measure_by_key(document, 20 if quick else 200),
        "shadow": lambda: measure_shadow(document, 50 if quick else 500),
        "live": lambda: measure_live(document, 5 if quick else 20, 10 if quick else 100, 1_000),
        "passing": lambda: measure_passing(document, 500 if quick else 5_000),
    }
    document.parts(PARTS, measures, given.parts)
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
