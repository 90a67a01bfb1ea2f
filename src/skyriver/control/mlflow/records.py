"""Experiments, runs and logged models of MLflow's clients as rows, and what may be written into them. Pure.

They are rows of kinds that nothing steps. All that a run holds is bounded, so that it fits into memory with the rest of
the control state: parameters, tags, files by number and characters, the values of metrics by number (`history`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from skyriver.control.mlflow.history import added, most_points
from skyriver.control.mlflow.protocol import Pairs, bad, exists
from skyriver.core.curves import Point
from skyriver.core.errors import Conflict, NotFound, QuotaExceeded
from skyriver.core.resources import Change, Delete, Put, Resource, Snapshot
from skyriver.core.tags import tagged

EXPERIMENT, RUN, LOGGED = "experiment", "run", "logged_model"
DEFAULT: Final = "0"
"""The experiment that is always there, as MLflow's clients expect."""
DELETED: Final = "DELETED"
MOST: Mapping[str, int] = {EXPERIMENT: 500, RUN: 2_000, LOGGED: 2_000}
"""Of a tenant."""
MOST_METRICS = 300
MOST_PARAMS = 500
MOST_FILES = 500
LONGEST_PATH = 500
MOST_CHARACTERS = 50_000
"""Of all parameters of a run, and of all paths of its files."""
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
_ENDED = ("FINISHED", "FAILED", "KILLED")


def experiments(snapshot: Snapshot, tenant: str) -> list[Resource]:
    """The newest first, the default one among them."""
    rows = list(snapshot.all(tenant, EXPERIMENT))
    if not any(row.name == DEFAULT for row in rows):
        rows.append(_default(tenant))
    return sorted(rows, key=lambda row: -int(row.name))


def experiment(snapshot: Snapshot, tenant: str, id: str) -> Resource:
    """Raises NotFound."""
    found = snapshot.find(tenant, EXPERIMENT, id)
    if found is None and id == DEFAULT:
        return _default(tenant)
    if found is None:
        raise NotFound(f"There is no experiment {id!r}.", next_action="`search_experiments` finds those there are.")
    return found


def _default(tenant: str) -> Resource:
    return Resource(tenant, EXPERIMENT, DEFAULT, status={"name": "Default"}, state="ACTIVE")


def new_experiment(snapshot: Snapshot, tenant: str, name: str, tags: Pairs) -> list[Change]:
    known = experiments(snapshot, tenant)
    check_free(known, name)
    number = max(int(row.name) for row in known) + 1
    row = Resource(tenant, EXPERIMENT, str(number), status={"name": name}, state="ACTIVE", since=snapshot.now)
    return [*_room(snapshot, tenant, EXPERIMENT), put(tagged(row, tags))]


def check_free(known: Iterable[Resource], name: str) -> None:
    """Raises Conflict (EXISTS)."""
    for row in known:
        if row.status["name"] == name:
            action = "Restore it, or choose another name." if row.state == DELETED else "Go on with it."
            raise exists("an experiment", name, action)


def new_run(
    snapshot: Snapshot, tenant: str, id: str, *, into: str, name: str, user: str, start_ms: int, tags: Pairs
) -> list[Change]:
    """Raises NotFound, Conflict (DELETED), QuotaExceeded (TOO_MANY)."""
    check_active(experiment(snapshot, tenant, into))
    named = {"mlflow.runName": name, "mlflow.user": user}
    row = Resource(
        tenant,
        RUN,
        id,
        spec={"experiment": into, "user": user},
        status={"name": name, "start_ms": start_ms},
        state="RUNNING",
        parent=f"{EXPERIMENT}/{into}",
        since=snapshot.now,
    )
    return [*_room(snapshot, tenant, RUN), put(tagged(row, {**{k: v for k, v in named.items() if v}, **tags}))]


def new_logged(
    snapshot: Snapshot,
    tenant: str,
    id: str,
    *,
    into: str,
    name: str,
    about: Mapping[str, str],
    params: Pairs,
    tags: Pairs,
) -> list[Change]:
    """A logged model: files of one, of which the registry makes a version. `about`: `run`, `type`."""
    check_active(experiment(snapshot, tenant, into))
    row = Resource(
        tenant,
        LOGGED,
        id,
        spec={"experiment": into, "name": name, **about},
        state="PENDING",
        parent=f"{EXPERIMENT}/{into}",
        since=snapshot.now,
    )
    return [*_room(snapshot, tenant, LOGGED), put(tagged(with_params(row, params), tags))]


def _room(snapshot: Snapshot, tenant: str, kind: str) -> Sequence[Change]:
    """One that was deleted makes room, the oldest first. Raises QuotaExceeded (TOO_MANY)."""
    rows = snapshot.all(tenant, kind)
    if len(rows) < MOST[kind]:
        return ()
    gone = min((row for row in rows if is_gone(snapshot, row)), key=lambda row: row.since, default=None)
    if gone is None:
        what = kind.replace("_", " ")
        raise QuotaExceeded(
            f"This tenant has {len(rows):,} {what}s, and {MOST[kind]:,} are kept.",
            code="TOO_MANY",
            where=kind,
            next_action=f"Delete {what}s that nobody needs: what is deleted makes room.",
        )
    return [Delete(*gone.key, gone.revision)]


