"""What is wanted of HTTPS, as `skyriver up` is told it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsChoice:
    """What is not given stays as it was."""

    mode: str = ""
    """self-made, off, or "" for files."""
    certificate: Path | None = None
    key: Path | None = None
    address: str = ""
    port: int = 0
