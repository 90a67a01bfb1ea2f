"""Patterns of LIKE and ILIKE: `%` is any text, `_` any one character. Pure.

No regular expression is made of what somebody sent: those backtrack, and one would hold the process.
"""

from __future__ import annotations

LONGEST = 500
"""Characters of a pattern: what matching takes grows with these times those of the text."""


def is_like(text: str, pattern: str, *, either_case: bool = False) -> bool:
    """The first and the last part between `%` stand at the ends, and each other one is taken at its first place after
    the one before it, which leaves the most to those that follow."""
    if either_case:
        text, pattern = text.lower(), pattern.lower()
    first, *others = pattern.split("%")
    if not others:
        return len(text) == len(first) and _is_at(text, first, 0)
    last = others.pop()
    place, end = len(first), len(text) - len(last)
    if end < place or not _is_at(text, first, 0) or not _is_at(text, last, end):
        return False
    known: dict[str, int] = {}
    for part in others:
        found = _first_of(text, part, place, end, known) if "_" in part else text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _is_at(text: str, part: str, place: int) -> bool:
    here = text[place : place + len(part)]
    return here == part or all(sign in ("_", own) for sign, own in zip(part, here, strict=True))


def _first_of(text: str, part: str, place: int, end: int, known: dict[str, int]) -> int:
    """Where `part` is first, in what is from `place` to `end`; -1: nowhere. All places are tried at once, as the bits
    of one number; `known` are those of the signs that were looked for in this text."""
    starts = (1 << max(place, end - len(part) + 1)) - 1 >> place << place
    for offset, sign in enumerate(part):
        if sign != "_":
            if sign not in known:
                known[sign] = int("0" + "1".join("0" * len(between) for between in text[::-1].split(sign)), 2)
            starts &= known[sign] >> offset
    return (starts & -starts).bit_length() - 1
