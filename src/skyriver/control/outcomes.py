"""The route by which an application tells what became of a model's answers: business metrics, by version.

Each answer says which version gave it. The application sums up how often something came of the answers of each, and
tells it every few seconds; a rollout compares what was told while it was under way.

Reports go on for as long as the application lives, so nothing grows with their number: counts are in a row of their own
(`skyriver.core.outcomes`), the audit trail has who reports once an hour, with how many reports there were by then, and
counts are kept of the last versions, of the one that serves and of those in a rollout. What is let go is in the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from skyriver.control.cloud import Cloud
from skyriver.control.mutations import Key, Mutations, Planned, make_call
from skyriver.control.routes import TENANT, Routes, caller
from skyriver.core import contract
from skyriver.core.errors import InvalidInput
from skyriver.core.names import digest
from skyriver.core.outcomes import KIND, outcomes_of
from skyriver.core.resources import Put, Resource, Snapshot, need
from skyriver.trust.permissions import Permission

MOST_METRICS: Final = 16
"""Of a model."""
MOST_VERSIONS: Final = 10
"""Of which is kept what was told: the last ones, beside the one that serves and those in a rollout."""
AUDITED_US: Final = 3_600_000_000
MOST_ANSWERS: Final = 1_000_000
"""Of one report: some minutes of a thousand a second."""
_Count = Annotated[int, Field(strict=True, ge=0, le=MOST_ANSWERS)]


class OutcomeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    version: Annotated[int, Field(strict=True, ge=1)]
    """That gave the answers: each says it."""
    metric: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    yes: _Count
    """Of how many answers it is true."""
    of: _Count
    """Answers of which it is known, one way or the other. Since the last report, as `yes`."""


class OutcomesRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    outcomes: list[OutcomeRequest] = Field(min_length=1, max_length=200)


def add_outcomes(routes: Routes, cloud: Cloud, mutations: Mutations) -> None:
    def report(request: Request, name: str, body: OutcomesRequest, key: Key = "") -> contract.Outcomes:
        """Adds to what is known of a model's answers by version. A rollout whose guards name a metric compares what was
        told while it was under way. Sum up and send every few seconds, and send what is true and what is not at the
        same age of the answers: what is told sooner than its opposite looks like a difference."""
        who, given = caller(request), body.model_dump()
        for place, outcome in enumerate(body.outcomes):
            if outcome.yes > outcome.of:
                raise InvalidInput(
                    f"outcomes.{place}: yes={outcome.yes} are more than of={outcome.of}.",
                    code="BAD_OUTCOME",
                    where=f"outcomes.{place}",
                    next_action="`of` counts all answers of which it is known, `yes` those of which it is true.",
                )

        rollouts = cloud.loop.kinds.get("rollout")
        final = rollouts.final if rollouts is not None else frozenset()

        def plan(snapshot: Snapshot) -> Planned:
            model = need(snapshot.find(who.tenant, "model", name), "model", name)
            for outcome in body.outcomes:
                of_model = f"{name}:{outcome.version}"
                need(snapshot.find(who.tenant, "version", of_model), "version", of_model)
            told, let_go = _kept(
                _added(outcomes_of(snapshot, who.tenant, name), body), _serving(snapshot, model, final)
            )
            row = snapshot.find(who.tenant, KIND, name) or Resource(who.tenant, KIND, name, state="TOLD")
            reports, hour = int(row.status.get("reports", 0)) + 1, snapshot.now // AUDITED_US
            audited = {actor: at for actor, at in row.status.get("audited", {}).items() if at == hour}
            status = {"outcomes": told, "reports": reports, "audited": {**audited, who.name: hour}}
            return Planned(
                [Put(replace(row, status=status), row.revision)],
                {"model": name, "outcomes": told, "let_go": let_go},
                {"count": len(body.outcomes), "reports": reports},
                audited=who.name not in audited,
            )

        asked = digest([request.method, request.url.path, given])
        call = make_call(request, Permission.SERVICES_WRITE, "report_outcomes", f"model/{name}", key, asked)
        done: Any = mutations.carry_out(call, plan)
        return done  # type: ignore[no-any-return]

    path = f"{TENANT}/models/{{name}}/outcomes"
    routes.add("POST", path, Permission.SERVICES_WRITE, report, "report_outcomes", errors=[404, 409])


def _added(
    known: Mapping[str, Mapping[str, Mapping[str, int]]], body: OutcomesRequest
) -> dict[str, dict[str, dict[str, int]]]:
    """Raises InvalidInput (TOO_MANY_METRICS)."""
    told = {version: {metric: dict(counts) for metric, counts in of.items()} for version, of in known.items()}
    for outcome in body.outcomes:
        counts = told.setdefault(str(outcome.version), {}).setdefault(outcome.metric, {"yes": 0, "of": 0})
        counts["yes"] += outcome.yes
        counts["of"] += outcome.of
    metrics = {metric for of in told.values() for metric in of}
    if len(metrics) > MOST_METRICS:
        raise InvalidInput(
            f"These would be {len(metrics)} metrics of the model, and {MOST_METRICS} are possible.",
            code="TOO_MANY_METRICS",
            where="outcomes",
            next_action=f"Known are {', '.join(sorted({metric for of in known.values() for metric in of}))}.",
        )
    return told


def _serving(snapshot: Snapshot, model: Resource, final: frozenset[str]) -> set[str]:
    """Versions that get requests, or may get them again: by an alias, or in a rollout that has not ended."""
    found = {str(version) for version in model.status.get("aliases", {}).values()}
    for rollout in snapshot.all(model.tenant, "rollout"):
        if rollout.spec["model"] == model.name and rollout.state not in final:
            found |= {str(rollout.spec["to"]), str(rollout.status.get("from") or 0)}
    return found


def _kept(
    told: dict[str, dict[str, dict[str, int]]], serving: set[str]
) -> tuple[dict[str, dict[str, dict[str, int]]], list[contract.LetGo]]:
    """What is kept, and of which versions it is not."""
    last = sorted(told, key=int)[-MOST_VERSIONS:]
    kept = {version: told[version] for version in sorted(told, key=int) if version in serving or version in last}
    why = f"counts are kept of the last {MOST_VERSIONS} versions, of the one that serves and of those in a rollout"
    gone = [
        contract.LetGo(version=int(version), answers=max(counts["of"] for counts in told[version].values()), why=why)
        for version in sorted(told, key=int)
        if version not in kept
    ]
    return kept, gone
