"""How the rows of a training are held out, weighed and changed: what is understood and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput
from skyriver.core.spec import TrainSpec

DAY = 86_400_000_000


class Sale(sr.Event):
    sale: int
    at: sr.Time
    shop: str
    price: float
    importance: float
    bought: int
    note: str | None


def declared(*, stream: bool = False, **given: Any) -> TrainSpec:
    app = sr.App("shop")
    if stream:
        sales = app.stream("sales", Sale, id="sale", time="at", key="shop")
        label: Any = app.labels("returned", of=sales, delay="1d")
    else:
        sales = app.table("sales", Sale, id="sale")
        label = sales.bought
    features = app.features("f", sales, {"price": sales.price})
    named = {name: getattr(sales, value[1:]) if str(value).startswith("@") else value for name, value in given.items()}

    @app.train(features, label=label, **named)
    def fit(data: sr.TrainingData) -> object:
        return data

    trained = app.model("m", fit).train
    assert trained is not None
    return trained


def test_all_that_can_be_declared_is_in_the_specification_and_survives_json() -> None:
    given = declared(
        test="7d",
        time="@at",
        group="@shop",
        minority=sr.Minority(ratio=0.5),
        weights="balanced",
        augment=[sr.Noise(std=0.1), sr.Mixup()],
    )
    assert (given.time, given.test_us, given.group) == ("at", 7 * DAY, "shop")
    assert TrainSpec.model_validate_json(given.model_dump_json()) == given
    assert given.prepared == {
        "augment": [{"kind": "noise", "std": 0.1}, {"kind": "mixup", "alpha": 0.2}],
        "minority": {"ratio": 0.5, "neighbours": 5},
        "weights": "balanced",
    }
    assert declared(weights="@importance").weight == "importance"
    assert declared(stream=True, weights="@importance", test="2d").weight == "importance"


def test_who_declares_none_of_it_has_the_specification_of_before() -> None:
    plain = declared()
    assert plain.to_json() == {
        "function": plain.function,
        "features": "f",
        "label": "bought",
        "test_us": 0,
        "test_share": 0.3,
        "clean": None,
    }
    assert plain.prepared == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"test": "7d"}, 'or test="7d" with a column of times: time=sales.at'),
        ({"test": 0.3, "time": "@at"}, "is not a stretch of time, and time= is given"),
        ({"test": "0s", "time": "@at"}, "holds nothing out"),
        ({"test": "7d", "time": "@price"}, "must be of type time"),
        ({"test": "7d", "time": "at"}, "time='at' is no column of sales"),
        ({"group": "@note"}, "never missing"),
        ({"stream": True, "group": "@shop"}, "group= is of a table"),
        ({"stream": True, "time": "@at"}, "split by its own time"),
        ({"weights": "even"}, "weights='even' is no column of sales"),
        ({"weights": "@note"}, "must be of type int or float"),
        ({"weights": "@bought"}, "weights=bought is the label itself"),
        ({"group": "@bought"}, "group=bought is the label itself"),
        ({"weights": "@importance", "minority": sr.Minority()}, "rows that are made have none"),
        ({"minority": 0.5}, "is no sr.Minority"),
        ({"augment": "noise"}, "no list of augmentations"),
        ({"augment": [sr.Minority()]}, "no list of augmentations"),
    ],
    ids=lambda value: "-".join(f"{k} {v}" for k, v in value.items())[:40] if isinstance(value, dict) else "",
)
def test_what_cannot_be_meant(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        declared(**given)
    assert told in str(refused.value)
