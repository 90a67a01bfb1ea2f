"""What one check of `skyriver doctor` saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Result = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    result: Result
    seen: str
    meaning: str = ""
    """Of what is not ok: what follows from it."""
    action: str = ""
    """And what to do."""
