"""Who may do what: a closed set of permissions, and roles as sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from skyriver.core.errors import InvalidInput, NotAllowed
from skyriver.trust.tokens import Identity


class Permission(StrEnum):
    """`noun:verb`. Words are in audit rows and in the declared permission of every route: never rename one."""

    APPS_READ = "apps:read"
    APPS_WRITE = "apps:write"
    JOBS_READ = "jobs:read"
    JOBS_RUN = "jobs:run"
    TABLES_READ = "tables:read"
    TABLES_WRITE = "tables:write"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    SERVICES_READ = "services:read"
    SERVICES_WRITE = "services:write"
    STREAMS_READ = "streams:read"
    STREAMS_WRITE = "streams:write"
    REVIEWS_READ = "reviews:read"
    REVIEWS_DECIDE = "reviews:decide"
    REVIEWS_ESCALATE = "reviews:escalate"
    DECISIONS_APPROVE = "decisions:approve"
    STREAMS_ERASE = "streams:erase"
    OBJECTS_READ = "objects:read"
    OBJECTS_WRITE = "objects:write"
    TOKENS_WRITE = "tokens:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    AUDIT_READ = "audit:read"
    CLOUD_READ = "cloud:read"
    CLOUD_ADMIN = "cloud:admin"


# Each role holds all of the one before it.
_VIEWER = frozenset(p for p in Permission if p.endswith(":read")) - {Permission.AUDIT_READ}
# Answers cases of review.
_REVIEWER = _VIEWER | {Permission.REVIEWS_DECIDE}
# Runs what others declared: jobs, events, rollbacks; decides what reviewers hand up; sees who did what. To ask a model
# takes no more than to look.
_OPERATOR = _REVIEWER | {
    Permission.AUDIT_READ,
    Permission.REVIEWS_ESCALATE,
    Permission.JOBS_RUN,
    Permission.SERVICES_WRITE,
    Permission.STREAMS_WRITE,
    Permission.DECISIONS_APPROVE,
}
# Declares and deploys applications with their data and models.
_DEVELOPER = _OPERATOR | {
    Permission.APPS_WRITE,
    Permission.TABLES_WRITE,
    Permission.MODELS_WRITE,
    Permission.OBJECTS_WRITE,
}
# Also issues tokens and steers the cloud itself.
_ADMIN = frozenset(Permission)

ROLES: Mapping[str, frozenset[Permission]] = MappingProxyType(
    {"viewer": _VIEWER, "reviewer": _REVIEWER, "operator": _OPERATOR, "developer": _DEVELOPER, "admin": _ADMIN}
)


FIRST_TENANT = "default"
"""The tenant of the first token. Its administrators steer the cloud, all tenants of it; those of others do not."""


def check_role(role: str) -> str:
    """`role` itself, if it is one. Raises InvalidInput (BAD_ROLE) naming those there are."""
    if role not in ROLES:
        raise InvalidInput(
            f"{role!r} is not a role.", code="BAD_ROLE", next_action=f"The roles are {', '.join(ROLES)}."
        )
    return role


def permissions_of(role: str) -> frozenset[Permission]:
    """Empty for a role that is not known: a row from another version gives no rights."""
    return ROLES.get(role, frozenset())


def require(identity: Identity, permission: Permission) -> None:
    """Returns when `identity` holds `permission`. Raises NotAllowed naming the permission, the role and the roles that
    would do."""
    if permission in permissions_of(identity.role):
        return
    enough = [role for role, held in ROLES.items() if permission in held]
    raise NotAllowed(
        f"{identity.name!r} of tenant {identity.tenant!r} lacks the permission {permission.value}:"
        f" the role {identity.role!r} does not hold it.",
        where=permission.value,
        next_action=f"Use a token with the role {' or '.join(enough)}; an admin of the tenant can issue one.",
    )


def require_operator(identity: Identity) -> None:
    """Returns when `identity` is of the tenant that steers the cloud. Raises NotAllowed (NOT_OPERATOR)."""
    if identity.tenant != FIRST_TENANT:
        raise NotAllowed(
            f"What a tenant may get is not for the tenant {identity.tenant!r} to say.",
            code="NOT_OPERATOR",
            next_action=f"Ask an admin of the tenant {FIRST_TENANT!r}, who steers this cloud.",
        )
