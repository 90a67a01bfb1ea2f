"""The list of jobs: the newest first, and without those that nobody asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from skyriver.client import jobs


def _job(name: str, created_at: int, kind: str = "call", parent: str = "") -> dict[str, Any]:
    job = {"name": name, "created_at": created_at, "parent": parent, "spec": {"kind": kind}, "status": {}}
    return job | {"state": "SUCCEEDED", "reason": "", "message": "", "updated_at": created_at}


class Ran:
    """A cloud in which these jobs ran, in the order of their names as the API has it."""

    def __enter__(self) -> Ran:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def list(self, kinds: str) -> Iterator[dict[str, Any]]:
        assert kinds == "jobs"
        yield _job("a-run-1", 10)
        yield _job("fraud-run-1-materialise", 20, "materialise", "operation/fraud-run-1")
        yield _job("orders-materialise-1", 30, "materialise", "stream/orders")
        yield _job("z-run-1-10", 5)
        yield _job("z-run-1-9", 5)


WANTED = ["fraud-run-1-materialise", "a-run-1", "z-run-1-9", "z-run-1-10"]


@pytest.mark.parametrize(
    ("everything", "names"), [(False, WANTED), (True, ["orders-materialise-1", *WANTED])], ids=["asked for", "all"]
)
def test_the_newest_job_comes_first(
    everything: bool, names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "connect", Ran)
    jobs.job_list(everything, as_json=True)
    assert [job["name"] for job in json.loads(capsys.readouterr().out)] == names
    jobs.job_list(everything)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("NAME")
    assert [line.split()[0] for line in lines] == names
