"""Packages that only some trainings need: each is an extra of ours, or named in an application's requirements.txt."""

from __future__ import annotations

import importlib
from types import ModuleType

from skyriver.core.environments import to_bring
from skyriver.core.errors import InvalidInput


def missing(name: str, extra: str, wanted: str, where: str = "") -> InvalidInput:
    """The error MISSING_PACKAGE: `wanted`, one thing, needs the package `name`."""
    return InvalidInput(
        f"{wanted} needs the package {name}, which this environment does not have.",
        code="MISSING_PACKAGE",
        where=where,
        next_action=to_bring(name, extra),
    )


def package(name: str, extra: str, wanted: str, *, distribution: str = "") -> ModuleType:
    """The module `name`; `distribution`: what its package is called where it is installed from, if otherwise. Raises
    InvalidInput (MISSING_PACKAGE) without it; an error of a package that is there goes through."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise missing(distribution or name.partition(".")[0], extra, wanted) from None
