"""The port for processes of the cloud: jobs, replicas and stream workers."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

from skyriver.core.resources import ProcessSpec, ProcessStatus


class Compute(Protocol):
    """Starts, watches and ends processes. They live on when the control plane ends, and are adopted by the next one by
    identity (pid, start time, boot, and the token in their own report), never by pid alone.

    MUST: `ensure` is idempotent and returns without waiting for processes to get ready or to end; what is wanted and
    does not run is started (again, with growing pauses, unless `once`), what runs and is not wanted is asked to end
    (SIGTERM) and, past its grace, killed; a changed `config` is a restart, a changed `live` is handed over while it
    runs. A process that was killed is seen as not alive by the next `observe`. One caller at a time.
    """

    def observe(self) -> Mapping[str, ProcessStatus]: ...

    def ensure(self, wanted: Mapping[str, ProcessSpec], *, keep: Set[str] = frozenset()) -> None:
        """Processes in `keep` are left as they are, wanted or not."""
        ...

    def log(self, name: str, *, offset: int = 0, limit: int = 1 << 16) -> tuple[bytes, int]:
        """A piece of what the process printed, from byte `offset` (negative: that many from the end), and the offset
        after it. Empty for a process that never ran."""
        ...

    def stop_all(self) -> list[str]:
        """Ends everything recorded, waits for it, and returns the names. Nothing stays: no process, no socket file."""
        ...
