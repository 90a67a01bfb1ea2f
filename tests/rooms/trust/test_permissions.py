import pytest

from skyriver.core.errors import InvalidInput, NotAllowed
from skyriver.trust.permissions import ROLES, Permission, check_role, permissions_of, require
from skyriver.trust.tokens import Identity


def test_each_role_holds_all_of_the_one_before() -> None:
    assert list(ROLES) == ["viewer", "reviewer", "operator", "developer", "admin"]
    viewer, reviewer, operator, developer, admin = ROLES.values()
    assert viewer < reviewer < operator < developer < admin == frozenset(Permission)


def test_a_viewer_changes_nothing() -> None:
    assert all(permission.endswith(":read") for permission in ROLES["viewer"])
    assert Permission.AUDIT_READ not in ROLES["viewer"]


def test_only_an_admin_issues_tokens_and_steers_the_cloud() -> None:
    for permission in (Permission.TOKENS_WRITE, Permission.CLOUD_ADMIN):
        assert [role for role, held in ROLES.items() if permission in held] == ["admin"]


def test_the_words_are_those_that_audit_rows_hold() -> None:
    assert sorted(permission.value for permission in Permission) == sorted(
        [
            "apps:read",
            "apps:write",
            "jobs:read",
            "jobs:run",
            "tables:read",
            "tables:write",
            "models:read",
            "models:write",
            "services:read",
            "services:write",
            "streams:read",
            "streams:write",
            "streams:erase",
            "reviews:read",
            "reviews:decide",
            "reviews:escalate",
            "decisions:approve",
            "objects:read",
            "objects:write",
            "tokens:write",
            "keys:read",
            "keys:write",
            "audit:read",
            "cloud:read",
            "cloud:admin",
        ]
    )


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize("role", ROLES)
def test_require_says_what_is_lacking(role: str, permission: Permission) -> None:
    identity = Identity("acme", "ann", role)
    if permission in ROLES[role]:
        require(identity, permission)
        return
    with pytest.raises(NotAllowed) as caught:
        require(identity, permission)
    assert caught.value.http_status == 403
    assert permission.value in caught.value.message
    assert repr(role) in caught.value.message
    assert "admin" in caught.value.next_action


def test_an_unknown_role_has_no_rights() -> None:
    assert permissions_of("owner") == frozenset()
    with pytest.raises(NotAllowed):
        require(Identity("acme", "ann", "owner"), Permission.APPS_READ)
    with pytest.raises(InvalidInput, match="viewer, reviewer, operator, developer, admin"):
        check_role("owner")
    assert check_role("viewer") == "viewer"
