from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyriver.core.errors import InvalidInput
from skyriver.core.spec import TrainSpec
from skyriver.train.split import Rows, hash_share, split_rows

DAY = 86_400_000_000
STREAM = TrainSpec(function="fit", features="f", label="fraud", test_us=7 * DAY)
TABLE = TrainSpec(function="fit", features="f", label="ill", test_share=0.3)


def _rows(time: list[int] | np.ndarray, y: list[float] | np.ndarray | None = None) -> Rows:
    n = len(time)
    labels = np.resize([0.0, 1.0], n) if y is None else y
    return Rows(
        names=("a",),
        x=np.zeros((n, 1), dtype=np.float32),
        y=np.asarray(labels, dtype=np.float32),
        time=np.asarray(time, dtype=np.int64),
        ids=np.arange(n),
        keys={},
    )


def test_a_stream_is_split_by_time_with_the_delay_as_gap() -> None:
    rows = _rows(np.arange(61) * DAY // 2)  # twice a day for 30 days
    split = split_rows(STREAM, rows, 7 * DAY, validate=True)
    days = rows.time / DAY
    assert (days[split.train].min(), days[split.train].max()) == (0, 9), "30 - 7 not known - 7 test - 7 gap"
    assert (days[split.test].min(), days[split.test].max()) == (16.5, 23)
    assert (split.start, split.end) == (16 * DAY + 1, 23 * DAY + 1)
    assert (days[split.validation].min(), days[split.validation].max()) == (9.5, 16), "the gap, which nobody has seen"
    assert days[split.known].min() == 2.5, "an equally long time before the gap"


def test_without_a_label_a_row_counts_as_0_once_its_delay_has_passed() -> None:
    y = np.full(61, np.nan)
    y[[3, 40]] = 1.0
    y[60] = 1.0  # known early; it is not judged by, for its neighbours are not known
    split = split_rows(STREAM, _rows(np.arange(61) * DAY // 2, y), 7 * DAY, validate=True)
    assert split.labels[split.train].sum() == 1
    assert split.labels[split.test].sum() == 1
    assert not np.isnan(split.labels[: split.test[-1] + 1]).any()
    assert np.isnan(split.labels[split.test[-1] + 1 : 60]).all()


def test_too_short_a_history_says_what_is_needed() -> None:
    with pytest.raises(InvalidInput, match=r"12\.0 days of events \(13\), and more than 21 are needed") as refused:
        split_rows(STREAM, _rows(np.arange(13) * DAY), 7 * DAY, validate=True)
    assert refused.value.code == "NOT_ENOUGH_DATA"
    with pytest.raises(InvalidInput, match=r"0\.0 days of events \(0\)"):
        split_rows(STREAM, _rows([]), 7 * DAY, validate=True)


@pytest.mark.parametrize(("part", "fraud_at"), [("training", 20.0), ("test", 3.0)])
def test_one_class_only_is_refused(part: str, fraud_at: float) -> None:
    time = np.arange(61) * DAY // 2
    told = rf"rows of the {part} part have fraud = 0\. Of all 61 rows 1 has 1\."
    with pytest.raises(InvalidInput, match=told) as refused:
        split_rows(STREAM, _rows(time, time == fraud_at * DAY), 7 * DAY, validate=True)
    assert refused.value.code == "ONE_CLASS"


def test_a_label_that_is_neither_0_nor_1_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1 of 3 rows have another value, the first is 2") as refused:
        split_rows(TABLE, _rows([0, 0, 0], [0, 2, 1]), None, validate=True)
    assert refused.value.code == "BAD_LABEL"


def test_a_label_of_many_classes_is_told_as_such() -> None:
    """Some of the two thousand never come."""
    classes = np.arange(900) * 2
    with pytest.raises(InvalidInput, match="must be 0 or 1, and has 900 different values; 899 of 900 rows") as refused:
        split_rows(TABLE, _rows(np.zeros(900), classes), None, validate=True)
    assert "one class from the rest" in refused.value.next_action
    assert "app.model(NAME, onnx=FILE)" in refused.value.next_action
    assert "Send that label again" not in refused.value.next_action, "a table's rows are not sent"


def test_rows_without_labels_are_no_rows() -> None:
    with pytest.raises(InvalidInput, match=r"There are 0 rows with \w+, of 3: too few") as refused:
        split_rows(TABLE, _rows([0, 0, 0], [np.nan] * 3), None, validate=True)
    assert "Load more rows that have" in refused.value.next_action


@given(st.lists(st.integers(0, 90 * DAY), min_size=2, max_size=60), st.integers(0, 20 * DAY), st.integers(1, 20 * DAY))
def test_no_training_row_knew_what_the_test_knows(times: list[int], delay: int, test: int) -> None:
    rows = _rows(sorted(times))
    try:
        split = split_rows(STREAM.model_copy(update={"test_us": test}), rows, delay, validate=True)
    except InvalidInput:
        return  # too short, or one class only
    first_test = rows.time[split.test].min()
    assert (rows.time[split.train] + delay < first_test).all(), "every training label was known before the test began"
    assert (rows.time[split.test] + delay <= rows.time[-1]).all(), "every test label is known"
    parts = [*split.train, *split.validation, *split.test]
    assert len(parts) == len(set(parts)), "no row is in two parts"
    assert (rows.time[split.test] >= split.start).all()
    assert (rows.time[split.test] < split.end).all()


def test_a_table_is_split_by_its_ids_and_keeps_its_sides_as_it_grows() -> None:
    small, large = _rows([0] * 1000), _rows([0] * 3000)
    first, grown = split_rows(TABLE, small, None, validate=True), split_rows(TABLE, large, None, validate=True)
    assert len(first.test) == pytest.approx(300, abs=45)
    assert len(first.validation) == pytest.approx(105, abs=35)
    assert sorted([*first.train, *first.validation, *first.test]) == list(range(1000))
    for part in ("train", "validation", "test"):
        assert set(getattr(first, part)) == {i for i in getattr(grown, part) if i < 1000}


def test_table_rows_without_a_label_are_left_out() -> None:
    y = np.resize([0.0, 1.0, np.nan], 300)
    split = split_rows(TABLE, _rows([0] * 300, y), None, validate=True)
    assert len(split.train) + len(split.validation) + len(split.test) == 200
    with pytest.raises(InvalidInput, match="too few"):
        split_rows(TABLE, _rows([0], [1.0]), None, validate=True)


def test_hash_is_even() -> None:
    counted = np.histogram(hash_share(np.arange(-50_000, 50_000)), bins=20, range=(0, 1))[0]
    assert counted.sum() == 100_000
    assert abs(counted - 5000).max() < 350  # 5 sigma


def test_without_a_gap_validation_is_taken_from_the_training_part_if_needed() -> None:
    rows = _rows(np.arange(61) * DAY // 2)
    split = split_rows(STREAM, rows, 0, validate=True)
    days = rows.time / DAY
    assert days[split.train].max() == 19.5
    assert (days[split.validation].min(), days[split.validation].max()) == (20, 23)
    assert days[split.test].min() == 23.5
    whole = split_rows(STREAM, rows, 0, validate=False)
    assert days[whole.train].max() == 23
    assert not len(whole.validation)
    assert not len(split_rows(TABLE, _rows([0] * 300), None, validate=False).validation)


BY_TIME = TABLE.model_copy(update={"time": "at", "test_us": 7 * DAY})


def _table(days: np.ndarray, shops: np.ndarray | None = None, y: np.ndarray | None = None) -> Rows:
    keys = {"at": (days * DAY).astype(np.int64)} | ({} if shops is None else {"shop": shops})
    return replace(_rows(np.zeros(len(days)), y), keys=keys)


def test_a_table_is_split_by_its_own_times_whatever_the_order_of_its_rows() -> None:
    days = np.random.default_rng(1).permutation(np.arange(60) / 2)
    for validate in (False, True):
        split = split_rows(BY_TIME, _table(days), None, validate=validate)
        assert days[split.test].min() == 23
        assert (np.diff(split.test) > 0).all()
        assert sorted([*split.train, *split.validation, *split.test]) == list(range(60))
        rest = split.validation if validate else split.train
        assert days[rest].max() == 22.5
        assert not validate or days[split.train].max() < days[rest].min()


@given(st.integers(2, 30), st.booleans(), st.booleans(), st.integers(0, 99))
def test_rows_of_one_group_are_never_on_both_sides(shops: int, by_time: bool, validate: bool, seed: int) -> None:
    chance = np.random.default_rng(seed)
    days, of = chance.uniform(0, 40, 300), chance.integers(0, shops, 300)
    days += of  # the later shops are the ones of the test
    spec = (BY_TIME if by_time else TABLE).model_copy(update={"group": "shop"})
    try:
        split = split_rows(spec, _table(days, of), None, validate=validate)
    except InvalidInput as refused:
        if refused.code not in ("NOT_ENOUGH_DATA", "ONE_CLASS"):
            raise
        return
    parts = [set(of[part]) for part in (split.train, split.validation, split.test)]
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])


def test_a_table_whose_last_stretch_is_all_says_so() -> None:
    with pytest.raises(
        InvalidInput, match=r"10 rows of 4\.5 days with ill: none is left to train on before the last 7"
    ):
        split_rows(BY_TIME, _table(np.arange(10) / 2), None, validate=False)
    everywhere = BY_TIME.model_copy(update={"group": "shop"})
    with pytest.raises(InvalidInput, match="of other shops than those of the test"):
        split_rows(everywhere, _table(np.arange(60) / 2, np.zeros(60, np.int64)), None, validate=False)
