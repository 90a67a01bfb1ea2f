"""`skyriver doctor`: every check of the machine and of the cloud in a home, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skyriver.core.errors import SkyriverError
from skyriver.wiring.doctor_cloud import CLOUD, remove_leftovers
from skyriver.wiring.doctor_machine import MACHINE
from skyriver.wiring.finding import Finding
from skyriver.wiring.home import Home


def examine(home: Home, *, fix: bool = False) -> Sequence[Finding]:
    if fix:
        remove_leftovers(home)
    return [_looked(name, check, home) for name, check in (*MACHINE.items(), *CLOUD.items())]


def _looked(name: str, check: Callable[[Home], Finding], home: Home) -> Finding:
    """A check that fails itself is a finding too."""
    try:
        return check(home)
    except SkyriverError as error:
        return Finding(name, "fail", error.message, f"{error.code}.", error.next_action or "See the message.")
    except OSError as error:
        action = "See the message; check the owner and mode of what it names."
        return Finding(name, "fail", f"It could not be examined: {error}.", "Something is in the way.", action)
