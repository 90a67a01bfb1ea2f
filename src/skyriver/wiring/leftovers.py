"""What trainings have left on the disk to attempts after them, of models that there are no more."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from skyriver.wiring.home import Home

_GONE: Final = ".gone-"
"""What is on its way out: nobody looks for it under that name."""


def forget_leftovers(home: Home, needed: Callable[[], Collection[str]]) -> None:
    """Checkpoints and trials of models that are not among `needed`, by tenant/name. That is asked again for each, and
    what is not is renamed before it is removed: a model that is declared anew meanwhile begins in a folder of its
    own."""
    for folder in (home.trainings, home.studies):
        with contextlib.suppress(OSError):  # nothing was trained yet
            for path in list(folder.glob("*/*")):
                if not path.name.startswith(_GONE):
                    if f"{path.parent.name}/{path.name.partition('.')[0]}" in needed():
                        continue
                    path = _set_aside(path)
                _remove(path)


def _set_aside(path: Path) -> Path:
    gone = path.with_name(f"{_GONE}{path.name}")
    _remove(gone)
    path.rename(gone)
    return gone


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
