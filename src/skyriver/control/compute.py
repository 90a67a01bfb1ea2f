"""The port for processes of the cloud: jobs, replicas and stream workers."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

from skyriver.core.resources import ProcessSpec, ProcessStatus


class Compute(Protocol):
    """Starts, watches and ends processes. They live on when the control plane ends, and are adopted by the next one.

    One caller at a time; none of the calls but `stop_all` waits for a process to get ready or to end.

    - Identity: a process is adopted, signalled and reported by who it is (on one machine: pid, start time, boot and the
      token that it writes in its own report), MUST never be so by its number or name alone.
    - A process that has ended MUST be seen as not alive by the next `observe`. One that ended by itself and is still
      wanted stays to be seen, with its last report, until it is started again or not wanted any more.
    - `ensure` MUST be idempotent and may assume nothing of what was said before: `wanted` is all that should run now.
      What is wanted and does not run is started; when it ended by itself, again with growing pauses.
    - With `once` it MUST NOT be started again after it ended. How it ended MUST be known, also when nobody looked while
      it did: `exit_code`, `timed_out`, `out_of_memory`. Only where the machine or whoever watches it was killed too may
      `exit_code` be None.
    - Limits MUST be held while no control plane runs: past `seconds` a process is ended (`timed_out`), beyond
      `memory_mb` too (`out_of_memory`), both counted with all that it started. `held_by` says how.
    - Another `config` of the same name is another process: the old one MUST have ended before the new one is started,
      and nothing of its report or ending is taken for the new one's. Another `live` is handed over while it runs.
    - What runs and is not wanted is asked to end (SIGTERM), past its grace killed, and then forgotten. What a process
      started MUST NOT outlive it.
    - A process that cannot be started MUST NOT keep the others from it: it is told as not alive, with the reason
      (START_FAILED) and a message in its report, and tried again with growing pauses.
    """

    def observe(self) -> Mapping[str, ProcessStatus]: ...

    def ensure(self, wanted: Mapping[str, ProcessSpec], *, keep: Set[str] = frozenset()) -> None:
        """Processes in `keep` that are there are left as they are, wanted or not."""
        ...

    def log(self, name: str, *, offset: int = 0, limit: int = 1 << 16) -> tuple[bytes, int]:
        """A piece of what the process printed, from byte `offset` (negative: that many from the end), and the offset
        after it. All attempts of a job are in one log. Empty for a process that never ran."""
        ...

    def stop_all(self) -> list[str]:
        """Ends everything recorded, waits for it, and returns the names. Nothing stays: no process, no socket file, no
        group of the kernel's. What a job told, and how it ended, is there for the next control plane: `stopped` for
        one that this call ended."""
        ...
