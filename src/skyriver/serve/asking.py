"""Scoring many rows, as it is asked for: of a table or files, into a table or a file; checked before a job begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skyriver.core.errors import Conflict, InvalidInput, NotFound
from skyriver.core.jobs import ENDED, new_job, new_operation, next_number
from skyriver.core.names import ModelRef, check_artifact, check_name, nearest
from skyriver.core.resources import Limits, Resource, Snapshot, need
from skyriver.core.spec import AppSpec, StreamSpec, TableSpec
from skyriver.data.operations import FORMATS, check_uploaded
from skyriver.release.registered import app_of, is_registered
from skyriver.release.signature import Signature, answer_names
from skyriver.serve.predicted import check_erasures
from skyriver.trust.signing import proof_of

KEPT = 10
"""Predictions of a model whose files are kept; those of older ones are removed by the next."""
MOST_CORES = 1_024
_PARAMS = ("to", "key", "max_bad", "cores")
_FILE_KEYS = ("file", "row")
"""What tells a row of a file from all others."""


def plan_predict(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Score all rows of a table (`inputs["table"]`) or of uploaded files (`inputs["files"]`, as those of a load) by
    a version of a model: `target` is MODEL, MODEL@ALIAS or MODEL:VERSION. `params`: `to`, a new table's name or that
    of a file with its ending; `key`, columns of the files that tell rows apart; `max_bad`, the share of rows that may
    be refused; `cores`."""
    if unknown := [name for name in params if name not in _PARAMS]:
        raise _bad(f"A prediction knows no parameter {unknown[0]!r}{nearest(unknown[0], _PARAMS)}.")
    ref = ModelRef.parse(target)
    model = need(snapshot.find(tenant, "model", ref.model), "model", ref.model)
    app = app_of(snapshot, model)
    version = _version(snapshot, model, ref)
    source, keys = _source(snapshot, tenant, version, params, inputs)
    check_erasures(snapshot, model, str(inputs.get("table") or ""))
    to = params.get("to") or f"{model.name}-predictions"
    cores = params.get("cores", 1)
    if type(cores) is not int or not 1 <= cores <= MOST_CORES:
        raise _bad(f"{cores!r} is no number of cores.")
    max_bad = _share(params.get("max_bad", 0.05))
    asked = {"to": to, "format": _format(to), "key": keys, "max_bad": max_bad, "cores": cores}
    name = f"{model.name}-predict-{next_number(snapshot, tenant, 'job', f'{model.name}-predict')}"
    rows: list[Resource] = []
    if asked["format"]:
        check_artifact(to)
    else:
        rows += _tables(snapshot, model, check_name(to, "a table"), [*keys, *_answers(version)])
    job = new_job(
        snapshot,
        app,
        kind="predict",
        target=model.name,
        name=name,
        lane=f"job/{name}" if asked["format"] else f"table/{to}",
        params=asked,
        inputs={**source, "version": _told(version), **_gone(snapshot, tenant, model.name)},
        tables=() if asked["format"] else (to,),
        parent=f"operation/{name}",
        limits=Limits(cpus=float(cores)),
    )
    return [new_operation(snapshot, tenant, name, action="predict", target=model.name, jobs=[name]), job, *rows]


def _version(snapshot: Snapshot, model: Resource, ref: ModelRef) -> Resource:
    number = ref.version or int(model.status.get("aliases", {}).get(ref.alias or "champion", 0))
    if not number and ref.alias in ("", "champion"):
        registered = f"`skyriver model alias {model.name} champion VERSION` names one"
        brings = registered if is_registered(model) else f"`skyriver run {model.name}` trains one"
        raise Conflict(
            f"No version of {model.name} is released yet.",
            code="NO_VERSION",
            where=model.ref,
            next_action=f"{brings}; {model.name}:1 names one that was not released.",
        )
    if not number:
        known = ", ".join(f"@{alias}" for alias in model.status.get("aliases", {})) or "none"
        raise NotFound(
            f"{model.name} has no alias {ref.alias!r}.",
            code="NO_ALIAS",
            where=model.ref,
            next_action=f"It has {known}.",
        )
    name = f"{model.name}:{number}"
    return need(snapshot.find(model.tenant, "version", name), "version", name)


