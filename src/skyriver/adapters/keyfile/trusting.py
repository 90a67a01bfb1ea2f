"""Trusted keys as a file: `TrustStore` on one machine."""

from __future__ import annotations

from pathlib import Path

from skyriver.trust.trusted import Trusted, read_trusted, write_trusted


class TrustFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Trusted | None:
        return read_trusted(self._path)

    def write(self, trusted: Trusted) -> None:
        write_trusted(self._path, trusted)
