"""Names that the commands are given: what each may name, and what is said of one that names nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from skyriver.client import jobs
from skyriver.core.errors import NotFound

FAILED = {"attempt": 1, "reason": "EXITED", "exit_code": 3, "started": 0, "ended": 9, "peak_mb": 0.0, "message": "No."}


class Rows:
    """A cloud with these rows."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._rows = rows

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get(self, kinds: str, name: str) -> dict[str, Any]:
        if name not in self._rows.get(kinds, {}):
            raise NotFound(f"There is no {kinds} {name}.")
        return {"name": name, **self._rows[kinds][name]}

    def list(self, kinds: str) -> Iterator[dict[str, Any]]:
        return iter([self.get(kinds, name) for name in self._rows.get(kinds, {})])


CLOUD = Rows(
    {
        "tasks": {"hot": {}},
        "models": {"fraud": {}},
        "jobs": {
            "hot-run-1-first": {"status": {"attempts": [FAILED]}},
            "hot-run-1-second": {"status": {}},
        },
        "operations": {"hot-run-1": {"spec": {"jobs": ["hot-run-1-first", "hot-run-1-second"]}}},
    }
)


@pytest.mark.parametrize(("name", "action"), [("hot", "run"), ("fraud", "train")])
def test_what_is_run_is_a_job_or_a_model(name: str, action: str) -> None:
    assert jobs._target(CLOUD, name) == (name, action)  # type: ignore[arg-type]


def test_a_name_that_is_neither_is_refused_with_those_near_to_it() -> None:
    with pytest.raises(NotFound) as caught:
        jobs._target(CLOUD, "hog")  # type: ignore[arg-type]
    assert caught.value.message == "There is no model or job 'hog'."
    assert caught.value.next_action == (
        "`skyriver task list` and `skyriver model list` show what there is. Near to it: hot."
    )


def _history(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(jobs, "connect", lambda: CLOUD)
    jobs.job_history(name, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_the_history_of_a_run_is_that_of_its_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _history("hot-run-1", monkeypatch, capsys) == [{"job": "hot-run-1-first", **FAILED}]
    assert _history("hot-run-1-first", monkeypatch, capsys) == [FAILED]
    jobs.job_history("hot-run-1", as_json=False)
    assert "hot-run-1-first" in capsys.readouterr().out


def test_the_history_of_nothing_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "connect", lambda: CLOUD)
    with pytest.raises(NotFound, match="There is no job or run 'hot-run-9'") as caught:
        jobs.job_history("hot-run-9")
    assert "hot-run-1" in caught.value.next_action