def _source(
    snapshot: Snapshot, tenant: str, version: Resource, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """What is scored, and the columns that tell its rows apart."""
    table, files, key = inputs.get("table"), inputs.get("files"), params.get("key") or []
    if (table is None) == (files is None):
        raise _bad("A table is scored, or files are: name one of the two.")
    if not isinstance(key, list) or not all(isinstance(name, str) for name in key) or len(set(key)) < len(key):
        raise _bad(f"{key!r} are no names of columns.")
    if taken := [name for name in key if name in (*_FILE_KEYS, *_answers(version))]:
        raise _bad(f"The answers have a column {taken[0]!r} of their own: a key has another name.")
    if table is None:
        return {"files": _files(files)}, [*_FILE_KEYS, *key]
    if key:
        raise _bad("The rows of a table are told apart by its id; --key is for files.")
    row = need(snapshot.find(tenant, "table", str(table)), "table", str(table))
    own = need(snapshot.find(tenant, *row.parent.split("/", 1)), "app", row.parent) if row.parent else None
    app = AppSpec.model_validate(own.spec["spec"]) if own is not None and own.kind == "app" else None
    known: list[StreamSpec | TableSpec] = [*app.streams, *app.tables] if app is not None else []
    found = next((source for source in known if source.name == row.name), None)
    if found is None:
        raise InvalidInput(
            f"{table} is no table that an application declares with its fields.",
            code="NO_FIELDS",
            where=row.ref,
            next_action="Name the table of a stream, or one that is declared with app.table.",
        )
    columns = [field.name for field in found.fields]
    missing = [name for name in _inputs(version) if name not in columns]
    if missing:
        again = f"`skyriver stream replay {found.name} --model {version.name}` computes the features of its events."
        raise InvalidInput(
            f"{found.name} has no column {missing[0]!r}, which {version.name} takes.",
            code="MISSING_COLUMN",
            where=row.ref,
            next_action=again
            if isinstance(found, StreamSpec)
            else f"Score files that have {', '.join(_inputs(version)[:30])}.",
        )
    if found.id in _answers(version):
        raise _bad(f"The answers have a column {found.id!r} of their own, as the id of {found.name} is called.")
    return {"table": {"name": found.name, "id": found.id}}, [found.id]


def _files(files: object) -> list[dict[str, str]]:
    if not isinstance(files, list) or not files:
        raise _bad("A prediction needs at least one file.", "NO_FILES")
    check_uploaded(files)
    return [{"digest": f["digest"], "name": str(f.get("name", "")), "format": f["format"]} for f in files]


def _inputs(version: Resource) -> list[str]:
    fields = version.spec.get("fields")
    if fields is not None:
        return [str(field["name"]) for field in fields]
    return [tensor.name for tensor in Signature.from_json(version.spec["signature"]).inputs]


def _answers(version: Resource) -> list[str]:
    """The columns of answers."""
    names = [name for name, _ in answer_names(Signature.from_json(version.spec["signature"]))]
    return [*names, "model", "version"]


def _told(version: Resource) -> dict[str, Any]:
    told = {name: version.spec.get(name) for name in ("model", "version", "artifact", "fields")}
    return told | {"proof": proof_of(version)}


def _format(to: object) -> str:
    """ "" for a table."""
    if not isinstance(to, str):
        raise _bad(f"{to!r} is neither a table nor a file.")
    _, dot, ending = to.rpartition(".")
    if dot and ending not in FORMATS:
        raise InvalidInput(
            f"{to} is of no format that is written.",
            code="UNKNOWN_FORMAT",
            where="--to",
            next_action=f"Name a table, or a file that ends in .{', .'.join(FORMATS)}.",
        )
    return ending if dot else ""


def _share(told: object) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told <= 1:
        raise _bad(f"max_bad is {told!r}: a share from 0 to 1.")
    return float(told)


def _tables(snapshot: Snapshot, model: Resource, to: str, columns: Sequence[str]) -> list[Resource]:
    """Tables that are to be made, of answers and of rows that are refused. Raises Conflict (TABLE_TAKEN)."""
    current = snapshot.find(model.tenant, "table", to)
    spec = {"source": "predictions", "columns": list(columns)}
    if current is None:
        names = (to, f"{to}.dead")
        return [Resource(model.tenant, "table", name, spec=spec, state="EMPTY", parent=model.ref) for name in names]
    if current.parent != model.ref or current.spec.get("columns") != spec["columns"]:
        has = ", ".join(current.spec.get("columns") or ()) or "rows of its own"
        raise Conflict(
            f"The table {to} has {has}; these answers have {', '.join(columns)}.",
            code="TABLE_TAKEN",
            where=current.ref,
            next_action="Name another table with --to.",
        )
    return []


def _gone(snapshot: Snapshot, tenant: str, model: str) -> dict[str, list[str]]:
    """What the job is to remove: pieces of jobs that ended, and files of all but the newest predictions."""
    jobs = [j for j in snapshot.all(tenant, "job") if j.spec["kind"] == "predict"]
    ended = [j for j in jobs if j.state in ENDED]
    mine = sorted((j for j in ended if j.spec["target"] == model), key=lambda j: j.created_at, reverse=True)
    kept: set[str] = set()
    gone: set[str] = set()
    for job in jobs:
        files = {file["digest"] for file in job.status.get("outputs", {}).get("artifacts", {}).values()}
        (gone if job in mine[KEPT - 1 :] else kept).update(files)
    return {"gone": sorted(gone - kept), "ended": [j.name for j in ended]}


def _bad(why: str, code: str = "BAD_PARAMETER") -> InvalidInput:
    return InvalidInput(why, code=code, next_action="`skyriver predict --help` says what it takes.")
