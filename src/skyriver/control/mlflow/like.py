"""Patterns of LIKE and ILIKE: `%` is any text, `_` any one character. Pure.

No regular expression with repeats is made of what somebody sent: those backtrack, and one would hold the process.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

LONGEST = 500
"""Characters of a pattern: what matching takes grows with these times those of the text."""


def is_like(text: str, pattern: str, *, either_case: bool = False) -> bool:
    """The first and the last part between `%` stand at the ends, and each other one is taken at its first place after
    the one before it, which leaves the most to those that follow."""
    if either_case:
        text, pattern = text.lower(), pattern.lower()
    first, *others = _parts(pattern)
    if (begin := first.part.match(text)) is None:
        return False
    place = begin.end()
    if not others:
        return place == len(text)
    for middle in others[:-1]:
        if (found := middle.part.search(text, place)) is None:
            return False
        place = found.end()
    end = len(text) - others[-1].length
    return end >= place and others[-1].part.match(text, end) is not None


class _Part(NamedTuple):
    """`part` has characters and dots alone, so it always takes `length` characters."""

    part: re.Pattern[str]
    length: int


@lru_cache(maxsize=128)
def _parts(pattern: str) -> tuple[_Part, ...]:
    parts = pattern.split("%")
    return tuple(_Part(re.compile("".join(map(_sign, part)), re.DOTALL), len(part)) for part in parts)


def _sign(sign: str) -> str:
    return "." if sign == "_" else re.escape(sign)
