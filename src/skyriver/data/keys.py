"""Keys and ids as int64: what windows, indexes and logs compare."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput

if TYPE_CHECKING:
    import polars as pl  # the stream worker holds this module and must not load polars

NO_KEY = -(2**63)
"""Of a missing value, where one may be missing."""
_INTEGERS = frozenset({"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"})


def key_of_text(text: str) -> int:
    """The key of a text: the first 8 bytes (little endian, signed) of BLAKE2b(digest_size=8) of its UTF-8.

    Two of 10 million different texts share a key with a chance of 3 in a million (n^2 / 2^65).
    Raises InvalidInput (BAD_TEXT) for a text that has no UTF-8 form (a lone surrogate).
    """
    try:
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
    except UnicodeEncodeError:
        raise _bad_text(text) from None


def key_of(value: int | str) -> int:
    """Of a whole number it is that itself. Raises InvalidInput (BAD_TEXT)."""
    return key_of_text(value) if isinstance(value, str) else value


def keys_of_texts(texts: list[str]) -> NDArray[np.int64]:
    """`key_of_text` of each, shape [len(texts)]."""
    try:
        hashed = b"".join([blake2b(text.encode(), digest_size=8).digest() for text in texts])
    except UnicodeEncodeError as error:
        raise _bad_text(str(error.object)) from None
    return np.frombuffer(hashed, dtype="<i8").astype(np.int64)


def keys_of_column(series: pl.Series) -> NDArray[np.int64]:
    """Keys of a column, shape [rows]: integers as they are, each different text hashed once.

    Raises InvalidInput naming the column: BAD_KEY for a missing value, an integer above 2^63 - 1 or a column
    that is neither integers nor text.
    """
    if series.null_count():
        raise _bad_key(series, f"has {series.null_count()} missing values")
    dtype = str(series.dtype)
    if dtype in _INTEGERS:
        if dtype == "UInt64" and len(series) and int(series.to_numpy().max()) >= 2**63:
            raise _bad_key(series, "has a number above 2^63 - 1")
        return series.to_numpy().astype(np.int64)
    if dtype != "String":
        raise _bad_key(series, f"is of type {dtype}, and a key is a text or an integer of at most 64 bits")
    uniques = series.unique()
    if len(uniques) == len(series):
        return keys_of_texts(series.to_list())
    keys: NDArray[np.int64] = series.replace_strict(uniques, keys_of_texts(uniques.to_list()).tolist()).to_numpy()
    return keys.astype(np.int64, copy=False)


def codes_of_column(series: pl.Series) -> NDArray[np.int64]:
    """`keys_of_column` of a column that may have missing values: they are NO_KEY."""
    if not series.null_count():
        return keys_of_column(series)
    codes = np.full(len(series), NO_KEY, np.int64)
    codes[series.is_not_null().to_numpy()] = keys_of_column(series.drop_nulls())
    return codes


def codes_of_values(values: Sequence[object]) -> NDArray[np.int64]:
    """The same of values that are texts, or whole numbers of 64 bits, or None."""
    known = [value for value in values if value is not None]
    of_text = bool(known) and isinstance(known[0], str)
    keys = keys_of_texts(known) if of_text else np.array(known, np.int64)  # type: ignore[arg-type]  # all are of a kind
    if len(known) == len(values):
        return keys
    codes = np.full(len(values), NO_KEY, np.int64)
    codes[[value is not None for value in values]] = keys
    return codes


def _bad_key(series: pl.Series, why: str) -> InvalidInput:
    return InvalidInput(
        f"The column {series.name!r} cannot be a key: it {why}.",
        code="BAD_KEY",
        where=series.name,
        next_action="Take another column as the key, or make it whole texts or integers.",
    )


def _bad_text(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:80]!r} cannot be a key: it has no UTF-8 form.",
        code="BAD_TEXT",
        next_action="Write it without half characters (surrogates).",
    )
