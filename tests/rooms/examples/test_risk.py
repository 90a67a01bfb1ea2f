"""The simulator keeps to its published specification, its files have what real ones have, the application is whole."""

import importlib.util
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

FOLDER = Path(__file__).parents[3] / "examples" / "risk"
DAY = 86_400


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulator = _module("simulate")


@pytest.fixture(scope="module")
def payments() -> object:
    return simulator.simulate(seed=3, customers=1500, terminals=3000, days=60, radius=9.0)


def test_the_same_seed_is_the_same_world(payments: object) -> None:
    again = simulator.simulate(seed=3, customers=1500, terminals=3000, days=60, radius=9.0)
    other = simulator.simulate(seed=4, customers=1500, terminals=3000, days=60, radius=9.0)
    for column in ("payment", "second", "customer", "terminal", "amount", "scenario"):
        assert np.array_equal(getattr(payments, column), getattr(again, column))
    assert not np.array_equal(payments.amount[:100], other.amount[:100])  # type: ignore[attr-defined]


def test_payments_are_as_specified(payments: object) -> None:
    second, amount = payments.second, payments.amount  # type: ignore[attr-defined]
    honest = payments.scenario == 0  # type: ignore[attr-defined]
    assert np.array_equal(payments.payment, np.arange(len(second)))  # type: ignore[attr-defined]
    assert (np.diff(second) >= 0).all()
    of_day = second % DAY
    assert of_day.min() > 0
    assert of_day.mean() == pytest.approx(DAY / 2, rel=0.01)
    assert of_day.std() == pytest.approx(18_300, rel=0.02), "normal(12 h, 20,000 s), cut at midnight"
    # 0-4 a day, 2 on average; 3.1% of the times lie outside the day and are dropped
    assert len(second) == pytest.approx(1500 * 60 * 2 * 0.969, rel=0.05)
    assert amount.min() >= 0
    assert amount[honest].max() <= 220
    assert np.allclose(amount * 100, np.round(amount * 100), atol=1e-6)
    assert amount[honest].mean() == pytest.approx(53, rel=0.05)


def test_each_customer_pays_nearby(payments: object) -> None:
    pairs = np.unique(np.stack([payments.customer, payments.terminal]), axis=1)  # type: ignore[attr-defined]
    per_customer = np.bincount(pairs[0])
    # 3,000 terminals on 100 x 100, radius 9: some 76 in reach, fewer at the border; nobody reaches far more
    assert per_customer.max() < 130


def test_the_three_frauds(payments: object) -> None:
    scenario, amount = payments.scenario, payments.amount  # type: ignore[attr-defined]
    day, terminal, customer = payments.second // DAY, payments.terminal, payments.customer  # type: ignore[attr-defined]
    assert (scenario[amount > 220] > 0).all(), "1: no honest payment is above 220"
    assert (amount[scenario == 1] > 220).all()
    second = scenario == 2
    for broken in np.unique(terminal[second])[:50]:  # 2: whole terminals, for 28 days from some day on
        days = np.unique(day[second & (terminal == broken)])
        between = (terminal == broken) & (day >= days[0]) & (day <= days[0] + 27)
        assert (scenario[between & (day <= days[-1])] > 0).all()
    leaked = np.unique(customer[scenario == 3])
    assert 0.5 * 3 * 59 < len(leaked) <= 3 * 59, "3: three customers a day, none on the last"
    high = amount[scenario == 3].mean() / amount[scenario == 0].mean()
    assert high == pytest.approx(5, rel=0.2)
    counts = np.bincount(scenario, minlength=4)
    assert counts[2] > counts[3] > counts[1] > 0


@pytest.mark.parametrize(("customers", "days"), [(0, 10), (5, 0), (1, 1)])
def test_tiny_worlds(customers: int, days: int) -> None:
    tiny = simulator.simulate(seed=0, customers=customers, terminals=3, days=days, radius=1.0)
    assert len(tiny.payment) == len(tiny.scenario)
    assert set(tiny.customer) <= set(range(customers))


def test_files_have_what_real_ones_have(payments: object, tmp_path: Path) -> None:
    frame = simulator.to_frame(payments)
    counted = simulator.write(tmp_path, frame, seed=3, stream_days=1)
    history, stream, labels = (pl.read_parquet(tmp_path / f"{n}.parquet") for n in counted)
    n = len(frame) - len(stream)
    assert stream.columns == ["payment", "at", "customer", "terminal", "amount"]
    assert stream["payment"].to_list() == list(range(n, len(frame))), "the last day, whole and in order"
    assert stream["at"].min() >= frame["at"].max().replace(hour=0, minute=0, second=0)
    bad = history.filter(pl.col("payment") >= 10**9)
    assert len(bad) == round(simulator.BROKEN * n)
    assert (bad["amount"].fill_null(1) < 0).sum() + bad["at"].null_count() + bad["customer"].null_count() == len(bad)
    good = history.filter(pl.col("payment") < 10**9)
    assert len(good) - good["payment"].n_unique() == round(simulator.DUPLICATES * n)
    assert good.unique(["payment"])["amount"].null_count() == pytest.approx(simulator.MISSING * n, rel=0.5)
    starts = stream["at"].min().replace(hour=0, minute=0, second=0)
    known = good.filter(pl.col("at") < starts - timedelta(days=7))
    assert known["fraud"].null_count() == 0
    assert good["fraud"].drop_nulls().len() == len(known), "what is not known yet is not told"
    assert labels["known_at"].min() >= starts
    assert labels["known_at"].max() <= stream["at"].max()
    assert set(labels["payment"]) <= set(good.filter(pl.col("fraud").is_null())["payment"])


def test_the_command_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    monkeypatch.setitem(simulator.SCALES, "small", (3, 1, 5_000, 10_000))
    monkeypatch.setattr("sys.argv", ["simulate.py", "--out", str(tmp_path / "data"), "--stream-days", "0"])
    simulator.main()
    assert {p.name for p in (tmp_path / "data").iterdir()} == {
        "payments.parquet", "stream.parquet", "stream_labels.parquet",
    }  # fmt: skip
    assert pl.read_parquet(tmp_path / "data" / "stream.parquet").is_empty()


def test_the_application_is_whole() -> None:
    spec = _module("risk").app.spec
    behaviour = spec.feature_set("behaviour")
    assert len(behaviour.names) == 19
    assert behaviour.names[:3] == ("amount", "weekend", "night")
    model = spec.model("fraud")
    assert [m.name for m in model.metrics] == ["card_precision_100"]
    assert model.train is not None
    assert spec.stream("payments").labels[0].delay_us == 7 * DAY * 1_000_000
    assert [r.decision for r in spec.decides[0].rules] == ["block", "review"]
