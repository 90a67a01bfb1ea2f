"""Trials that are done, in a file of their own: a job that is killed goes on with those that it has.

A line a trial, of JSON, synced before the next one begins. A line that was cut short is a trial that was not done: the
file is cut there, and the trial is done again. The first line says of what the trials are; where that is something else
(another space, other rows), or where a line is no trial of this format, the file begins anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from skyriver.core.errors import Unavailable
from skyriver.data.folders import replace_file
from skyriver.train.search.trial import Trial

FORMAT: Final = 2
"""Of the lines. Another one begins anew."""
CUT: Final = object()
"""What a line says that was cut short."""


class Journal:
    """`of`: what trials depend on beside their parameters. Raises Unavailable (DISK) where it cannot be kept."""

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        self._path = path
        self.trials: list[Trial] = []
        self.begun_anew = ""
        """What differs from the file that was there; "" where nothing was, or nothing does."""
        head = json.dumps({"format": FORMAT, "of": of}, sort_keys=True).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
            kept = [head, *self._kept(lines, of)]
            replace_file(path, b"".join(line + b"\n" for line in kept))
        except OSError as error:
            raise self._failed(error) from error

    def _kept(self, lines: Sequence[bytes], of: Mapping[str, Any]) -> Sequence[bytes]:
        """Those lines whose trials go on, as they are in `trials` then."""
        if not lines:
            return ()
        head = _loaded(lines[0])
        if not isinstance(head, dict) or not isinstance(head.get("of"), dict) or head.get("format") != FORMAT:
            self.begun_anew = "the format"
            return ()
        now = json.loads(json.dumps(of))
        if head["of"] != now:
            self.begun_anew = ", ".join(sorted(k for k in {*now, *head["of"]} if head["of"].get(k) != now.get(k)))
            return ()
        for place, line in enumerate(lines[1:], 1):
            told = _loaded(line)
            if told is CUT:
                return lines[1:place]
            try:
                self.trials.append(Trial.of_json(told))
            except ValueError:  # of another release, or changed by hand: what else of it is so nobody knows
                self.trials, self.begun_anew = [], f"the form of line {place + 1}"
                return ()
        return lines[1:]

    def add(self, trial: Trial) -> None:
        """Kept, once it returns."""
        try:
            with self._path.open("ab") as file:
                file.write(json.dumps(trial.to_json()).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed(error) from error
        self.trials.append(trial)

    def _failed(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"The trials of the search cannot be kept: {error.strerror}.",
            code="DISK",
            where=str(self._path),
            next_action="Make room on the disk; the search then goes on with the trials that are kept.",
        )


def _loaded(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return CUT
