"""What Skyriver itself brings: packages, at the versions that are installed here.

A user's environment sees these and nothing else of the installation, so that what an application can import depends on
its requirements file and on Skyriver's version, not on what else somebody installed here.

What Skyriver itself runs on is `held`: its code is in the job's process, and was tested with these. What it only hands
on to a training (torch, Keras ...) lies `beside`, and gives way to another version that a requirements file asks for,
as long as the version is one of those that Skyriver works with (docs/decisions/0072).
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import skyriver
from skyriver.core.environments import Lock, canonical
from skyriver.core.names import digest

PACKAGE = "skyriver"
_NEEDS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*([^;]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_NOT_OURS = frozenset({"dev"})
"""Extras of ours whose packages no job needs."""
_OF_TRAININGS = frozenset({"augment", "images", "keras", "search", "sklearn", "torch", "xgboost"})
"""Extras of ours that a training uses, if its application has them; the others hold up the cloud itself."""
_OF_REPLICAS = frozenset({"images"})
"""Of these, what our own code uses in replicas alone, which run in no user's environment."""


@dataclass(frozen=True, slots=True)
class Product:
    python: str
    platform: str
    held: dict[str, str]
    """Version by canonical name, of all that Skyriver runs on."""
    beside: dict[str, str] = field(default_factory=dict)
    """And of what only trainings use, of the extras that are installed."""
    ranges: tuple[str, ...] = ()
    """Which versions of these Skyriver works with, installed or not, as in `keras>=3.12`."""

    @property
    def versions(self) -> dict[str, str]:
        return {**self.beside, **self.held}

    @property
    def digest(self) -> str:
        """Changes with everything that an environment is joined to."""
        return digest([self.python, self.platform, sys.prefix, str(_own_package()), dict(self.held), dict(self.beside)])

    def entries(self, lock: Lock) -> Iterator[Path]:
        """The files and folders at the top of the installation that carry what an environment of this lock sees."""
        yield _own_package()
        for name in (*self.held, *self._seen(lock)):
            found = distribution(name)
            tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__", "bin", PACKAGE}
            yield from (path for top in sorted(tops) if (path := Path(str(found.locate_file(top)))).exists())

    def _seen(self, lock: Lock) -> Collection[str]:
        """Of what lies beside: not what the environment has in another version, nor what was installed to go with ours
        and was not chosen together with the other one."""
        chosen = {package.name: package.version for package in lock.packages}
        seen = {name for name, version in self.beside.items() if chosen.get(name, version) == version}
        while left := {n for n in seen - chosen.keys() if _needed_by(n) & (self.beside.keys() - seen)}:
            seen -= left
        return sorted(seen)


@cache
def this_product() -> Product:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    platform = sysconfig.get_platform().lower()
    try:
        own = distribution(PACKAGE)
    except PackageNotFoundError:  # run from a bare source tree
        return Product(python, platform, {})
    extras = set(own.metadata.get_all("Provides-Extra") or ()) - _NOT_OURS
    held = _installed(own, extras - _OF_TRAININGS)
    beside = {n: v for n, v in _installed(own, extras).items() if n not in held}
    return Product(python, platform, held, beside, tuple(_ranges(own)))


def _own_package() -> Path:
    return Path(skyriver.__file__).parent


def _installed(own: Distribution, extras: Collection[str]) -> dict[str, str]:
    """Version by name of what `own` needs with these extras, and what that needs, sorted."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    front = list(_needs(own, {"", *extras}))
    while front:
        name, extra = front.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another platform, or of an extra that is not installed
            continue
        found[name] = package.version
        front += _needs(package, {extra})
    found.pop(PACKAGE, None)  # an extra of ours may name another
    return dict(sorted(found.items()))


def _needed_by(name: str) -> set[str]:
    return {needed for needed, _ in _needs(distribution(name), set())}


def _needs(package: Distribution, extras: set[str]) -> Iterator[tuple[str, str]]:
    """(name, extra) that it requires, with "" for no extra; markers of the platform count as met, for what is not
    needed here is not installed."""
    for text in package.requires or ():
        asked, _, marker = text.partition(";")
        wanted = _EXTRA.search(marker)
        found = _NEEDS.match(asked.strip())
        if found is None or (wanted[1] if wanted else "") not in extras | {""}:
            continue
        for extra in ("", *(part.strip() for part in (found[2] or "").split(",") if part.strip())):
            yield canonical(found[1]), extra


def _ranges(own: Distribution) -> Iterator[str]:
    for text in own.requires or ():
        wanted, found = _EXTRA.search(text), _NEEDS.match(text)
        if wanted and found and wanted[1] in _OF_TRAININGS - _OF_REPLICAS and canonical(found[1]) != PACKAGE:
            yield f"{canonical(found[1])}{found[3].strip()}"
