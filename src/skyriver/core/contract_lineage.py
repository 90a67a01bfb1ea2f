"""What travels about lineage between the control plane and its callers."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict  # as in skyriver.core.contract

Edge = TypedDict("Edge", {"from": str, "to": str, "how": str, "way": str})
"""From what was before to what came of it, each `kind/name`; `way`: up, towards data and code, or down, towards what
serves and decides."""


class LineageList(TypedDict):
    items: Sequence[Edge]
