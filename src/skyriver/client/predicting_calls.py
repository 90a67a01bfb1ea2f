"""What both clients can do with many rows at once: have them scored, and fetch the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from skyriver.client.flows import FileBody, Flow, Request, call
from skyriver.client.rows import file_format
from skyriver.client.tenant_calls import TenantCalls, json_request
from skyriver.client.waiting import changed, repeated
from skyriver.core.contract import Outcomes


class PredictingCalls(TenantCalls):
    @call
    def predict_many(
        self,
        model: str,
        source: str | Sequence[Path],
        *,
        to: str = "",
        key: Sequence[str] = (),
        max_bad: float = 0.05,
        cores: int = 1,
    ) -> Flow[str]:
        """Asks for the answers of a version (MODEL, MODEL@ALIAS, MODEL:VERSION) for all rows of a table, or of files,
        which are uploaded; returns the name of the operation to wait for. They go into the table `to`, or into a file
        of that name, which is an artifact of the job: its `status["result"]["predict"]` says where they are."""
        inputs: dict[str, Any] = {"table": source}
        if not isinstance(source, str):
            files = []
            for path in source:
                answer = yield from changed(Request("POST", f"{self._base}/objects", content=FileBody(path)))
                files.append({"digest": str(answer["digest"]), "name": path.name, "format": file_format(path)})
            inputs = {"files": files}
        params = {"to": to, "key": list(key), "max_bad": max_bad, "cores": cores}
        body = {"target": model, "params": params, "inputs": inputs}
        answer = yield from changed(json_request("POST", f"{self._base}/actions/predict", body))
        return str(answer["operation"])

    @call
    def report_outcomes(self, model: str, outcomes: Sequence[Mapping[str, Any]]) -> Flow[Outcomes]:
        """Tells what became of a model's answers since the last report: `[{"version": 2, "metric": "accepted",
        "yes": 13, "of": 20}]`; each answer says its version. Sum up, and report every few seconds: a rollout whose
        guards name the metric compares its two versions by it. Returns all that is known."""
        path = f"{self._base}/models/{quote(model, safe='')}/outcomes"
        told: Outcomes = yield from changed(json_request("POST", path, {"outcomes": [*outcomes]}))
        return told

    @call
    def object_part(self, digest: str, first: int, size: int) -> Flow[tuple[bytes, int]]:
        """At most `size` bytes of an object from byte `first` on, and how many it has."""
        headers = {"Range": f"bytes={first}-{first + size - 1}"}
        request = Request("GET", f"{self._base}/objects/{quote(digest, safe='')}", headers=headers)
        answer: httpx.Response = yield from repeated(request)
        told = answer.headers.get("content-range", f"/{len(answer.content)}")
        return answer.content, int(told.rpartition("/")[2])
