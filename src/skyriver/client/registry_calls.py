"""What both clients can do with models and versions: take files in, tag, read cards and lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from skyriver.client.flows import FileBody, Flow, Request, call
from skyriver.client.tenant_calls import TenantCalls, json_request, part
from skyriver.client.waiting import answered, changed
from skyriver.core.contract import Removed, Resource
from skyriver.core.contract_cards import ModelCard
from skyriver.core.contract_curves import Tracked
from skyriver.core.contract_lineage import Edge, LineageList


class RegistryCalls(TenantCalls):
    @call
    def import_model(self, model: str, file: Path, *, weights: Sequence[Path] = (), description: str = "") -> Flow[str]:
        """Takes an ONNX file in as a version of a model that no application trains; returns the name of the operation
        to wait for, whose `status["created"]` names the version. `weights`: files that the model names for its
        weights, which are put into it."""
        files = []
        for path in (file, *weights):
            answer = yield from changed(Request("POST", f"{self._base}/objects", content=FileBody(path)))
            files.append({"digest": str(answer["digest"]), "name": path.name})
        params = {"description": description} if description else {}
        body = {"target": model, "params": params, "inputs": {"files": files}}
        answer = yield from changed(json_request("POST", f"{self._base}/actions/import", body))
        return str(answer["operation"])

    @call
    def tag(self, name: str, tags: Mapping[str, str | None]) -> Flow[Resource]:
        """Hangs tags on a model ("churn") or one of its versions ("churn:1"); None takes one away. Returns it."""
        path = f"{self._base}/{'versions' if ':' in name else 'models'}/{part(name)}/tags"
        answer: Resource = yield from changed(json_request("PATCH", path, {"tags": dict(tags)}))
        return answer

    @call
    def delete_model(self, model: str) -> Flow[Removed]:
        """Removes a model from outside, with its versions. Conflict (IN_USE) where an application declares it, it has
        served, or rows were scored by it."""
        answer: Removed = yield from changed(Request("DELETE", f"{self._base}/models/{part(model)}"))
        return answer

    @call
    def card(self, version: str) -> Flow[ModelCard]:
        """What is known of a version ("churn:1"), for people who did not make it."""
        answer: ModelCard = yield from answered(Request("GET", f"{self._base}/versions/{part(version)}/card"))
        return answer

    @call
    def curves(self, name: str) -> Flow[Tracked]:
        """What a run told step by step, and what it came of: by the run's name, that of one of its jobs, or
        MODEL:VERSION. Raises NotFound."""
        answer: Tracked = yield from answered(Request("GET", f"{self._base}/curves/{part(name, '/')}"))
        return answer

    @call
    def lineage(self, name: str) -> Flow[Sequence[Edge]]:
        """From what data and code something comes, and what came of it: edges, the nearest first."""
        answer: LineageList = yield from answered(Request("GET", f"{self._base}/lineage/{part(name, '/')}"))
        return answer["items"]
