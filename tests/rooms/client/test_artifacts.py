"""Artifacts are written where the user said, whatever a job calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skyriver.client import jobs
from skyriver.core.errors import InvalidInput, NotFound


class Told:
    """A cloud with one job, whose report names an artifact as `name`."""

    def __init__(self, name: str) -> None:
        self._outputs = {"artifacts": {name: {"digest": "a" * 64, "bytes": 4}}}

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get(self, kinds: str, name: str) -> dict[str, Any]:
        if kinds != "jobs":
            raise NotFound("There is none.")
        return {"name": name, "status": {"outputs": self._outputs}}

    def object(self, digest: str) -> bytes:
        return b"data"


def test_an_artifact_becomes_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "connect", lambda: Told("report.csv"))
    jobs.job_artifacts("run-1", tmp_path / "here", as_json=True)
    assert (tmp_path / "here" / "report.csv").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "..", "a/b", ".hidden", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "connect", lambda: Told(name))
    with pytest.raises(InvalidInput, match="cannot name an artifact"):
        jobs.job_artifacts("run-1", tmp_path / "here", as_json=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]
