"""The trainings of this cloud as MLflow's clients see them: an experiment a model, a run a training. Read only, and
computed from the rows that there are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from skyriver.core.errors import Conflict, NotFound
from skyriver.core.resources import Resource, Snapshot

PREFIX: Final = "model."
"""Of the ids of such experiments: those of others are numbers."""
_STATES: Mapping[str, str] = {
    "PENDING": "SCHEDULED",
    "QUEUED": "SCHEDULED",
    "SUCCEEDED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELLED": "KILLED",
}


@dataclass(frozen=True, slots=True)
class Training:
    """`job` is its training, as far as its row is still there; `version` what it made."""

    id: str
    model: str
    job: Resource | None
    version: Resource | None

    @property
    def state(self) -> str:
        if self.job is None or (self.version is not None):
            return "FINISHED"
        return _STATES.get(self.job.state, "RUNNING")

    @property
    def start_us(self) -> int:
        made = self.job if self.job is not None else self.version
        return made.created_at if made is not None else 0

    @property
    def end_us(self) -> int:
        if self.version is not None:
            return self.version.created_at
        return self.job.since if self.job is not None and self.state in ("FINISHED", "FAILED", "KILLED") else 0

    @property
    def user(self) -> str:
        made = self.job if self.job is not None else self.version
        return made.created_by if made is not None else ""

    @property
    def params(self) -> dict[str, str]:
        given: Mapping[str, Any] = self.job.spec.get("params") or {} if self.job is not None else {}
        known: Mapping[str, Any] = self.version.spec.get("params") or {} if self.version is not None else {}
        return {name: str(value) for name, value in {**given, **known}.items()}

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.version.spec.get("metrics") or {}) if self.version is not None else {}


def trained_models(snapshot: Snapshot, tenant: str) -> list[Resource]:
    return [m for m in snapshot.all(tenant, "model") if (m.spec.get("model") or {}).get("train")]


def trainings(snapshot: Snapshot, tenant: str, model: str) -> list[Training]:
    """The newest first."""
    jobs = {
        run_named(job.name): job
        for job in snapshot.all(tenant, "job")
        if job.spec.get("kind") == "train" and job.spec.get("target") == model
    }
    versions = {
        run_named(str(v.spec.get("job"))): v
        for v in snapshot.all(tenant, "version")
        if v.spec.get("model") == model and v.spec.get("split")
    }
    found = [Training(ident, model, jobs.get(ident), versions.get(ident)) for ident in {**versions, **jobs}]
    return sorted(found, key=lambda training: training.start_us, reverse=True)


def training(snapshot: Snapshot, tenant: str, id: str) -> Training | None:
    for model in trained_models(snapshot, tenant):
        if id.startswith(f"{model.name}-"):
            found = next((t for t in trainings(snapshot, tenant, model.name) if t.id == id), None)
            if found is not None:
                return found
    return None


def model_of(snapshot: Snapshot, tenant: str, id: str) -> str:
    """The model of such an experiment. Raises NotFound."""
    name = id.removeprefix(PREFIX)
    if not any(model.name == name for model in trained_models(snapshot, tenant)):
        raise NotFound(f"There is no experiment {id!r:.80}.", next_action="`search_experiments` finds those there are.")
    return name


def check_not_ours(snapshot: Snapshot, tenant: str, id: str) -> None:
    """Raises Conflict (READ_ONLY) for an experiment or run that is a training of this cloud."""
    if id.startswith(PREFIX) or training(snapshot, tenant, id) is not None:
        raise Conflict(
            f"{id!r:.80} is a training of this cloud: what it says is what it did, and nobody writes into it.",
            code="READ_ONLY",
            where=id[:80],
            next_action="Log into a run of your own, of another experiment.",
        )


def run_of(version: Resource) -> str:
    """The run that a version came of; "" where none is known."""
    if told := (version.spec.get("origin") or {}).get("run"):
        return str(told)
    return run_named(str(version.spec.get("job"))) if version.spec.get("split") else ""


def run_named(job: str) -> str:
    """The run that a job of a training belongs to."""
    return job.removesuffix("-train").removesuffix("-compress")
