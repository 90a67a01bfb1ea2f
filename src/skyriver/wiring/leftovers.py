"""What trainings have left on the disk to attempts after them, of models that there are no more."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable

from skyriver.wiring.home import Home


def forget_leftovers(home: Home, models: Callable[[], set[str]]) -> None:
    """Checkpoints and trials of models that are not among `models`, by tenant/name. Those are asked for after the
    folders are read: what is there by then is of a model that was declared before."""
    found = []
    for folder in (home.trainings, home.studies):
        with contextlib.suppress(OSError):  # nothing was trained yet
            found += list(folder.glob("*/*"))
    if not found:
        return
    known = models()
    for path in found:
        if f"{path.parent.name}/{path.name.partition('.')[0]}" in known:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
