from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from skyriver.core.errors import InvalidInput
from skyriver.data.keys import key_of_text, keys_of_column, keys_of_texts


def test_the_key_of_a_text_never_changes() -> None:
    assert key_of_text("") == -5426141060434712860
    assert key_of_text("customer-1") == -4803451183196062476
    assert key_of_text("čau") == -2900459481459181396


def test_a_column_has_the_keys_of_its_texts() -> None:
    texts = ["b", "a", "", "b", "ž", "a"]
    expected = [key_of_text(text) for text in texts]
    assert keys_of_column(pl.Series("k", texts)).tolist() == expected
    assert keys_of_column(pl.Series("k", texts[1:5])).tolist() == expected[1:5]
    assert keys_of_texts(texts).tolist() == expected


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int32, pl.Int64, pl.UInt8, pl.UInt32, pl.UInt64])
def test_integers_are_their_own_keys(dtype: type[pl.DataType]) -> None:
    keys = keys_of_column(pl.Series("k", [3, 0, 127], dtype=dtype))
    assert keys.dtype == np.int64
    assert keys.tolist() == [3, 0, 127]


@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt64, pl.String])
def test_an_empty_column_has_no_keys(dtype: type[pl.DataType]) -> None:
    keys = keys_of_column(pl.Series("k", [], dtype=dtype))
    assert keys.dtype == np.int64
    assert keys.shape == (0,)


def test_the_smallest_and_greatest_integers_are_kept() -> None:
    values = [-(2**63), 2**63 - 1]
    assert keys_of_column(pl.Series("k", values, dtype=pl.Int64)).tolist() == values


@pytest.mark.parametrize(
    "series",
    [
        pl.Series("k", [1, None]),
        pl.Series("k", ["a", None]),
        pl.Series("k", [2**63], dtype=pl.UInt64),
        pl.Series("k", [1.0]),
        pl.Series("k", [True]),
    ],
)
def test_a_column_that_cannot_be_a_key_is_refused_by_name(series: pl.Series) -> None:
    with pytest.raises(InvalidInput, match="'k'") as refused:
        keys_of_column(series)
    assert refused.value.code == "BAD_KEY"


def test_a_text_without_utf8_is_refused() -> None:
    with pytest.raises(InvalidInput):
        key_of_text("\ud800")
    with pytest.raises(InvalidInput):
        keys_of_texts(["a", "\ud800"])


def test_the_module_does_not_load_polars() -> None:
    code = "import sys, skyriver.data.keys; sys.exit('polars' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
