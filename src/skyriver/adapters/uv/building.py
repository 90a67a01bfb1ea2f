"""The folder of an environment: built beside its place, put on the disk, renamed when it is whole.

    FOLDER/bin/python            the interpreter that runs jobs in it
    FOLDER/lib/.../site-packages the user's packages; a file there puts `product` behind them
    FOLDER/product               links to Skyriver and to what Skyriver brings, and to nothing else that is installed
    FOLDER/environment.json      written last: what it was built from

Who builds holds a lock beside the folder, so that two who want the same one build it once; a builder that is killed
leaves FOLDER.new, which the next one removes. Files are hard links into uv's cache: a package that several environments
have is on the disk once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skyriver.adapters.uv.cache import alone, cache_in_use
from skyriver.adapters.uv.failures import clean, explain_failure
from skyriver.adapters.uv.index import index_options
from skyriver.adapters.uv.product import Product
from skyriver.adapters.uv.running import Uv, UvFailed
from skyriver.core.environments import Lock, Locked, Requirement
from skyriver.core.errors import Conflict, disk_error
from skyriver.core.jobs import Progress
from skyriver.data.folders import make_folder, sync_folder

_MARK = "environment.json"
_JOIN = "skyriver.pth"


def is_whole(folder: Path, product: Product) -> bool:
    """Whether the environment is there, and joined to Skyriver as it is installed now."""
    return _told(folder).get("product") == product.digest and os.access(folder / "bin" / "python", os.X_OK)


def build_environment(
    uv: Uv, lock: Lock, folder: Path, told: Progress, *, asked: Sequence[Requirement] = (), where: str = ""
) -> dict[str, Any]:
    """Builds it unless it is there; what it is: `packages` (version by name), `mb` and `seconds` of its building.

    Raises InvalidInput, Conflict (PRODUCT_CONFLICT) or Unavailable, each with the package and why, and the line of the
    requirements that were `asked` for in the file `where`.
    """
    own = _own_packages(lock, uv.product)
    try:
        make_folder(folder.parent)
        with _alone(folder, told) as held:
            if not is_whole(folder, uv.product):
                _build(uv, lock, own, folder, told, held)
    except UvFailed as failed:
        raise explain_failure(str(failed), uv.product.held, asked, where) from UvFailed(clean(str(failed)))
    except OSError as error:
        raise disk_error(error, "The environment cannot be written") from error
    return {k: v for k, v in _told(folder).items() if k != "product"}


def remove_environment(folder: Path) -> None:
    """Its name goes first: what is cut off is no environment any more."""
    with _alone(folder, lambda stage, done, total: None):
        gone = folder.with_name(f"{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(folder.with_name(f"{folder.name}.new"), ignore_errors=True)
        _lock_file(folder).unlink(missing_ok=True)


def _own_packages(lock: Lock, product: Product) -> list[Locked]:
    """Those of the lock that Skyriver does not bring. What it runs on is taken from nowhere else, whatever the lock
    says."""
    if (lock.python, lock.platform) != (product.python, product.platform):
        raise Conflict(
            f"It was locked for Python {lock.python} on {lock.platform}; here are Python {product.python} and"
            f" {product.platform}.",
            code="OTHER_PLATFORM",
            next_action="`skyriver deploy APP.py` locks it for this one.",
        )
    for package in lock.packages:
        ours = product.held.get(package.name) if package.hashes else product.versions.get(package.name, "none")
        if ours not in (None, package.version):
            raise Conflict(
                f"It was locked with {package.name} {package.version}; Skyriver has {ours} now.",
                code="PRODUCT_CONFLICT",
                next_action="`skyriver deploy APP.py` locks it anew.",
            )
    return [p for p in lock.packages if product.versions.get(p.name) != p.version]


def _build(uv: Uv, lock: Lock, own: list[Locked], folder: Path, told: Progress, held: int) -> None:
    started = time.monotonic()
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with cache_in_use(uv.cache, settle=True):
        told("make the environment", 0, 0)
        made = ["venv", str(new), "--python", sys.executable, "--no-project", "--relocatable", "--no-python-downloads"]
        _run(uv, made, folder.parent, held)
        if own:
            told(f"install {len(own)} package{'s' if len(own) > 1 else ''}", 0, 0)
            wanted = new / "wanted.txt"
            wanted.write_bytes(Lock(lock.python, lock.platform, tuple(own)).to_bytes())
            install = ["pip", "install", "--python", str(new / "bin" / "python"), "--no-deps", "--require-hashes"]
            install += ["--link-mode", "hardlink", "-r", str(wanted)]
            _run(uv, [*install, *index_options(uv.variables)], folder.parent, held)
        _join(new, uv.product, lock)
        told("put it on the disk", 0, 0)
        document = {
            "product": uv.product.digest,
            "packages": {p.name: p.version for p in lock.packages},
            "installed": len(own),
            "mb": round(_bytes_of(new) / 1e6, 1),
            "seconds": round(time.monotonic() - started, 2),
        }
        (new / _MARK).write_text(json.dumps(document))
    old = folder.with_name(f"{folder.name}.gone")
    if folder.exists():  # joined to another installation of Skyriver
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _run(uv: Uv, arguments: list[str], cwd: Path, held: int) -> None:
    done = uv.run(arguments, cwd=cwd, holding=(held,))
    if done.returncode != 0:
        raise UvFailed(done.stderr)


def _join(new: Path, product: Product, lock: Lock) -> None:
    """Behind the user's own packages come Skyriver's. Paths are relative, so that a home can be moved."""
    links = new / "product"
    links.mkdir()
    for entry in product.entries(lock):
        with contextlib.suppress(FileExistsError):  # a folder that two packages share
            (links / entry.name).symlink_to(entry)
    packages = next((new / "lib").glob("python*/site-packages"))
    (packages / _JOIN).write_text(os.path.relpath(links, packages) + "\n")


@contextlib.contextmanager
def _alone(folder: Path, told: Progress) -> Iterator[int]:
    """Holds the lock of this environment; waits for another process that builds it."""
    while True:
        descriptor = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not alone(descriptor):
            told("wait for who builds it already", 0, 0)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), _lock_file(folder).stat()):
                break
        os.close(descriptor)  # its holder removed it
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _told(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _MARK).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found


def _bytes_of(folder: Path) -> int:
    """What it would have alone on a disk: files that others share count in full, links to others do not."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink())
