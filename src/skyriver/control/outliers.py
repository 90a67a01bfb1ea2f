"""Which servers of a pool get fewer requests because they answer much slower than the others, or fail. Pure.

Servers of one pool do the same work, so each is measured by its siblings: there is no limit to set, and what makes all
of them slow (a heavy model, overload) takes none of them out. A server whose answers of the last WINDOW_US took SLOWER
times as long as theirs, or failed when theirs did not, gets no more (weight 0). After a pause it is tried with a small
part of the traffic, then more, then all; each time that it is found slow again the pause doubles. Never more than half
of the servers that are up are out, so a pool of one is left alone.

Of few answers the mean says little (times spread as exponentials do, at worst), so the fewer there are the slower they
have to be: SLOWER * (1 + 1/n). One that has requests and answers none of them for a whole window is as slow as that.

What waited at a server before another one came, or came back, waited in a queue that the other had no part in: its
answers are slow and the other's are not, though both work alike. By these nobody is judged: of two, each would be out
in turn while all requests wait at the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

LOOK_SECONDS: Final = 0.25
"""Between two looks."""
WINDOW_US: Final = 1_000_000
SLOWER: Final = 3.0
LEAST_US: Final = 5_000
"""Nobody is out for less than that in the mean: beneath it the machine's own noise is seen."""
LEAST_ANSWERS: Final = 3
LEAST_IN_TRIAL: Final = 2
FAILED: Final = 0.5
SIBLINGS_FAILED: Final = 0.1
LEAST_FAILURES: Final = 5
WRAP: Final = 1 << 32
FULL: Final = 100
TRIAL: Final = 5
"""With this weight a server has at most one request at a time: whoever has least to do is chosen first, whatever its
weight, so a slow one would draw a queue before its answers told."""
STEPS: Final = (TRIAL, 25, FULL)
"""Weights, in percent, by which one comes back; on each it has to answer well first, or nobody to ask it."""
PAUSE_US: Final = 2_000_000
LONGEST_PAUSE_US: Final = 64_000_000
QUIET_US: Final = 1_000_000
"""A step in which no request came is passed after so long."""
FORGET_US: Final = 60_000_000
"""One that has been well for so long begins again with the shortest pause."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a gateway has counted of one server since it knows it; only differences matter, modulo WRAP."""

    answers: int = 0
    microseconds: int = 0
    """From the request to the beginning of its answer, over all of them."""
    failures: int = 0
    """Answers of 500 and above among them, and requests that got none."""
    waiting: int = 0
    """Requests under way now."""
    weight: int = FULL
    """In percent, as the gateway has it now."""


@dataclass(slots=True)
class _Server:
    seen: deque[tuple[int, Answered]] = field(default_factory=deque)
    step: int = len(STEPS) - 1
    """Index into STEPS of its weight; -1: out."""
    since: int = 0
    pause: int = 0
    """The last one; 0 before the first."""
    queued_until: int | None = None
    """Its count of answers, modulo WRAP, once all are answered that waited when another came; None: they are."""

    @property
    def weight(self) -> int:
        return STEPS[self.step] if self.step >= 0 else 0

    @property
    def well(self) -> bool:
        return self.step == len(STEPS) - 1

    def look(self, now: int, seen: Answered) -> None:
        self.seen.append((now, seen))
        while len(self.seen) > 2 and self.seen[1][0] <= now - WINDOW_US:
            self.seen.popleft()
        if self.queued_until is not None and (self.queued_until - seen.answers - 1) % WRAP >= WRAP // 2:
            self.queued_until = None
            self._begin_anew()

    def shares(self) -> None:
        """With another one from now on: what waits here did not."""
        last = self.seen[-1][1]
        self.queued_until = (last.answers + last.waiting) % WRAP if last.waiting else None
        self._begin_anew()

    def move(self, step: int, now: int) -> None:
        self.step, self.since = step, now
        self._begin_anew()  # what it did with another weight does not count

    def _begin_anew(self) -> None:
        last = self.seen[-1]
        self.seen.clear()
        self.seen.append(last)

    @property
    def lately(self) -> _Lately:
        (first_at, first), (last_at, last) = self.seen[0], self.seen[-1]
        answers = (last.answers - first.answers) % WRAP
        failures = (last.failures - first.failures) % WRAP
        if answers == 0 and first.waiting and last.waiting and last_at - first_at >= WINDOW_US:
            return _Lately(LEAST_ANSWERS, float(last_at - first_at), failures)
        mean = (last.microseconds - first.microseconds) % WRAP / answers if answers else 0.0
        return _Lately(answers, mean, failures, queued=self.queued_until is not None)


