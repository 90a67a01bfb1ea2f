"""Declaring how another version takes over, by the key of its requests."""

from __future__ import annotations

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput


def test_without_a_key_the_declaration_is_as_it_was() -> None:
    before = {"steps": [10, 50], "every": "5m", "wait": "1h"}
    assert sr.Canary([10, 50, 100]).spec.to_json() == before
    assert sr.Canary([10, 50, 100], key="X-Customer").spec.to_json() == before | {"key": "x-customer"}


@pytest.mark.parametrize("key", [7, "x customer", "authorization", "x-skyriver-key"])
def test_what_is_no_header_of_a_caller_is_refused(key: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        sr.Canary([10, 100], key=key)  # type: ignore[arg-type]
    assert caught.value.code == "BAD_CANARY"
    assert "sr.Canary" in caught.value.next_action


def test_who_is_not_asked_by_an_entity_has_none_to_stay_with() -> None:
    app = sr.App("shop")
    app.model("price", onnx="price.onnx", rollout=sr.Canary([10, 100], key="entity"))
    with pytest.raises(InvalidInput, match="nobody asks it by an entity") as caught:
        _ = app.spec
    assert (caught.value.code, "sr.FromStream" in caught.value.next_action) == ("BAD_CANARY", True)
