"""What a function of `@app.job` gets: its parameters and inputs, and where it puts what it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from skyriver.core.curves import Tell, untold
from skyriver.core.errors import InvalidInput, NotFound
from skyriver.core.jobs import Progress
from skyriver.core.names import check_artifact
from skyriver.core.objects import Objects

ARTIFACT_LIMIT = 1_000


class Job:
    """One attempt of a job. Made without a cloud, as in `sr.Job(params={"day": "2026-01-01"})`, it serves a test: it
    keeps in memory what is saved."""

    def __init__(
        self,
        name: str = "job",
        *,
        params: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        index: int = 0,
        attempt: int = 1,
        slot: str = "",
        objects: Objects | None = None,
        progress: Progress | None = None,
        tell: Tell = untold,
    ) -> None:
        self.name = name
        self.params = dict(params or {})
        self.index = index
        """Its number in its array, from 0."""
        self.attempt = attempt
        """1, and one more with each retry."""
        self.slot = slot
        """The time of the schedule that it runs for, as ISO 8601 in UTC; "" when it was asked for."""
        self.artifacts: dict[str, dict[str, Any]] = {}
        """What was saved: SHA-256 and bytes by name."""
        self._outputs = dict(outputs or {})
        self._objects = objects
        self._progress = progress
        self._tell = tell
        self._memory: dict[str, bytes] = {}

    @property
    def inputs(self) -> dict[str, Any]:
        """What the jobs that it needs returned, by their names; of an array the list."""
        return {
            name: [one.get("result") for one in given] if isinstance(given, list) else given.get("result")
            for name, given in self._outputs.items()
        }

    def save(self, name: str, data: bytes | str | Path) -> str:
        """Keeps bytes, a text or a file as an artifact of this job; returns its SHA-256. The same name again is another
        artifact in its place."""
        check_artifact(name)
        if name not in self.artifacts and len(self.artifacts) >= ARTIFACT_LIMIT:
            raise InvalidInput(
                f"A job has at most {ARTIFACT_LIMIT} artifacts.",
                code="TOO_MANY_ARTIFACTS",
                next_action="Put several files into one archive.",
            )
        if not isinstance(data, bytes | str | Path):
            raise InvalidInput(
                f"The artifact {name} is of the type {type(data).__name__}.",
                code="BAD_ARTIFACT",
                next_action="Give bytes, a text, or the pathlib.Path of a file.",
            )
        data = data.encode() if isinstance(data, str) else data
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        self.artifacts[name] = {"digest": self._put(data), "bytes": size}
        return str(self.artifacts[name]["digest"])

    def open(self, name: str, *, of: str = "", index: int | None = None) -> BinaryIO:
        """An artifact of this job, or of one that it needs; `of` and `index` say which, where several have one of that
        name. Raises NotFound, InvalidInput (WHICH)."""
        found = [
            (job, artifacts[name]["digest"])
            for job, number, artifacts in self._known()
            if name in artifacts and of in ("", job) and index in (None, number)
        ]
        if not found:
            there = sorted(
                {f"{job}: {known}" if job else known for job, _, artifacts in self._known() for known in artifacts}
            )
            raise NotFound(
                f"There is no artifact {name!r}.",
                code="NO_ARTIFACT",
                next_action=f"There are {', '.join(there)}." if there else "None was saved.",
            )
        if len(found) > 1:
            raise InvalidInput(
                f"{len(found)} jobs have an artifact {name!r}.",
                code="WHICH",
                next_action="Say which with of= or index=.",
            )
        digest = found[0][1]
        if self._objects is not None:
            return self._objects.open_path(digest).open("rb")
        return BytesIO(self._memory[digest])

    def progress(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Tells how far it is; cheap."""
        if self._progress is not None:
            self._progress(str(stage), int(done), int(total))

    def report(self, step: int, *, samples: int = 0, of: int = 0, **values: Any) -> None:
        """Tells numbers by name at a step, as in `job.report(epoch, of=10, loss=0.3)`: they become curves, as those of
        `TrainingData.report`."""
        self._tell(step, values, samples, of)

    def _known(self) -> Iterator[tuple[str, int | None, Mapping[str, Any]]]:
        yield "", None, self.artifacts
        for job, given in self._outputs.items():
            if isinstance(given, list):
                yield from ((job, number, one.get("artifacts", {})) for number, one in enumerate(given))
            else:
                yield job, None, given.get("artifacts", {})

    def _put(self, data: bytes | Path) -> str:
        if self._objects is not None:
            return self._objects.put_file(data) if isinstance(data, Path) else self._objects.put(data)
        kept = data.read_bytes() if isinstance(data, Path) else data
        digest = hashlib.sha256(kept).hexdigest()
        self._memory[digest] = kept
        return digest
