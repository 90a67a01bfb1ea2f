"""What Skyriver itself brings: the packages that it needs, at the versions that are installed here.

A user's environment sees these and nothing else of the installation, so that what an application can import depends on
its requirements file and on Skyriver's version, not on what else somebody installed here.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import skyriver
from skyriver.core.environments import canonical
from skyriver.core.names import digest

PACKAGE = "skyriver"
_NEEDS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_NOT_OURS = frozenset({"dev"})
"""Extras of ours whose packages no job needs."""


@dataclass(frozen=True, slots=True)
class Product:
    python: str
    platform: str
    held: dict[str, str]
    """Version by canonical name, of all that Skyriver needs and that is installed."""

    @property
    def digest(self) -> str:
        """Changes with everything that an environment is joined to."""
        return digest([self.python, self.platform, sys.prefix, str(_own_package()), dict(self.held)])

    def entries(self) -> Iterator[Path]:
        """The files and folders at the top of the installation that carry it."""
        yield _own_package()
        for name in self.held:
            found = distribution(name)
            tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__", "bin", PACKAGE}
            yield from (path for top in sorted(tops) if (path := Path(str(found.locate_file(top)))).exists())


@cache
def this_product() -> Product:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Product(python, sysconfig.get_platform().lower(), dict(sorted(_held().items())))


def _own_package() -> Path:
    return Path(skyriver.__file__).parent


def _held() -> dict[str, str]:
    try:
        own = distribution(PACKAGE)
    except PackageNotFoundError:  # run from a bare source tree
        return {}
    extras = set(own.metadata.get_all("Provides-Extra") or ()) - _NOT_OURS
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
    return found


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
