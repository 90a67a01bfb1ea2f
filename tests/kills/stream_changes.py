"""Who changes what a stream decides by, all the time: each decision must be by the rules and features that its log
says."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

from cloud_process import Cloud

from kills.journal import Journal
from kills.load import Background
from kills.stream_load import Producers
from kills.stream_plan import Plan
from skyriver.client.api import Client
from skyriver.client.appfile import load_app, pack
from skyriver.core.errors import SkyriverError
from skyriver.features.plan import plan_features

PAUSE_SECONDS = 3.0
STEADY_SECONDS = 5.0
"""So long features stay as they are once they have taken over."""
TREES = 20
MODEL = "fraud"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
RULES = '"block": "score >= 0.9", "review": "score >= 0.3"'
OTHERS = ('"block": "score >= 0.8", "review": "score >= 0.2"', '"block": "score >= 0.1", "review": "score >= 0.05"')
COUNTED = 'sr.count(by="customer", over=days) for days in ("1d", "7d", "30d")'
SPENT = 'sr.mean("amount", by="customer", over=days) for days in ("1d", "7d", "30d")'
TERMINALS = (
    '    **{f"terminal_count_{days}": sr.count(frauds, by="terminal", over=days) for days in ("1d", "7d", "30d")},\n',
    '    **{f"terminal_fraud_{days}": sr.mean(frauds, by="terminal", over=days) for days in ("1d", "7d", "30d")},\n',
)
FEATURES: tuple[Mapping[str, str], ...] = (
    {},
    {old: old.replace('("1d", "7d", "30d")', '("2d", "14d")') for old in (COUNTED, *TERMINALS)},
    {**dict.fromkeys(TERMINALS, ""), SPENT: SPENT.replace('"1d", ', '"1d", "3d", ')},
)
"""As they are; over other windows; without one of the keys and the labels. The oracle knows them all."""
AWAY = frozenset({409, 429, 500, 502, 503, 504})
"""What is under way already (409), or nobody answers: another time."""


class Changer(Background):
    """Deploys the application with other rules, one after the other, while payments are sent; and with other features,
    for which a version is trained, or is there to go back to."""

    def __init__(self, cloud: Cloud, journal: Journal, plan: Plan, producers: Producers, seed: int) -> None:
        super().__init__(journal, PAUSE_SECONDS)
        self._deployed = 0
        self._features = 0
        self._operation = ""
        self._since = 0.0
        self._luck = random.Random(seed)
        self._producers = producers
        self._client = Client(f"http://127.0.0.1:{cloud.port}", cloud.token)
        self._digests: list[str] = []
        self._bodies = [
            [self._body(plan, number, rules) for rules in (*OTHERS, RULES)] for number in range(len(FEATURES))
        ]

    def _body(self, plan: Plan, number: int, rules: str) -> Mapping[str, Any]:
        folder = plan.folder / f"app-{len(list(plan.folder.glob('app-*')))}"
        folder.mkdir()
        path, text = folder / plan.app.name, plan.app.read_text()
        for old, new in {**FEATURES[number], RULES: rules}.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        spec, code = load_app(path).spec, self._client.upload_bytes(pack(path).data)
        if len(self._digests) == number:
            self._digests.append(plan_features(spec.feature_sets[0], spec.streams[0]).digest)
        return {"spec": spec.to_json(), "spec_digest": spec.digest(), "code": code, "main": path.name}

    def turn(self) -> None:
        if self._producers.done:
            return
        try:
            self._change_features()
            self._client.deploy("risk", self._bodies[self._features][self._deployed % len(self._bodies[0])])
            self._deployed += 1
        except SkyriverError as error:
            if error.http_status not in AWAY:
                raise

    def _change_features(self) -> None:
        """Once those of before decide: others, with the version that was trained on them, or to train one."""
        if self._operation and self._client.get("operations", self._operation)["state"] not in ENDED:
            self._since = time.monotonic()
        if time.monotonic() - self._since < STEADY_SECONDS:
            return
        self._operation = ""
        self._features = self._luck.choice([n for n in range(len(FEATURES)) if n != self._features])
        self._client.deploy("risk", self._bodies[self._features][0])
        versions = [
            int(version["spec"]["version"])
            for version in self._client.list("versions")
            if version["state"] == "APPROVED" and version["spec"]["features"]["digest"] == self._digests[self._features]
        ]
        self._operation = (
            self._client.act("rollback", MODEL, params={"version": versions[-1]})
            if versions
            else self._client.act("train", MODEL, params={"trees": TREES})
        )

    def end(self, seconds: float = 60.0) -> None:
        super().end(seconds)
        self._client.close()
