"""How a watch looks: by jobs, for drift often and for quality some times a window, and what it takes over from them.

Pure. Either kind of look has its words in the watch's status: which is under way, when it was asked for, what was seen,
and why not. The time is the control plane's own, from before the look began: what it saw is not older.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from skyriver.core.jobs import ENDED, new_job, new_operation, next_number
from skyriver.core.resources import Delete, Resource, Snapshot
from skyriver.core.spec import RetrainSpec

KEPT_LOOKS: Final = 3
JUDGED_A_WINDOW: Final = 7
"""Looks for quality: labels come slowly, and each look costs a pass over the stream's tables."""


@dataclass(frozen=True, slots=True)
class Look:
    """`word` is the kind of its job and of its operation; the others are keys of the watch's status."""

    word: Literal["watch", "judge"]
    under_way: str
    asked: str
    seen: str
    unseen: str

    def wanted(self, spec: RetrainSpec) -> bool:
        return spec.drift if self is DRIFT else spec.quality

    def every_us(self, spec: RetrainSpec) -> int:
        return spec.look_us if self is DRIFT else max(spec.look_us, spec.window_us // JUDGED_A_WINDOW)


DRIFT: Final = Look("watch", "look", "looked", "seen", "unseen")
QUALITY: Final = Look("judge", "judge", "judged", "quality", "unjudged")
LOOKS: Final = (DRIFT, QUALITY)


def taken_over(snapshot: Snapshot, watch: Resource, look: Look) -> tuple[dict[str, Any], bool]:
    """What the last look gave, if that was not taken over yet; whether one is under way."""
    name = watch.status.get(look.under_way)
    operation = snapshot.find(watch.tenant, "operation", name) if name else None
    if operation is None:
        return {look.under_way: ""} if name else {}, False
    if operation.state not in ENDED:
        return {}, True
    if operation.state != "SUCCEEDED":
        why = {"look": operation.name, "reason": operation.reason, "message": operation.message}
        return {look.under_way: "", look.unseen: why}, False
    seen = {**operation.status["result"][look.word], "asked": int(watch.status.get(look.asked, 0))}
    return {look.under_way: "", look.unseen: None, look.seen: seen}, False


def is_due(
    snapshot: Snapshot,
    model: Resource,
    version: Resource,
    status: Mapping[str, Any],
    spec: RetrainSpec,
    look: Look,
) -> bool:
    return (
        look.wanted(spec)
        and (look is QUALITY or bool(version.spec.get("profile")))
        and not 0 <= snapshot.now - int(status.get(look.asked, 0)) < look.every_us(spec)
        and (deciding_stream(snapshot, model) is not None or (look is DRIFT and bool(_counted_by_replicas(status))))
        and snapshot.find(model.tenant, *model.parent.split("/", 1)) is not None
    )


def plan_look(
    snapshot: Snapshot, watch: Resource, model: Resource, version: Resource, status: Mapping[str, Any], look: Look
) -> tuple[Resource, ...]:
    """The operation and its jobs."""
    app, stream = snapshot.find(watch.tenant, *model.parent.split("/", 1)), deciding_stream(snapshot, model)
    assert app is not None
    prefix = f"{watch.name}-{look.word}"
    name = f"{prefix}-{next_number(snapshot, watch.tenant, 'operation', prefix)}"
    spec = RetrainSpec.model_validate(watch.spec["retrain"])
    common = {"version": version.spec["version"], "window_us": spec.window_us}
    jobs = []
    if look is DRIFT:
        asked = status.get("asked") or {}
        inputs = {
            **(
                {"stream": stream.name} if stream is not None else {"since": asked["since"], "asked": asked["quarters"]}
            ),
            **common,
            "profile": version.spec["profile"],
            "features": version.spec["features"]["digest"],
            "before": (status.get(look.seen) or {}).get("counted"),
        }
    else:
        assert stream is not None
        inputs = {
            "stream": stream.name,
            **common,
            "metrics": dict(version.spec.get("metrics") or {}),
            "intervals": {name: list(ends) for name, ends in (version.spec.get("intervals") or {}).items()},
            "test": list((version.spec.get("split") or {}).get("test") or ()),
            "tolerance": spec.tolerance,
            "looks": _looks(status.get(look.seen), version),
        }
        jobs.append(
            new_job(
                snapshot,
                app,
                kind="materialise",
                target=stream.name,
                name=f"{name}-materialise",
                lane=f"table/{stream.name}",
                tables=(stream.name,),
                parent=f"operation/{name}",
            )
        )
    jobs.append(
        new_job(
            snapshot,
            app,
            kind=look.word,
            target=watch.name,
            name=name,
            lane=f"{look.word}/{watch.name}",
            inputs=inputs,
            needs=[job.name for job in jobs],
            tables=[job.spec["target"] for job in jobs],
            parent=f"operation/{name}",
        )
    )
    names = [job.name for job in jobs]
    operation = new_operation(
        snapshot, watch.tenant, name, action=look.word, target=watch.name, jobs=names, parent=watch.ref
    )
    return (operation, *jobs)


def _counted_by_replicas(status: Mapping[str, Any]) -> object:
    """Of what it was asked over HTTP, where no stream decides with it."""
    return (status.get("asked") or {}).get("quarters")


def _looks(before: Mapping[str, Any] | None, version: Resource) -> int:
    """So many have judged this version already."""
    return int(before["looks"]) if before and before["version"] == version.spec["version"] else 0


def forget(snapshot: Snapshot, watch: Resource) -> Iterator[Delete]:
    """Looks are many, and each is told by the next one."""
    for look in LOOKS:
        of_kind = [o for o in snapshot.children(watch, "operation") if o.spec["action"] == look.word]
        ended = [operation for operation in of_kind if operation.state in ENDED]
        ended.sort(key=lambda o: int(o.name.rpartition("-")[2]))
        for operation in ended[:-KEPT_LOOKS]:
            if operation.name != watch.status.get(look.under_way):
                yield from (Delete(*job.key, job.revision) for job in snapshot.children(operation, "job"))
                yield Delete(*operation.key, operation.revision)


def deciding_stream(snapshot: Snapshot, model: Resource) -> Resource | None:
    """That decides with the model."""
    streams = snapshot.all(model.tenant, "stream")
    return next((s for s in streams if (s.spec.get("decide") or {}).get("model") == model.name), None)
