"""What travels about curves of runs between the control plane and its callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict  # as in skyriver.core.contract


class Curve(TypedDict):
    """Values by step: the first and the last are there, between them as many as are kept."""

    points: Sequence[Sequence[int | float | str]]
    """[step, value, wall milliseconds], in the order of steps. A value that is no finite number is told as NaN,
    Infinity or -Infinity."""
    seen: int
    """How many were told."""
    not_finite: int
    first_not_finite: int | None
    """Step of the first of them."""


class Tracked(TypedDict):
    """What a run told step by step, and what it came of."""

    name: str
    """The run."""
    job: str
    """"" where its row is gone."""
    model: str
    version: str
    """That it made, "" where none."""
    state: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """Of the version, on its test rows."""
    data: Mapping[str, Any]
    """The versions of tables that it was trained on; of a run without a version what its job knew."""
    code: str
    """Digest of its source bundle."""
    started_at: int
    ended_at: int
    """Wall microseconds, 0: it goes on."""
    artifact: str
    """Digest of the object that holds its curves; "" while they are not kept for good."""
    step: int
    of: int
    """Steps there will be, 0: nobody said."""
    samples: int
    now: Mapping[str, float]
    """What its process took last: cores, cpu_seconds, rss_mb, peak_mb; samples_per_s."""
    curves: Mapping[str, Curve]
    system: Mapping[str, Curve]
    """Cores, MB and samples a second by step."""
