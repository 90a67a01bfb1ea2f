"""Who changes things all the time: deploys, trains, rolls back, loads; what was acknowledged is written down."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_process import SHOP, Cloud, write_lines

from kills.journal import Journal
from kills.load import Background, Orders
from skyriver.client.api import Client
from skyriver.client.appfile import load_app, pack
from skyriver.core.errors import SkyriverError

AWAY = frozenset({"CLOUD_AWAY", "TIMED_OUT", "CONTROL_AWAY", "GATEWAY_FAILED", "UPSTREAM_FAILED", "UPSTREAM_TIMEOUT"})
"""The answer got lost: whether it was done, nobody knows."""
LOAD_ROWS = 50
ENDING_SECONDS = 120.0
VARIANTS = {
    "plain": (),
    "gate": (('auc=">= 0.6"', 'auc=">= 0.55"'),),
    "rules": (("score >= 0.25", "score >= 0.3"),),
}
"""How the application file is changed, by a name for it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One that was asked for, and that had something to change: a deploy of what is there leaves no trace."""

    action: str
    operation: str
    """"" for a deploy, and for one of which no answer came."""
    acknowledged: bool
    digest: str = ""
    """Of what was deployed."""


class Operator(Background):
    """One change after the other, so that each deploy which is acknowledged must be what is there afterwards."""

    def __init__(self, cloud: Cloud, journal: Journal, orders: Orders, seed: int, *, trains: bool) -> None:
        super().__init__(journal, 0.0)
        self.changes: list[Change] = []
        self.refused = 0
        self.loaded: dict[str, list[int]] = {}
        """Orders by the load that is to bring them."""
        self.deployed = threading.Event()
        """Set when a deploy was just acknowledged; who waits for it clears it."""
        self._cloud = cloud
        self._orders = orders
        self._luck = random.Random(seed)
        self._trains = trains
        self._client = Client(f"http://127.0.0.1:{cloud.port}", cloud.token)
        self._bodies = {name: self._body(name) for name in VARIANTS}
        self._deployed = "plain"
        """"" when nobody knows."""
        self._training = ""
        self._files: dict[str, Mapping[str, Any]] = {}

    def _body(self, variant: str) -> Mapping[str, Any]:
        folder: Path = self._cloud.folder / variant
        folder.mkdir(exist_ok=True)
        text = SHOP
        for old, new in VARIANTS[variant]:
            assert old in text
            text = text.replace(old, new)
        path = folder / "shop.py"
        path.write_text(text)
        spec, code = load_app(path).spec, self._client.upload_bytes(pack(path).data)
        return {"spec": spec.to_json(), "spec_digest": spec.digest(), "code": code, "main": path.name}

    def turn(self) -> None:
        luck = self._luck.random()
        if self._trains and luck < 0.35:
            self._train()
        elif self._trains and luck < 0.45:
            self._roll_back()
        elif luck < 0.53:
            self._load()
        else:
            self._deploy()
        self.ending.wait(self._luck.expovariate(1.0))

    def _deploy(self) -> None:
        self._check_deployed()
        variant = self._luck.choice([v for v in VARIANTS if v != self._deployed])  # the same again changes nothing
        body = self._bodies[variant]
        self._deployed = ""
        done = self._ask("deploy", lambda: self._client.deploy("shop", body), body["spec_digest"])
        if done is not None:
            self._deployed = variant
            self.deployed.set()

    def _check_deployed(self) -> None:
        if not self._deployed:
            return
        try:
            found = self._client.get("apps", "shop")["spec"]["spec_digest"]
        except SkyriverError:
            return
        if found != self._bodies[self._deployed]["spec_digest"]:
            self.journal.lost.append(f"the deploy of {self._deployed} was acknowledged, {found[:12]} is there")

    def _train(self) -> None:
        if self._training and not self._ended(self._training):
            return
        params = {"trees": self._luck.randrange(3, 7), "seed": self._luck.randrange(1_000)}
        self._training = self._ask("train", lambda: self._client.act("train", "comes_back", params=params)) or ""

    def _ended(self, operation: str) -> bool:
        try:
            return self._client.get("operations", operation)["state"] in ("SUCCEEDED", "FAILED", "CANCELLED")
        except SkyriverError:
            return False

    def _roll_back(self) -> None:
        self._ask("rollback", lambda: self._client.act("rollback", "comes_back"))

    def _load(self) -> None:
        rows = self._orders.take(LOAD_ROWS)
        path = write_lines(self._cloud.folder / "more.jsonl", rows)
        try:
            digest = self._client.upload(path)
        except SkyriverError:
            return
        files = [{"digest": digest, "name": path.name, "format": "jsonl"}]
        operation = self._ask("load", lambda: self._client.act("load", "orders", inputs={"files": files}))
        if operation:
            self.loaded[operation] = [row["order"] for row in rows]

    def _ask(self, action: str, call: Callable[[], Any], digest: str = "") -> Any:
        """What the call gave; None when it was refused, or when no answer came."""
        try:
            found = call()
        except SkyriverError as error:
            if error.code in AWAY:
                self.changes.append(Change(action, "", False, digest))
            elif error.http_status >= 500 and error.http_status != 503:
                self.journal.wrong.append(f"{action}: {error.code} {error}")
            else:
                self.refused += 1
            return None
        if isinstance(found, str) or _changed(found):
            self.changes.append(Change(action, found if isinstance(found, str) else "", True, digest))
        return found

    def end(self, seconds: float = ENDING_SECONDS) -> None:
        super().end(seconds)
        self._client.close()


def _changed(deployed: Mapping[str, Any]) -> bool:
    return any(line["action"] in ("create", "update", "remove") for line in deployed["plan"])
