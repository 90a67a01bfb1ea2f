"""The port for the control state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from skyriver.core.resources import AuditEntry, Change, Key, Resource


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to the rows after a revision, up to `revision`."""

    revision: int
    rows: list[Resource]
    """Those that were written and are there, as they are now, ordered by (tenant, kind, name)."""
    gone: list[Key]
    """Those that were deleted and are not there now; a reader that never knew one leaves it."""


class Store(Protocol):
    """Rows of resources, their audit trail, and the fence of the one control plane that may write.

    MUST: `commit` is atomic and durable (it survives the end of the power) when it returns; it writes all
    changes with their audit entries or, raising, none (but see STORE_UNSURE). StaleWrite when a row's revision is not
    the expected one (expected 0: the row exists) or when `fence` is not the newest one that `acquire` gave. The store
    sets revision (a counter over the whole store), generation (plus one when `spec` changed), created_* and updated_*.
    Names, kinds and tenants compare exactly. Processes: many readers, one writer at a time. Threads: any number may use
    one store. The changes of a commit are made one after the other; InvalidInput when one holds what JSON cannot.
    Nothing that is given or returned is shared with the store. A reader sees a commit whole or not at all.
    A store that is away raises Unavailable and works again when it is back; when it goes away in the very moment of a
    commit, the code is STORE_UNSURE: the commit was made whole or not at all, and only reading tells.
    """

    def acquire(self, holder: str) -> int:
        """A new fence, higher than all before; whoever holds an older one can no longer write."""
        ...

    def commit(
        self, changes: Sequence[Change], *, audit: Sequence[AuditEntry], fence: int, actor: str, now: int
    ) -> list[Resource]:
        """The rows as written, in the order of the Puts among `changes`."""
        ...

    def get(self, tenant: str, kind: str, name: str) -> Resource:
        """Raises NotFound."""
        ...

    def rows(
        self, tenant: str | None = None, kind: str | None = None, *, after: str = "", limit: int | None = None
    ) -> list[Resource]:
        """Ordered by (tenant, kind, name); `after` is the last name of the page before, within one kind. Raises Corrupt
        where one of them is not what was written; its details say which, where that is known: tenant, kind, name."""
        ...

    def audit(
        self,
        tenant: str,
        *,
        after: int = 0,
        limit: int = 100,
        newest: bool = False,
        since: int = 0,
        target: str = "",
    ) -> list[dict[str, Any]]:
        """Audit rows with seq > `after`, oldest first: seq, at, tenant, actor, permission, action, target, details.
        `newest`: the newest first, with seq < `after`, or from the end on for 0. Only those that were written at
        `since` (wall microseconds) or later, and whose target is `target` or kind/`target`."""
        ...

    def revision(self) -> int:
        """The newest revision: unchanged means that nothing changed."""
        ...

    def since(self, revision: int) -> Changes | None:
        """What happened after `revision`, read at one moment. None when not all of it is known any more, then `rows`
        tells; the last 1,000 changes are always known. Costs no more than what changed."""
        ...

    def close(self) -> None: ...
