"""The lock of a requirements file: exact versions and hashes of all packages, chosen once and kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from skyriver.adapters.uv.brought import known_wheels
from skyriver.adapters.uv.cache import cache_in_use
from skyriver.adapters.uv.failures import clean, explain_failure
from skyriver.adapters.uv.index import also_from
from skyriver.adapters.uv.running import Uv, UvFailed
from skyriver.core.environments import Lock, parse_lock, read_requirements
from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import Progress
from skyriver.core.names import digest


def lock_requirements(uv: Uv, file: Path, kept: Path, told: Progress, *, anew: bool) -> Lock:
    """The lock of `file`, with Skyriver's own packages at their versions. The same file gives the same lock, without a
    network, until the file, Skyriver or Python changes or it is asked for `anew`: locks are kept in the folder `kept`.

    Raises InvalidInput naming the line and why it cannot be had, or Unavailable.
    """
    data, product = file.read_bytes(), uv.product
    versions = [dict(product.held), dict(product.beside), product.ranges]
    requirements = read_requirements(data, str(file))
    place = kept / f"{digest([digest(data), product.python, product.platform, *versions])[:32]}.lock"
    if not anew:
        with contextlib.suppress(FileNotFoundError, InvalidInput):
            return parse_lock(place.read_bytes())
    told("choose versions", 0, 0)
    with tempfile.TemporaryDirectory(prefix="skyriver-") as folder, cache_in_use(uv.cache, settle=False):
        held = Path(folder) / "held.txt"
        held.write_text("".join(f"{line}\n" for line in (*_pins(product.held), *product.ranges)))
        chosen = Path(folder) / "chosen.txt"  # what uv finds in it already, it takes if it can
        chosen.write_text("".join(f"{line}\n" for line in _pins(product.beside)))
        asked = Path(folder) / "requirements.txt"
        asked.write_text("".join(f"{r.text}\n" for r in requirements))
        arguments = ["pip", "compile", asked.name, "--constraints", held.name, "--output-file", chosen.name]
        arguments += ["--python-version", product.python, "--generate-hashes"]
        arguments += ["--no-header", "--no-annotate", "--no-emit-index-url"]
        variables, options = also_from(known_wheels(product, uv.cache), uv.variables)
        done = replace(uv, variables=variables).run([*arguments, *options], cwd=Path(folder))
        if done.returncode != 0:
            raise explain_failure(done.stderr, product.held, requirements, str(file), product.ranges) from UvFailed(
                clean(done.stderr)
            )
        lock = parse_lock(Lock(product.python, product.platform, ()).to_bytes() + chosen.read_bytes())
    brought = product.versions.items()
    packages = [replace(p, hashes=()) if (p.name, p.version) in brought else p for p in lock.packages]
    lock = replace(lock, packages=tuple(packages))
    _keep(place, lock)
    return lock


def _pins(versions: Mapping[str, str]) -> Iterator[str]:
    return (f"{name}=={version}" for name, version in versions.items())


def _keep(place: Path, lock: Lock) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.write_bytes(lock.to_bytes())
    temporary.replace(place)
