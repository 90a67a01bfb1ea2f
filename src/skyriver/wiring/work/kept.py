"""What an attempt of a training leaves to the next one: which versions of its tables it reads, and its checkpoints.

A folder a job, of which a model has one: trainings of a model run one after the other, and each removes what those
before it have left.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from skyriver.core.errors import Corrupt, NotFound, disk_error
from skyriver.core.spec import StreamSpec, TableSpec
from skyriver.data.folders import make_folder, replace_file
from skyriver.release.manifest import SourceRef
from skyriver.train.kept_trees import KeptTrees
from skyriver.wiring.work.history import History, history_at, newest_history
from skyriver.wiring.work.job import Job

_HISTORY: Final = "history.json"
_TREES: Final = "trees"


@dataclass(frozen=True, slots=True)
class Kept:
    folder: Path

    @classmethod
    def of(cls, job: Job) -> Kept:
        folder = job.home.trainings / job.tenant / job.target / job.name
        for other in folder.parent.glob("*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return cls(folder)

    @property
    def workers(self) -> Path:
        """Checkpoints of a training on workers."""
        return self.folder / "workers"

    def trees(self, job: Job, function: str) -> KeptTrees:
        return KeptTrees(self.folder / _TREES, {"code": job.code["bundle"], "function": function})

    def history(self, job: Job, source: StreamSpec | TableSpec) -> History:
        """As the tables were when the first attempt began: what came meanwhile is for the next run. Raises InvalidInput
        (NO_DATA, NO_LABELS), Unavailable (DISK_FULL)."""
        return first_history(job, source, self.folder / _HISTORY)

    def done(self) -> None:
        """What came of it is kept elsewhere. Checkpoints of workers are left to those who have their lock."""
        shutil.rmtree(self.folder / _TREES, ignore_errors=True)
        with suppress(OSError):  # something of another attempt is there
            (self.folder / _HISTORY).unlink(missing_ok=True)
            self.folder.rmdir()


def first_history(job: Job, source: StreamSpec | TableSpec, path: Path) -> History:
    """The one that the file `path` names; the newest, which it then names, where there is none or it cannot be had any
    more. One asks at a time. Raises InvalidInput (NO_DATA, NO_LABELS), Unavailable (DISK_FULL)."""
    try:
        return history_at(job, source, SourceRef.model_validate_json(path.read_bytes()))
    except FileNotFoundError:
        pass
    except (OSError, ValidationError, NotFound, Corrupt) as error:
        why = str(error).splitlines()[0]
        print(f"The rows of the attempt before cannot be had any more: {why}", file=sys.stderr, flush=True)
    history = newest_history(job, source)
    try:
        make_folder(path.parent)
        replace_file(path, history.ref.model_dump_json().encode())
    except OSError as error:
        raise disk_error(error, "Which rows are trained on cannot be kept", str(path.parent)) from error
    return history
