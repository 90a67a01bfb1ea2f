"""One worker among the others: its line to the launcher, and the generation that it is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Final

import torch
from torch.distributed import Store

from skyriver.core.errors import JobFailed
from skyriver.train.spread.group import CPU, BrokenGroup, Group, NotHandedOver, form

MEETING_S: Final = 60.0
"""Until the launcher has said who goes on, or all of these have said that they are there."""
BEAT_S: Final = 0.5
POINT_S: Final = BEAT_S / 32
"""Between two steps of which it is told what came of them: a short training has a curve too, and messages are small."""
LOOK_S: Final = 0.05
"""Between two looks for news within a step: one costs as much as a thousandth of a small micro-batch."""
HANDING_S: Final = 3_600.0
"""To make what the training came to: an export of a large model, with its check, which cannot say that it goes on."""
MOST_HANDED: Final = 2 << 30
PART_BYTES: Final = 12_000
"""With what is around it less than a page of pages, which goes through a socket at once."""


class Dismissed(BaseException):
    """This worker is to leave: it has done all that it was part of. No `except Exception` of a function keeps it."""


class Member:
    """`meet` puts it into the group of the newest generation; `group` is that one.

    Who is there changes between two steps, for all members after the same one: whoever has heard of a newer generation
    says so with what is summed at the end of a step. Where a member was lost nobody waits for that, nor does who works
    alone where a step is sooner done by all.
    """

    def __init__(self, pipe: Connection, store: Store, worker: int, device: torch.device = CPU) -> None:
        self._pipe, self._store, self._worker, self._device = pipe, store, worker, device
        self.group = Group(0, (worker,), 0)
        self.stopping = False
        self._leaving = False
        self._said: Mapping[str, Any] = {"generation": 0}
        """The newest message about who goes on; and the last generation in which somebody was lost."""
        self._lost = 0
        self._beaten = self._told = self._looked = self._noted = 0.0
        self._points: list[tuple[int, float, Mapping[str, float]]] = []
        self.hand_over: Callable[[], bytes] = bytes

    @property
    def checkpoint(self) -> str:
        """From which the newest generation goes on; "": from what its members have."""
        return str(self._said.get("checkpoint", ""))

    @property
    def threads(self) -> int:
        """Of each member; 0: as many as there are."""
        return int(self._said.get("threads", 0))

    @property
    def cuts(self) -> int:
        """Micro-batches of a member's part, where the launcher says how many."""
        return int(self._said.get("cuts", 1))

    @property
    def measures(self) -> str:
        """What is to be measured in this generation: "steps", "pair" for the sum of two too, or nothing."""
        return str(self._said.get("measure", "")) if self._said["generation"] == self.group.generation else ""

    def say(self, kind: str, *what: Any) -> None:
        self._pipe.send((kind, *what))

    def leave(self) -> None:
        """With the end of this step: somebody wants the machine back. Safe in a signal handler."""
        self._leaving = True

    def alive(self) -> None:
        """That it lives, now and then, in the middle of a step or waiting for others."""
        now = time.monotonic()
        if now - self._beaten > BEAT_S:
            self._beaten = now
            self.say("beat")

    def look(self, left: int, parts: int) -> None:
        """Between two micro-batches, with so many of this step's `parts` left. Raises BrokenGroup where to go on would
        be in vain, for a member was lost; or, where one works alone, later done than the whole step by all who go on.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self.alive()
        self._hear_all()
        if not self.group.is_alone:
            self._check_lost()
        elif self._is_newer() and left * len(self._said["members"]) > parts:
            raise BrokenGroup("Others are there.")

    def beat(self, step: int, loss: float, values: Mapping[str, float], seconds: float, *, last: bool = False) -> None:
        """What came of a step that took `seconds`: said now and then, and of the last one, with some before it."""
        now = time.monotonic()
        if last or now - self._told > BEAT_S:
            self.tell_noted()
            self._told = self._beaten = self._noted = now
            self.say("beat", step, loss, values, seconds)
        elif now - self._noted > POINT_S:
            self._noted = now
            self.note(step, loss, values)

    def note(self, step: int, loss: float, values: Mapping[str, float]) -> None:
        """To be told with the next beat; by the first member, for all have the same."""
        if self.group.rank == 0:
            self._points.append((step, loss, values))

    def tell_noted(self) -> None:
        if self._points:
            self.say("points", self._points)
            self._points = []

    def has_news(self) -> bool:
        """Whether others go on from here, or it is to stop."""
        if self._leaving:
            self._leaving = False
            self.say("leaving")
        self._hear_all()
        return self.stopping or self._is_newer()

    def meet(self, agree: Callable[[Group], None]) -> None:
        """Returns once it is in a group with all who go on, and `agree` has returned in it."""
        while True:
            said = self._newer()
            self.group.end()
            self.group.generation = said["generation"]
            if self._worker not in said["members"]:
                raise Dismissed
            try:
                if self._all_there(said):
                    members = said["members"]
                    self.group = form(self._store, said["generation"], members, self._worker, self._waits, self._device)
                    agree(self.group)
                    return
            except BrokenGroup as error:
                self.broken(error)

    def busy(self, seconds: float) -> None:
        """It may say nothing for so long."""
        self._beaten = time.monotonic()
        self.say("busy", seconds)

    def broken(self, error: BrokenGroup) -> None:
        self.group.end()
        self.say("broken", self.group.generation, str(error)[:500], isinstance(error, NotHandedOver))

    def stay(self, hand_over: Callable[[], bytes], agree: Callable[[Group], None]) -> None:
        """For as long as somebody may need this worker's state, or want what came of it."""
        self.hand_over = hand_over
        while True:  # until it is dismissed
            self._hear()
            if self._is_newer():
                self.meet(agree)

    def _is_newer(self) -> bool:
        return bool(self._said["generation"] > self.group.generation)

    def _newer(self) -> Mapping[str, Any]:
        """What was said of a generation later than this one; waited for."""
        deadline = time.monotonic() + MEETING_S
        while not self._is_newer():
            if self.stopping:
                raise Dismissed
            if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                raise JobFailed(
                    f"Nobody said who goes on for {MEETING_S:.0f} s.", code="NO_LAUNCHER", next_action="Run it again."
                )
            self._hear()
        return self._said

    def _hear_all(self) -> None:
        """That was said by now."""
        while self._pipe.poll():
            self._hear()

    def _hear(self) -> None:
        kind, *what = self._pipe.recv()
        if kind == "generation":
            self._said = what[0]
            if self._said["lost"]:
                self._lost = self._said["generation"]
        elif kind == "stop":
            self.stopping = True
        elif kind == "hand over":
            self.busy(HANDING_S)
            self._hand(self.hand_over())
        elif kind == "over":
            raise Dismissed

    def _hand(self, result: bytes) -> None:
        """In parts that the kernel takes whole: who stops between two of them keeps nobody in the midst of reading."""
        if len(result) > MOST_HANDED:
            raise JobFailed(
                f"What the training came to has {len(result):,} bytes; {MOST_HANDED:,} at most are handed over.",
                code="TOO_LARGE",
                next_action="Return a smaller model; one in an ONNX file cannot be larger either.",
            )
        for first in range(0, len(result), PART_BYTES):
            self.say("part", result[first : first + PART_BYTES])
        self.say("result")

    def _waits(self) -> None:
        """For the others, in a call: it lives, and looks whether one of them was lost."""
        self.alive()
        self._hear_all()
        self._check_lost()

    def _check_lost(self) -> None:
        if self._lost > self.group.generation:
            raise BrokenGroup("A member was lost.")

    def _all_there(self, said: Mapping[str, Any]) -> bool:
        """Whether all came, rather than another generation: who waits in the backend for one that died waits long."""
        generation = said["generation"]
        go = f"go-{generation}"
        keys = [f"there-{generation}-{worker}" for worker in said["members"]]
        self._store.set(f"there-{generation}-{self._worker}", b"1")
        deadline = time.monotonic() + MEETING_S
        while not self._store.check(keys):
            if self.stopping:
                raise Dismissed
            if self._pipe.poll(0.002):
                self._hear()
                if self._is_newer():  # unless another one saw all of them before, and waits in the backend
                    return bool(self._store.compare_set(go, "", "no") == b"yes")
            self.alive()
            if time.monotonic() > deadline:
                raise BrokenGroup(f"Not all came within {MEETING_S:.0f} s.")
        return bool(self._store.compare_set(go, "", "yes") == b"yes")
