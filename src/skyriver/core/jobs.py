"""Words of jobs that all rooms share."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Tells how far a step of a job is; `total` 0 means that it is not known. Cheap: call it as often as you like."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...
