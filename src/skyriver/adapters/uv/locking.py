"""The lock of a requirements file: exact versions and hashes of all packages, chosen once and kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from skyriver.adapters.uv.cache import cache_in_use
from skyriver.adapters.uv.failures import clean, explain_failure
from skyriver.adapters.uv.index import index_options
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
    requirements = read_requirements(data, str(file))
    place = kept / f"{digest([digest(data), product.python, product.platform, dict(product.held)])[:32]}.lock"
    if not anew:
        with contextlib.suppress(FileNotFoundError, InvalidInput):
            return parse_lock(place.read_bytes())
    told("choose versions", 0, 0)
    with tempfile.TemporaryDirectory(prefix="skyriver-") as folder, cache_in_use(uv.cache, settle=False):
        held = Path(folder) / "held.txt"
        held.write_text("".join(f"{name}=={version}\n" for name, version in product.held.items()))
        asked = Path(folder) / "requirements.txt"
        asked.write_text("".join(f"{r.text}\n" for r in requirements))
        arguments = ["pip", "compile", asked.name, "--constraints", held.name, "--python-version", product.python]
        arguments += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
        done = uv.run([*arguments, *index_options(uv.variables)], cwd=Path(folder))
    if done.returncode != 0:
        raise explain_failure(done.stderr, product.held, requirements, str(file)) from UvFailed(clean(done.stderr))
    head = Lock(product.python, product.platform, ()).to_bytes()
    lock = parse_lock(head + done.stdout.encode())
    _keep(place, lock)
    return lock


def _keep(place: Path, lock: Lock) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.write_bytes(lock.to_bytes())
    temporary.replace(place)
