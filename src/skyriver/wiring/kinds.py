"""All kinds of things that the cloud knows: what the live loop, the dry run, `explain` and the simulation step."""

from __future__ import annotations

from collections.abc import Mapping

from skyriver.control.environments import ENVIRONMENT
from skyriver.control.jobs import JOB
from skyriver.control.operations import OPERATION
from skyriver.control.schedules import SCHEDULE
from skyriver.core.resources import Kind
from skyriver.decide.streams.dispatcher_kind import DISPATCHER
from skyriver.decide.streams.kinds import STREAM, WORKER
from skyriver.decide.streams.rules_kind import RULES
from skyriver.observe.incident_kind import INCIDENT
from skyriver.observe.watching import WATCH
from skyriver.release.kinds import VERSION
from skyriver.release.rollouts import ROLLOUT
from skyriver.serve.activator_kind import ACTIVATOR
from skyriver.serve.kinds import REPLICA, SERVICE
from skyriver.serve.scaling_kind import SCALINGS

KINDS: Mapping[str, Kind] = {
    k.name: k
    for k in (
        JOB,
        OPERATION,
        SCHEDULE,
        ENVIRONMENT,
        VERSION,
        ROLLOUT,
        WATCH,
        INCIDENT,
        SERVICE,
        REPLICA,
        SCALINGS,
        ACTIVATOR,
        STREAM,
        WORKER,
        RULES,
        DISPATCHER,
    )
}
