"""A control plane of one model in simulated time: the product's own step of the kind `watch`, and what it asks for.

Rows are kept as the store does, without its transactions. A look's job counts and judges with the product's functions;
a training ends at once, and its version serves at once. Nothing here decides when it is trained.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skyriver import Retrain
from skyriver.core.resources import Put, Resource, Snapshot
from skyriver.core.units import DAY
from skyriver.observe.quality import Reference, average_precision_at, judge
from skyriver.observe.watching import WATCH, new_watch
from skyriver.observe.window import Window, places_of
from skyriver.release.profiled import ModelProfile
from skyriver.wiring.work.watch import columns_of, told

WEEK = 7 * DAY


class Model(Protocol):
    profile: ModelProfile
    reference: Reference

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...


class World(Protocol):
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    at: NDArray[np.int64]
    keys: NDArray[np.int64]

    def rows(self, start: int, end: int) -> slice: ...

    def model(self, now: int) -> Any: ...


class Plane:
    """`said`: what the version that served said of each row; `by`: its number."""

    def __init__(self, world: World, retrain: Retrain) -> None:
        self._world, self._retrain = world, retrain
        self.said = np.zeros(len(world.at), np.float32)
        self.by = np.zeros(len(world.at), np.int64)
        self._rows: dict[tuple[str, str, str], Resource] = {}
        self._models: dict[int, Model] = {}
        self._begin = 0

    def live(self, start: int, end: int) -> None:
        """From the first version on, day by day."""
        self._begin = start
        model = {"model": {"name": "m", "train": {"function": "f"}}, "source": "s", "streams": True}
        for row in (
            Resource("t", "app", "a", spec={"spec": {}, "code": {}}, state="DEPLOYED"),
            Resource("t", "model", "m", spec=model, state="DECLARED", parent="app/a"),
            Resource("t", "stream", "s", spec={"decide": {"model": "m"}}, state="RUNNING"),
            new_watch("t", "a", "m", self._retrain.spec.to_json()),
        ):
            self._rows[row.key] = row
        self._serve(start)
        for now in range(start, end, DAY):
            while self._step(now):
                pass
            today = self._world.rows(now, now + DAY)
            number = max(self._models)
            self.said[today] = self._models[number].score(self._world.x[today])
            self.by[today] = number

    def causes(self) -> list[str]:
        """Of each training the day and what it was for."""
        watch = self._rows["t", "watch", "m"]
        trainings = watch.status.get("trainings", ())
        return [f"{(t['at'] - self._begin) / WEEK:.1f}: {t['cause']}: {t['why'][:80]}" for t in trainings]

    def _step(self, now: int) -> bool:
        """Whether something changed."""
        snapshot = Snapshot(dict(self._rows), {}, {}, now)
        actions = list(WATCH.step(snapshot, self._rows["t", "watch", "m"]))
        for action in actions:
            if isinstance(action, Put):
                self._rows[action.resource.key] = action.resource
            else:
                del self._rows[action.tenant, action.kind, action.name]  # type: ignore[union-attr]
        for row in [row for row in self._rows.values() if row.kind == "operation" and row.state != "SUCCEEDED"]:
            match row.spec["action"]:
                case "watch":
                    self._ended(row, result={"watch": self._drift(self._inputs(row), now)})
                case "judge":
                    self._ended(row, result={"judge": self._quality(self._inputs(row), now)})
                case "train":
                    self._ended(row, created=[self._serve(now)])
        return bool(actions)

    def _ended(self, operation: Resource, **status: Any) -> None:
        self._rows[operation.key] = replace(operation, state="SUCCEEDED", status=status)

    def _inputs(self, operation: Resource) -> dict[str, Any]:
        return dict(self._rows["t", "job", operation.spec["jobs"][-1]].spec["inputs"])

    def _serve(self, now: int) -> str:
        """A new version, of what is known now."""
        number = len(self._models) + 1
        self._models[number] = self._world.model(now)
        features = {"digest": "d"}
        spec = {"model": "m", "version": number, "trained_at": now, "profile": str(number), "features": features}
        version = Resource("t", "version", f"m:{number}", spec=spec, state="APPROVED")
        rollout = Resource("t", "rollout", f"m-{number}", spec={"model": "m"}, state="DONE", parent=version.ref)
        model = self._rows["t", "model", "m"]
        history = [*model.status.get("history", ()), {"version": number, "at": now, "cause": "release"}]
        status = {"aliases": {"champion": number}, "history": history}
        for row in (version, rollout, replace(model, status=status)):
            self._rows[row.key] = row
        return version.ref

    def _drift(self, asked: dict[str, Any], now: int) -> dict[str, Any]:
        """What the job of a look counts, of the rows that came since the one before."""
        model, before = self._models[asked["version"]], asked["before"]
        profile, world = columns_of(model.profile), self._world
        window = Window(profile, asked["window_us"])
        if before is not None and before["version"] == asked["version"]:
            window = Window.from_bytes(profile, asked["window_us"], before["object"])
        first = window.next_offset
        for day in range(self._begin, now, DAY):
            part = world.rows(day, day + DAY)
            mine = np.flatnonzero(self.by[part] == asked["version"]) + part.start
            if part.start >= first and len(mine):
                window.add(world.x[mine], self.said[mine], places_of(world.keys[mine]), int(world.at[mine[-1]]))
        window.next_offset = world.rows(0, now).stop
        return {**told(asked, window, now), "counted": {"version": asked["version"], "object": window.to_bytes()}}

    def _quality(self, asked: dict[str, Any], now: int) -> dict[str, Any]:
        """What the job of a look for quality judges, at a label's delay of a week."""
        world, model = self._world, self._models[asked["version"]]
        part = world.rows(now - WEEK - asked["window_us"], now - WEEK)
        mine = np.flatnonzero(self.by[part] == asked["version"]) + part.start
        look = asked["looks"] + 1
        found = judge(
            average_precision_at(model.reference.share),
            world.y[mine],
            self.said[mine],
            reference=model.reference,
            tolerance=asked["tolerance"],
            look=look,
        )
        judged = look if found.worse is not None else look - 1
        return {"version": asked["version"], "stream": "s", "looks": judged, **asdict(found)}
