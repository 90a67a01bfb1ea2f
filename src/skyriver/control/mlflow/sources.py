"""Where files are that MLflow's clients name: those of runs and logged models, and the two of each version. Pure.

A version gives its model file, and an `MLmodel` that is written here of its signed record: whatever a client uploaded
beside its model, no loader that somebody named and no pickle comes back from the registry.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skyriver.control.mlflow import records, trainings
from skyriver.control.mlflow.protocol import bad
from skyriver.control.mlflow.records import LOGGED, RUN
from skyriver.core.errors import InvalidInput, NotFound
from skyriver.core.resources import Resource, Snapshot, need

MODEL_FILE: Final = "model.onnx"
MLMODEL: Final = "MLmodel"
SCHEME: Final = "mlflow-artifacts:/"
MOST_BESIDE = 100
"""Files beside a model that may hold its weights."""
_TEXTS = (".json", ".yaml", ".yml", ".txt", ".py", ".md", "/MLmodel")
"""Of files beside a model that hold no weights."""
_TYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "BYTES": "object",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of files, or one in it: of a run or logged model (`row`), or of a version."""

    row: Resource
    path: str

    @property
    def is_version(self) -> bool:
        return self.row.kind == "version"

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Digest and bytes by path; of the MLmodel of a version there is no digest."""
        if not self.is_version:
            return records.files_of(self.row)
        spec = self.row.spec
        return {
            MODEL_FILE: {"digest": spec["artifact"], "bytes": spec["bytes"]},
            MLMODEL: {"bytes": len(mlmodel(self.row))},
        }


def place_of(snapshot: Snapshot, tenant: str, path: str) -> Place:
    """Of `runs/ID/...`, `models/ID/...`, `versions/NAME/NUMBER/...`. Raises NotFound, InvalidInput (BAD_REQUEST)."""
    parts = records.check_path(path.strip("/")).split("/")
    head, rest = parts[0], parts[1:]
    match head:
        case "runs" if rest:
            own = trainings.training(snapshot, tenant, rest[0])
            if own is not None and own.version is not None:
                return Place(own.version, "/".join(rest[1:]))
            return Place(records.find(snapshot, tenant, RUN, rest[0]), "/".join(rest[1:]))
        case "models" if rest:
            return Place(records.find(snapshot, tenant, LOGGED, rest[0]), "/".join(rest[1:]))
        case "versions" if len(rest) > 1:
            name = f"{rest[0]}:{rest[1]}"
            found = need(snapshot.find(tenant, "version", name), "version", name)
            return Place(found, "/".join(rest[2:]))
    raise NotFound(
        f"There is nothing at {path!r:.120}.",
        where="path",
        next_action="Files are those of a run, a logged model or a version: runs/ID, models/ID, versions/NAME/NUMBER.",
    )


def source_of(snapshot: Snapshot, tenant: str, source: str) -> Place:
    """Of what a version is to be made of: `models:/m-ID`, `models:/NAME/NUMBER`, `runs:/ID/PATH`,
    `mlflow-artifacts:/...`. Raises NotFound, InvalidInput (NO_URL, BAD_REQUEST)."""
    for scheme in ("models:/", "runs:/", SCHEME):
        if source.startswith(scheme) and not source.startswith(f"{scheme}/"):
            path = source.removeprefix(scheme)
            break
    else:
        raise InvalidInput(
            f"{source!r:.120} is not of this cloud, and it fetches no file from an address.",
            code="NO_URL",
            where="source",
            next_action="Log the model here (`mlflow.onnx.log_model`, `log_artifacts`), or `skyriver model import` it.",
        )
    if scheme == "models:/":
        name, at, alias = path.partition("@")
        if at:
            model = need(snapshot.find(tenant, "model", name), "model", name)
            path = f"{name}/{model.status.get('aliases', {}).get(alias, alias)}"
        logged = path.startswith("m-") and snapshot.find(tenant, LOGGED, path.split("/", 1)[0]) is not None
        path = f"models/{path}" if logged else f"versions/{path}"
    elif scheme == "runs:/":
        path = f"runs/{path}"
    return place_of(snapshot, tenant, path)


def model_files(place: Place) -> list[dict[str, str]]:
    """The ONNX file at a place, and the files beside it, which may hold its weights; `name` of those is from the
    folder of the first. Raises InvalidInput (NOT_ONNX, BAD_REQUEST)."""
    prefix = f"{place.path}/" if place.path else ""
    under = {
        path.removeprefix(prefix): str(file["digest"])
        for path, file in place.files.items()
        if "digest" in file and (path == place.path or path.startswith(prefix))
    }
    if place.path in under:
        under = {place.path.rpartition("/")[2]: under[place.path]}
    found = [path for path in under if path.endswith(".onnx")]
    if not found:
        raise _not_onnx(place, sorted(under))
    usual = [path for path in found if path.rpartition("/")[2] == MODEL_FILE]
    if len(usual or found) > 1:
        raise bad(
            f"There are {len(found)} ONNX files, {', '.join(sorted(found)[:3])} among them: which one is the model?",
            "Name it: the source may be the path of one file.",
            "source",
        )
    [main] = usual or found
    folder = main.rpartition("/")[0]
    inside = f"{folder}/" if folder else ""
    beside = [
        p for p in sorted(under) if p != main and p.startswith(inside) and not p.endswith(_TEXTS) and p != MLMODEL
    ]
    names = [main, *beside[:MOST_BESIDE]]
    return [{"digest": under[path], "name": path.removeprefix(inside)} for path in names]


def _not_onnx(place: Place, names: Sequence[str]) -> InvalidInput:
    told = f"There are {', '.join(names[:4])}{' and others' if len(names) > 4 else ''}" if names else "There is no file"
    return InvalidInput(
        f"No ONNX file is at {place.row.name}/{place.path}. {told}.",
        code="NOT_ONNX",
        where="source",
        next_action="Convert the model to ONNX and log that (`mlflow.onnx.log_model`): other formats are kept as files,"
        " and never loaded here.",
    )


def mlmodel(version: Resource) -> bytes:
    """What MLflow's clients read to load it: JSON, which is YAML too."""
    spec = version.spec
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(int(spec["trained_at"]) / 1e6))
    loaded = {"data": MODEL_FILE, "code": None}
    document = {
        "artifact_path": "model",
        "flavors": {
            "onnx": {**loaded, "providers": ["CPUExecutionProvider"], "onnx_session_options": None},
            "python_function": {**loaded, "loader_module": "mlflow.onnx", "env": None},
        },
        "model_size_bytes": spec["bytes"],
        "run_id": trainings.run_of(version) or None,
        "signature": {side: json.dumps(_tensors(spec["signature"][side])) for side in ("inputs", "outputs")},
        "utc_time_created": at,
        "metadata": {"skyriver.version": version.name, "skyriver.sha256": spec["artifact"]},
    }
    return json.dumps(document, indent=1).encode()


def _tensors(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor["name"],
            "type": "tensor",
            "tensor-spec": {"dtype": _TYPES[tensor["datatype"]], "shape": list(tensor["shape"])},
        }
        for tensor in given
    ]