def is_gone(snapshot: Snapshot, row: Resource) -> bool:
    """Deleted, or in an experiment that was."""
    if row.state == DELETED or row.kind == EXPERIMENT:
        return row.state == DELETED
    into = str(row.spec["experiment"])
    found = snapshot.find(row.tenant, EXPERIMENT, into)
    return into != DEFAULT if found is None else found.state == DELETED


def find(snapshot: Snapshot, tenant: str, kind: str, id: str) -> Resource:
    """A run or a logged model. Raises NotFound."""
    found = snapshot.find(tenant, kind, id)
    if found is None:
        what = kind.replace("_", " ")
        raise NotFound(f"There is no {what} {id!r:.80}.", next_action=f"A search finds the {what}s that there are.")
    return found


def check_active(row: Resource) -> Resource:
    """The row. Raises Conflict (DELETED) for one that was deleted."""
    if row.state == DELETED:
        what = row.kind.replace("_", " ")
        raise Conflict(
            f"The {what} {row.name} was deleted.", code=DELETED, where=row.ref, next_action="Restore it first."
        )
    return row


def put(row: Resource) -> Put:
    return Put(row, row.revision)


def updated(row: Resource, **status: Any) -> Resource:
    return replace(row, status={**row.status, **status})


def deleted(row: Resource, now: int) -> Resource:
    return replace(row, state=DELETED, since=now, status={**row.status, "was": row.state})


def restored(row: Resource, now: int) -> Resource:
    """Raises Conflict (NOT_DELETED)."""
    if row.state != DELETED:
        raise Conflict(f"{row.ref} is there.", code="NOT_DELETED", where=row.ref, next_action="Go on with it.")
    return replace(row, state=str(row.status.get("was") or "ACTIVE"), since=now)


def moved(row: Resource, status: str, end_ms: int, now: int) -> Resource:
    """A run in another of MLflow's states. Raises InvalidInput (BAD_REQUEST)."""
    if status not in STATUSES:
        raise bad(f"{status!r:.80} is no state of a run.", f"There are {', '.join(STATUSES)}.", "status")
    ends = {"end_ms": end_ms or now // 1_000} if status in _ENDED else {}
    return replace(row, state=status, since=now, status={**row.status, **ends})


def with_params(row: Resource, params: Pairs) -> Resource:
    """A parameter is written once. Raises InvalidInput (BAD_REQUEST), QuotaExceeded (TOO_MUCH)."""
    known: Pairs = dict(row.status.get("params", {}))
    for key, value in params.items():
        check_key(key, "a parameter")
        if known.setdefault(key, value) != value:
            was = known[key]
            raise bad(
                f"The parameter {key!r} of {row.name} is {was!r:.80} already, and cannot become {value!r:.80}.",
                "Log what changes as a metric or a tag; begin another run for other parameters.",
                key,
            )
    characters = sum(len(key) + len(value) for key, value in known.items())
    _check_room(row, "parameters", len(known), MOST_PARAMS, characters)
    return updated(row, params=known) if known else row


def with_metrics(row: Resource, values: Sequence[tuple[str, Point]]) -> Resource:
    """Raises InvalidInput (BAD_REQUEST), QuotaExceeded (TOO_MUCH)."""
    known: dict[str, Any] = dict(row.status.get("metrics", {}))
    points: dict[str, list[Point]] = {}
    for key, point in values:
        points.setdefault(key, []).append(point)
    names = {*known, *points}
    _check_room(row, "metrics", len(names), MOST_METRICS, 0)
    for key, more in points.items():
        check_key(key, "a metric")
        known[key] = added(known.get(key), more, most_points(len(names)))
    return updated(row, metrics=known)


def with_file(row: Resource, path: str, digest: str, size: int) -> Resource:
    """Raises InvalidInput (BAD_REQUEST), QuotaExceeded (TOO_MUCH)."""
    files = {**row.status.get("files", {}), check_path(path): {"digest": digest, "bytes": size}}
    _check_room(row, "files", len(files), MOST_FILES, sum(map(len, files)))
    return updated(row, files=files)


def files_of(row: Resource) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = row.status.get("files", {})
    return found


def check_path(path: str) -> str:
    """Names in a row, of which none is ever one on a disk."""
    parts = path.split("/")
    if len(path) > LONGEST_PATH or not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise bad(f"{path!r:.120} is no path of a file.", "Give a relative path of at most 500 characters.", "path")
    return path


def check_key(key: str, what: str) -> None:
    if not key or len(key) > 250 or not key.isprintable():
        raise bad(f"{key!r:.300} cannot name {what}.", "Give a name of 1 to 250 printable characters.", "key")


def _check_room(row: Resource, what: str, count: int, most: int, characters: int) -> None:
    if count > most or characters > MOST_CHARACTERS:
        told = f", of {characters:,} characters" if characters else ""
        limit = f", of {MOST_CHARACTERS:,} characters" if characters else ""
        raise QuotaExceeded(
            f"{row.name} would have {count:,} {what}{told}; {most:,}{limit} are possible.",
            code="TOO_MUCH",
            where=row.ref,
            next_action="Log what there is more of as a file (log_artifact, log_dict), or in a run of its own.",
        )
