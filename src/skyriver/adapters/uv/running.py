"""Runs uv, which comes as a wheel with the package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uv

from skyriver.adapters.uv.product import Product
from skyriver.core.errors import Unavailable

STALE_SECONDS = "30"
"""How long uv waits for a server that says nothing."""


class UvFailed(Exception):
    """All that uv printed, for the log: people are told a SkyriverError that it is the cause of."""


@dataclass(frozen=True, slots=True)
class Uv:
    """uv on this machine: with its cache, the product that environments are joined to, and variables that say from
    where packages come."""

    cache: Path
    product: Product
    variables: Mapping[str, str]

    def run(
        self, arguments: Sequence[str], *, cwd: Path, holding: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """One command, to its end. Locks in `holding` are held by uv too: should this process be killed, nobody else
        takes them while uv still writes. Raises Unavailable (NO_UV)."""
        try:
            binary = uv.find_uv_bin()
        except FileNotFoundError as error:
            raise Unavailable(
                "uv is not installed with Skyriver.",
                code="NO_UV",
                next_action=f"`{sys.executable} -m pip install uv` brings it.",
            ) from error
        settings = {"UV_HTTP_TIMEOUT": STALE_SECONDS, **self.variables, "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
        settings.pop("VIRTUAL_ENV", None)  # each command names its interpreter
        return subprocess.run(
            [binary, *arguments, "--cache-dir", str(self.cache), "--quiet"],
            env=settings,
            cwd=cwd,
            pass_fds=holding,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
