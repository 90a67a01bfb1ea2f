"""Environments on this machine: for the command line that deploys, and for the control plane that starts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skyriver.adapters.uv.building import build_environment, is_whole, remove_environment
from skyriver.adapters.uv.index import settings_of
from skyriver.adapters.uv.locking import lock_requirements
from skyriver.adapters.uv.product import this_product
from skyriver.adapters.uv.running import Uv
from skyriver.control.environments import UNUSED_US, again
from skyriver.control.store import Store
from skyriver.core.environments import KIND, REQUIREMENTS, apart, read_requirements
from skyriver.core.errors import Conflict, InvalidInput, SkyriverError, Unavailable, from_problem
from skyriver.core.jobs import Progress
from skyriver.core.resources import Snapshot
from skyriver.trust.secretfile import write_secret
from skyriver.wiring.home import Home

log = logging.getLogger("skyriver.control")


def declare(file: Path, home: Home, told: Progress, *, upgrade: bool) -> tuple[Mapping[str, Any], bytes]:
    """What the file declares, as `specification_of` tells it, executed in the environment of the requirements beside
    it, and the lock of these. The environment is the one that its jobs will have: built here once, with the settings of
    whoever deploys."""
    home.make()
    uv = Uv(home.packages, this_product(), dict(os.environ))
    requirements = file.parent / REQUIREMENTS
    lock = lock_requirements(uv, requirements, home.environments / "locks", told, anew=upgrade)
    asked = read_requirements(requirements.read_bytes(), str(requirements))
    folder = home.environments / lock.digest
    build_environment(uv, lock, folder, told, asked=asked, where=str(requirements))
    told(f"execute {file.name}", 0, 0)
    return _execute(file, folder), lock.to_bytes()


def _execute(file: Path, environment: Path) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory(prefix="skyriver-") as answers:
        answer = Path(answers) / "answer.json"
        command = [str(environment / "bin" / "python"), "-m", "skyriver.wiring.specification", str(file), str(answer)]
        done = subprocess.run(command, env=apart(os.environ), stdout=sys.stderr, check=False)
        if not answer.is_file():
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
            raise InvalidInput(
                f"Executing the file ended with {how}.",
                code="APP_FILE_FAILED",
                where=str(file),
                next_action="An application's file declares; it must not end the process.",
            )
        found: dict[str, Any] = json.loads(answer.read_bytes())
    if problem := found.get("problem"):
        raise from_problem(problem["status"], problem)
    return found


def keep_package_settings(home: Home) -> None:
    """Writes down, for the builds of this cloud, where this control plane would look for packages. Where nothing is
    said of it, what an earlier one was told goes on to count."""
    if settings := settings_of(os.environ):
        try:
            write_secret(home.package_settings, json.dumps(settings).encode())
        except Unavailable as error:
            log.warning("settings for packages are not kept: %s", error)


def mend_environments(store: Store, home: Home, fence: int, now: int) -> None:
    """What is no longer as its row says: an environment whose folder is gone, or that was joined to another version of
    Skyriver or Python, is built again; a folder that no row names is removed, unless somebody is about to deploy."""
    try:
        rows = store.rows(kind=KIND)
        for row in rows:
            if row.state == "READY" and not is_whole(home.environments / row.spec["lock"], this_product()):
                lost = again(Snapshot({}, {}, {}, now), row, "lost")
                with contextlib.suppress(Conflict):  # the loop has changed it meanwhile
                    store.commit([lost], audit=(), fence=fence, actor="system", now=now)
        known = {row.spec["lock"] for row in rows}
        for folder in home.environments.glob("?" * 64):
            if folder.name not in known and now - folder.lstat().st_mtime_ns // 1_000 > UNUSED_US:
                remove_environment(folder)
    except (SkyriverError, OSError) as error:  # the next start tries again; jobs that need one say what is wrong
        log.warning("environments are not looked after: %s", error)
