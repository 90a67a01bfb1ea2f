"""The parts that the API works on, and what the stages of the river put into it: deployments and actions by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from skyriver.control.advisor import Advisor
from skyriver.control.alerting import Alerts
from skyriver.control.asking import Asker
from skyriver.control.compute import Compute
from skyriver.control.loop import ControlLoop
from skyriver.control.pricing import OwnedMachines, Pricing
from skyriver.control.request_log import NoRequests, RequestLog
from skyriver.control.signing import Signer
from skyriver.control.store import Store
from skyriver.core.clock import Clock
from skyriver.core.contract import Objective, RulesVersion, StreamNow
from skyriver.core.contract_cards import ModelCard
from skyriver.core.objects import Objects
from skyriver.core.resources import AuditEntry, Change, Resource, Snapshot
from skyriver.core.spec import InnerPath
from skyriver.trust.permissions import Permission
from skyriver.trust.tokens import Identity

ARTIFACT_BYTES = 100_000_000_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class DeployRequest(_Body):
    """An application as its file declares it."""

    spec: dict[str, Any]
    spec_digest: str
    code: str
    """SHA-256 of the source bundle, uploaded before."""
    main: InnerPath
    """The application file's name in the bundle."""
    files: dict[str, str] = Field(default_factory=dict)
    """Digests of the files in the bundle that models name."""
    environment: str = ""
    """Digest of the lock of its requirements, uploaded before. Empty: its jobs have what Skyriver has."""
    plan_digest: str = ""
    """Of the plan that was looked at and confirmed: any other is refused (PLAN_CHANGED). Empty: any plan will do."""


class ActionRequest(_Body):
    target: str
    """What it is done to: a table, stream, model or service."""
    params: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    lines: Sequence[Mapping[str, Any]]
    changes: Sequence[Change]
    operations: Sequence[str]


class PlanDeploy(Protocol):
    def __call__(
        self, snapshot: Snapshot, tenant: str, name: str, request: DeployRequest, *, prune: bool
    ) -> Deployment: ...


PlanRemoval = Callable[[Snapshot, str, str], Deployment]
"""Of an application: (snapshot, tenant, name)."""
ViewStream = Callable[[Snapshot, Resource], StreamNow]
"""What a stream does now."""
PlanDelete = Callable[[Snapshot, str, str], Sequence[Resource]]
"""Of a model that no application declares: what goes with it, itself first."""
RegisterModel = Callable[[Snapshot, str, str], Resource]
"""A model that no application declares: (snapshot, tenant, name)."""
WriteCard = Callable[[Resource], ModelCard]
"""Of a version."""
ViewObjective = Callable[[Snapshot, Resource], Objective | None]
"""Whether a service keeps its objective now; None of one that declares none."""
PlanAction = Callable[[Snapshot, str, str, Mapping[str, Any], Mapping[str, Any]], list[Resource]]


class ListRules(Protocol):
    def __call__(self, snapshot: Snapshot, stream: Resource) -> Sequence[RulesVersion]: ...


class GetRules(Protocol):
    def __call__(self, snapshot: Snapshot, stream: Resource, number: int) -> RulesVersion: ...


class AddRules(Protocol):
    def __call__(
        self, snapshot: Snapshot, stream: Resource, body: Mapping[str, Any], *, actor: str
    ) -> tuple[Sequence[Change], RulesVersion]: ...


class MoveRules(Protocol):
    def __call__(
        self, snapshot: Snapshot, stream: Resource, number: int, to: str, body: Mapping[str, Any], *, actor: str
    ) -> tuple[Sequence[Change], RulesVersion]:
        """`to`: shadow, canary, promote or drop."""
        ...


@dataclass(frozen=True, slots=True)
class RulesActions:
    """What can be asked of versions of a stream's rules."""

    list: ListRules
    get: GetRules
    add: AddRules
    move: MoveRules


@dataclass(frozen=True, slots=True)
class Actions:
    """What the stages of the river offer: how an application is deployed and removed, and what can be asked for by
    name."""

    deploy: PlanDeploy
    remove: PlanRemoval
    named: Mapping[str, tuple[Permission, PlanAction]]
    stream_now: ViewStream
    card: WriteCard
    rules: RulesActions
    register: RegisterModel
    delete_model: PlanDelete


@dataclass(frozen=True, slots=True)
class Cloud:
    """The parts that the API works on."""

    store: Store
    objects: Objects
    compute: Compute
    loop: ControlLoop
    clock: Clock
    fence: int
    actions: Actions
    uploads: Path
    """A directory for uploads on their way into the objects."""
    asker: Asker
    requests: RequestLog = NoRequests()  # noqa: RUF009  # it holds nothing
    signer: Signer | None = None
    """Of versions; None: this cloud does not sign."""
    alerts: Alerts | None = None
    """Receivers of messages about incidents; None: there are none."""
    prices: Pricing = OwnedMachines()  # noqa: RUF009  # it holds nothing
    advisor: Advisor | None = None
    """Of what would cost less; None: there is none."""
    objective: ViewObjective | None = None
    """None: nobody counts what is in time."""
    artifact_bytes: int = ARTIFACT_BYTES
    """That a tenant's MLflow clients may upload in all: objects are never freed."""

    def commit(
        self,
        identity: Identity,
        permission: Permission,
        action: str,
        target: str,
        changes: Sequence[Change],
        details: Sequence[Mapping[str, Any]],
        *,
        wakes: bool = True,
    ) -> None:
        """Writes `changes` and who made them, together or not at all: an audit row for each of the `details`."""
        who, what = (identity.tenant, identity.name, permission.value), (action, target)
        audit = [AuditEntry(*who, *what, each) for each in details]
        self.store.commit(changes, audit=audit, fence=self.fence, actor=identity.name, now=self.clock.wall())
        if wakes:
            self.loop.wake()
