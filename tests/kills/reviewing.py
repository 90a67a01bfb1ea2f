"""People who review while everything around them is killed; what they were told counts."""

from __future__ import annotations

import random
from typing import Protocol

from skyriver.core.errors import NotFound


class Desk(Protocol):
    """Where cases are claimed and answered. Both are repeated until it is known what became of them."""

    def claim(self, who: str, step: int) -> int:
        """Raises NotFound where no case waits."""
        ...

    def decide(self, who: str, case: int, answer: str, reason: str) -> str:
        """The case's state after it."""
        ...


class People:
    """They claim and answer; `said` is what was accepted, by case and person."""

    def __init__(self, desk: Desk, luck: random.Random) -> None:
        self.luck = luck
        self.names = [f"p{number}" for number in range(4)]
        self.held: dict[int, str] = {}
        self.said: dict[tuple[int, str], str] = {}
        self.steps = 0
        self._desk = desk

    def step(self) -> None:
        """One act of somebody."""
        self.steps += 1
        who = self.luck.choice(self.names)
        mine = [case for case, holder in self.held.items() if holder == who]
        if mine:
            word = self.luck.choice(["block", "block", "approve"])
            state = self._desk.decide(who, mine[0], word, f"step {self.steps}")
            self.said[mine[0], who] = word
            del self.held[mine[0]]
            assert state in ("DECIDED", "SECOND", "ESCALATED"), state
            return
        try:
            case = self._desk.claim(who, self.steps)
        except NotFound:
            return
        assert case not in self.held, f"{self.held[case]} and {who} hold case {case}"
        assert (case, who) not in self.said, f"{who} is given case {case} once more"
        self.held[case] = who
