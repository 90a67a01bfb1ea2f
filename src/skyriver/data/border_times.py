"""Texts of times read together: those of a row, and those of a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skyriver.data.border_values import TIME_HIGH, TIME_LOW

_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_SECONDS = "0000-00-00T00:00:00"
_PLAIN = {
    len(form): (form.encode(), zone.encode(), len(form) - len(zone))
    for zone in ("Z", "+00:00")
    for form in (f"{_SECONDS}{fraction}{zone}" for fraction in ("", ".000", ".000000"))
}
"""By its length, a text with zeros for digits, its zone, and where that begins."""


def plain_times(texts: Sequence[str]) -> list[int] | None:
    """As `border_values.plain_time` of each, if all have one form of those with Z or +00:00, in half the time; None:
    look at each. NumPy reads them, and takes much more than we do: so the form is examined before."""
    lengths = set(map(len, texts))
    plain = _PLAIN.get(lengths.pop()) if len(lengths) == 1 else None
    if plain is None:
        return None
    form, zone, end = plain
    joined, count = "".join(texts).encode(errors="replace"), len(texts)
    if joined.translate(_TO_ZEROS) != form * count or joined.count(zone) != count:
        return None
    bare = np.frombuffer(joined, f"S{len(form)}").astype(f"S{end}")
    try:
        read: list[int] = bare.astype("M8[us]").astype(np.int64).tolist()
    except ValueError:
        return None
    return read if min(read) >= TIME_LOW else None


def parse_times(texts: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Texts of one length (n, length) in the layout of the first, as microseconds; and whether each was understood.

    Understands a part of what `border.parse_time` does, and the same from it.
    """
    rows, length = texts.shape
    clear = np.ones(rows, dtype=np.bool_)

    def number(start: int, digits: int) -> NDArray[np.int64]:
        total = np.zeros(rows, dtype=np.int64)
        for place in range(start, start + digits):
            digit = texts[:, place] - np.uint8(48)  # wraps: anything but a digit is above 9
            np.logical_and(clear, digit <= 9, out=clear)
            total = total * 10 + digit
        return total

    def sign(place: int, of: bytes) -> None:
        np.logical_and(clear, np.isin(texts[:, place], np.frombuffer(of, dtype=np.uint8)), out=clear)

    year, month, day = number(0, 4), number(5, 2), number(8, 2)
    sign(4, b"-")
    sign(7, b"-")
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    longest = _MONTH_DAYS[np.minimum(month, 13)] + (leap & (month == 2))
    clear &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= longest)
    seconds = _days_since_1970(year, month, day) * 86_400
    micros = np.zeros(rows, dtype=np.int64)
    if length > 10:
        first = bytes(texts[0])
        end, fraction = _layout(first)
        if not end:
            return seconds, np.zeros(rows, dtype=np.bool_)
        sign(10, b"Tt ")
        sign(13, b":")
        hour, minute = number(11, 2), number(14, 2)
        clear &= (hour <= 23) & (minute <= 59)
        seconds += hour * 3_600 + minute * 60
        if end > 16:
            sign(16, b":")
            second = number(17, 2)
            clear &= second <= 59
            seconds += second
        if fraction:
            sign(19, b".")
            micros = number(20, min(fraction, 6)) * 10 ** (6 - min(fraction, 6))
            number(26, fraction - 6) if fraction > 6 else None
        if length == end + 1:
            sign(end, b"Zz")
        elif length > end:
            sign(end, b"+-")
            off_hour, off_minute = number(end + 1, 2), number(length - 2, 2) if length > end + 3 else np.int64(0)
            if length == end + 6:
                sign(end + 3, b":")
            clear &= (off_hour <= 23) & (off_minute <= 59)
            seconds -= (off_hour * 3_600 + off_minute * 60) * np.where(texts[:, end] == ord("-"), -1, 1)
    values = seconds * 1_000_000 + micros
    return values, clear & (values >= TIME_LOW) & (values <= TIME_HIGH)


def _layout(first: bytes) -> tuple[int, int]:
    """Where the zone begins (or the text ends), and how many digits the fraction has; (0, 0) for no known layout."""
    length = len(first)
    end, fraction = 16, 0
    if length > 16 and first[16] == ord(":"):
        end = 19
        if length > 20 and first[19] == ord("."):
            while 20 + fraction < length and fraction < 9 and chr(first[20 + fraction]).isdigit():
                fraction += 1
            end = 20 + fraction
            if not fraction:
                return 0, 0
    return (end, fraction) if length - end in (0, 1, 3, 5, 6) else (0, 0)


_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0], dtype=np.int64)


def _days_since_1970(year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days of the proleptic Gregorian calendar, counting years from March so that the leap day is the last."""
    shifted = year - (month <= 2)
    from_march = (month + 9) % 12
    in_year = (153 * from_march + 2) // 5 + day - 1
    return np.asarray(
        shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + in_year - 719_468, dtype=np.int64
    )
