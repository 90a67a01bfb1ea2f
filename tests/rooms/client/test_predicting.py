"""What `skyriver predict` says when nothing answers."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client import predicting
from skyriver.core.errors import InvalidInput, NotAllowed, SkyriverError, Unavailable

NONE_UP = Unavailable("Nothing is up.", code="NO_CAPACITY", where="/predict/fraud", next_action="Send it again.")
NO_VERSION = {"reason": "NO_VERSION", "message": "No version is released yet.", "next_action": "`skyriver run`."}


class Silent:
    """A cloud whose predictions fail with `error`; its service is so, or cannot be asked."""

    def __init__(self, error: SkyriverError, service: dict[str, str] | SkyriverError) -> None:
        self._error = error
        self._service = service
        self.asked: list[str] = []

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def predict(self, model: str, row: dict[str, Any]) -> dict[str, Any]:
        raise self._error

    def get(self, kinds: str, name: str) -> dict[str, str]:
        self.asked.append(f"{kinds}/{name}")
        if isinstance(self._service, SkyriverError):
            raise self._service
        return self._service


def _refused(cloud: Silent, monkeypatch: pytest.MonkeyPatch) -> SkyriverError:
    monkeypatch.setattr(predicting, "connect", lambda: cloud)
    with pytest.raises(SkyriverError) as caught:
        predicting.predict("fraud", ["amount=1"])
    return caught.value


def test_a_model_without_a_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Silent(NONE_UP, NO_VERSION)
    told = _refused(cloud, monkeypatch)
    assert (told.code, told.exit_code, told.where) == ("NO_VERSION", 7, "/predict/fraud")
    assert (told.message, told.next_action) == ("No version is released yet.", "`skyriver run`.")
    assert cloud.asked == ["services/fraud"]


@pytest.mark.parametrize(
    "service",
    [
        {"reason": "", "message": "", "next_action": ""},
        NotAllowed("No."),
        Unavailable("The control plane is away.", code="CONTROL_AWAY"),
    ],
)
def test_else_it_is_what_the_gateway_said(
    service: dict[str, str] | SkyriverError, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _refused(Silent(NONE_UP, service), monkeypatch) is NONE_UP


def test_another_failure_asks_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = Unavailable("It loads.", code="LOADING")
    cloud = Silent(loading, NO_VERSION)
    assert _refused(cloud, monkeypatch) is loading
    assert cloud.asked == []


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_data_with_what_json_has_not_is_told_what_to_write(number: str) -> None:
    with pytest.raises(InvalidInput, match=f"--data is not JSON: it has no {number}; write null") as caught:
        predicting._json_argument(f'{{"amount": {number}}}')
    assert caught.value.code == "BAD_JSON"