@dataclass(frozen=True, slots=True)
class _Lately:
    answers: int
    mean_us: float
    failures: int
    queued: bool = False
    """They waited where the others had no part in it."""

    @property
    def failed(self) -> float:
        return self.failures / max(self.answers, self.failures, 1)


class Outliers:
    """Keeps what was seen of one gateway's servers, over looks."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}

    def look(self, now: int, pools: Sequence[Mapping[str, Answered]]) -> dict[str, int]:
        """The weight that each server should have. `now`: monotonic, in microseconds; `pools`: the servers of each pool
        that are up."""
        up = {name: seen for pool in pools for name, seen in pool.items()}
        new = up.keys() - self._servers.keys()
        for name, seen in up.items():
            if name not in self._servers:
                # Whoever looked before may have left it with another weight.
                step = next((i for i, weight in enumerate(STEPS) if seen.weight <= weight), len(STEPS) - 1)
                out = not seen.weight
                self._servers[name] = _Server(step=-1 if out else step, since=now, pause=PAUSE_US if out else 0)
            self._servers[name].look(now, seen)
        self._servers = {name: server for name, server in self._servers.items() if name in up}
        for pool in pools:
            servers = {name: self._servers[name] for name in pool}
            if self._judge(servers, now) or new & pool.keys():
                for server in servers.values():
                    server.shares()
        return {name: self._servers[name].weight for name in up}

    def _judge(self, pool: Mapping[str, _Server], now: int) -> bool:
        """Whether one of them takes more from now on than it did."""
        came = False
        room = len(pool) // 2
        out = sorted((s for s in pool.values() if not s.well), key=lambda server: server.since)
        for server in out[: max(0, len(out) - room)]:  # others went down: it is better than none
            server.move(len(STEPS) - 1, now)
            came = True
        for name, server in pool.items():
            if server.step < 0:
                if now - server.since >= server.pause:
                    server.move(0, now)
                continue
            least = LEAST_ANSWERS if server.well else LEAST_IN_TRIAL
            slow = _is_outlier(server.lately, list(_siblings(pool, name)), least)
            if slow and (not server.well or sum(not s.well for s in pool.values()) < room):
                again = server.pause and not (server.well and now - server.since > FORGET_US)
                server.pause = min(server.pause * 2, LONGEST_PAUSE_US) if again else PAUSE_US
                server.move(-1, now)
            elif not server.well and not slow:
                quiet = now - server.since >= QUIET_US and not server.seen[-1][1].waiting
                if server.lately.answers >= LEAST_ANSWERS or quiet:
                    server.move(server.step + 1, now)
                    came = True
        return came


def _siblings(pool: Mapping[str, _Server], name: str) -> Iterator[_Lately]:
    for other, server in pool.items():
        if other != name and server.well and server.lately.answers >= LEAST_ANSWERS:
            yield server.lately


def _is_outlier(lately: _Lately, siblings: Sequence[_Lately], least: int) -> bool:
    if not siblings or max(lately.answers, lately.failures) < least:
        return False
    usual = median(s.mean_us for s in siblings)
    needed = SLOWER * (1 + 1 / max(lately.answers, 1))
    slow = not lately.queued and lately.mean_us > usual * needed and lately.mean_us - usual > LEAST_US
    fails = lately.failures >= LEAST_FAILURES and lately.failed >= FAILED
    return slow or (fails and median(s.failed for s in siblings) <= SIBLINGS_FAILED)
