"""What a part of the product is to the examination, and the words in which it is judged.

`work` runs in a recording and says, between operations, what it begins and what was acknowledged: `say(word, ...)`.
After a cut `check` gets the words from before it and the folder as the disk has it. It opens the part as the next
process would, looks at all that it shows, and goes on writing, saying so again: a second cut may fall into that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

PARTS = (
    "store",
    "store, Python's SQLite",
    "store, migrated",
    "log, disk",
    "log, process",
    "objects",
    "tables",
    "home",
    "leases",
    "stream, disk",
    "stream, process",
    "stream, process, retention",
)
"""By their names; `parts` makes them."""
PROMISE_FOLDERS = tuple(part for part in PARTS if not part.startswith("stream, process"))
"""Those that lose something when names are lost: at "process" a stream promises to be right after the end of the power,
not to have all."""

Say = Callable[..., None]
Told = Sequence[Sequence[Any]]


class Part(Protocol):
    name: str

    def work(self, root: Path, luck: random.Random, say: Say) -> None: ...

    def check(self, root: Path, told: Told, say: Say) -> None:
        """Raises Lost, Wrong, or what the part itself raises where it cannot go on."""
        ...


class Lost(Exception):
    """What was acknowledged is not there."""


class Wrong(Exception):
    """Something is shown, without an error, that nobody wrote so."""


def need(holds: bool, what: str) -> None:
    if not holds:
        raise Lost(what)


def right(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def most(told: Told, word: str, otherwise: int) -> int:
    """The highest number that was said with this word."""
    return max((words[-1] for words in told if words[0] == word), default=otherwise)
