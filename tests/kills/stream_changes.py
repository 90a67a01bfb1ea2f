"""Who changes what a stream decides by, all the time: each decision must be by the rules that its log says."""

from __future__ import annotations

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

PAUSE_SECONDS = 3.0
RULES = '"block": "score >= 0.9", "review": "score >= 0.3"'
OTHERS = ('"block": "score >= 0.8", "review": "score >= 0.2"', '"block": "score >= 0.1"')
AWAY = frozenset({429, 500, 502, 503, 504})


class Ruler(Background):
    """Deploys the application with other rules, one after the other, while payments are sent."""

    def __init__(self, cloud: Cloud, journal: Journal, plan: Plan, producers: Producers) -> None:
        super().__init__(journal, PAUSE_SECONDS)
        self.deployed = 0
        self._producers = producers
        self._client = Client(f"http://127.0.0.1:{cloud.port}", cloud.token)
        self._bodies = [self._body(plan, rules) for rules in (*OTHERS, RULES)]

    def _body(self, plan: Plan, rules: str) -> Mapping[str, Any]:
        folder = plan.folder / f"rules-{len(list(plan.folder.glob('rules-*')))}"
        folder.mkdir()
        path, text = folder / plan.app.name, plan.app.read_text()
        assert RULES in text
        path.write_text(text.replace(RULES, rules))
        spec, code = load_app(path).spec, self._client.upload_bytes(pack(path).data)
        return {"spec": spec.to_json(), "spec_digest": spec.digest(), "code": code, "main": path.name}

    def turn(self) -> None:
        if self._producers.done:
            return
        try:
            self._client.deploy("risk", self._bodies[self.deployed % len(self._bodies)])
            self.deployed += 1
        except SkyriverError as error:
            if error.http_status not in AWAY:
                raise

    def end(self, seconds: float = 60.0) -> None:
        super().end(seconds)
        self._client.close()
