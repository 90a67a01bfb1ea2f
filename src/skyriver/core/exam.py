"""The words of which the exams of the ports are made: a law that is broken is named."""

from __future__ import annotations

from collections.abc import Callable

from skyriver.core.errors import SkyriverError


def must(held: bool, law: str) -> None:
    """Raises AssertionError naming the law that does not hold. Not `assert`: an exam also counts under `python -O`."""
    if not held:
        raise AssertionError(f"broken law: {law}")


def must_raise(kind: type[SkyriverError], call: Callable[[], object], law: str, *, code: str = "") -> SkyriverError:
    """The error of this `kind` (and `code`, if given) that `call` raises; other errors go on to the caller."""
    try:
        call()
    except kind as error:
        must(not code or error.code == code, f"{law}: the code is {error.code}, not {code}")
        return error
    raise AssertionError(f"broken law: {law}: {kind.__name__} was not raised")
