"""Does it pay? How many workers a training has, with how many threads and in which micro-batches: without torch.

`tune` is asked again and again with what was measured so far, and says what to measure next or what to stay with. It
goes from one worker outwards: threads, then micro-batches, then those numbers of workers of which the law of what was
measured promises more. What is chosen was measured; the law only spares trying what cannot pay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

MARGIN: Final = 0.05
"""More workers, threads or parts must be quicker by so much: they take memory and cores that others may have."""
TRIES: Final = 16
"""Settings that are measured at most; and of these, numbers of workers."""
WORKER_TRIES: Final = 3
CUT_INTO: Final = (2, 4, 8)
BACKWARD: Final = 2 / 3
"""Of a pass: what sums of gradients can be hidden behind."""
WORTH_TELLING: Final = 0.05
"""The share of a step."""


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    workers: int
    threads: int = 1
    cuts: int = 1
    """Micro-batches of a worker's part of a step, one after another: their gradients are added up."""

    @property
    def cores(self) -> int:
        return self.workers * self.threads


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of a step, as the first worker sees them."""

    passes: float
    """Forward and backward, and whatever else the function does."""
    update: float
    reduce: float
    """That the sum of gradients is waited for."""
    load: float
    """That rows are waited for."""
    fetch: float = 0.0
    """That a worker's rows take, whoever waits."""
    ahead: bool = False
    """They are fetched while the rows before are worked on."""

    @property
    def step(self) -> float:
        return self.passes + self.update + self.reduce + self.load


@dataclass(frozen=True, slots=True)
class About:
    """Of a training."""

    rows: int
    """Of a step."""
    left: int
    """Steps."""
    pair_s: float
    """That two workers of this machine take to sum its gradient."""
    last: float = 1.0
    """The share of the gradient whose sum begins after the backward pass."""
    can_cut: bool = True
    """Micro-batches change nothing but the order of sums: there are no statistics of batches."""
    started_s: float = 0.0
    """From the start of a worker to its first step."""


@dataclass(frozen=True, slots=True)
class Limits:
    most: int
    """Workers."""
    cores: int
    shards: int = 0
    """Over 0: the same bits on any number of workers. Parts and threads are given then: both change bits."""
    threads: int = 0
    """0: as many as are quickest."""
    cuts: int = 1
    """Micro-batches of one worker alone, at least: larger ones do not fit into memory."""


@dataclass(frozen=True, slots=True)
class Choice:
    workers: int
    threads: int
    micro_batch: int
    """Rows of a pass."""
    why: str
    """A sentence with the figures, for the log."""
    setting: Setting


class Law:
    """What a step takes with a setting that was not measured.

    T(w) = passes + update + reduce + load. A pass takes a + b rows, by what passes of other sizes took; rows come from
    w fetchers at once; a sum of w parts carries 2 (w - 1) / w of a gradient through each of them (a ring), behind the
    backward pass but for what begins after it. Workers slow each other down as those did that were measured.
    """

    def __init__(self, limits: Limits, about: About, found: Mapping[Setting, Timed]) -> None:
        self._limits, self._about, self._found = limits, about, found
        self._alone = {s: t for s, t in found.items() if s.workers == 1}

    def __call__(self, setting: Setting) -> Timed | None:
        """None, where nothing is known of so many threads."""
        known = self._nearest(setting.threads)
        if known is None:
            return None
        raw = self._raw(setting, known)
        tried = [s for s in self._found if s.workers > 1]
        if not tried or setting.workers == 1:
            return raw
        near = min(tried, key=lambda s: (abs(s.workers - setting.workers), s))
        theirs, of_theirs = self._found[near], self._nearest(near.threads)
        assert of_theirs is not None
        said = self._raw(near, of_theirs)
        share = (setting.workers - 1) / (near.workers - 1)
        slower = max(1.0, 1 + (_ratio(theirs.passes, said.passes) - 1) * share)
        return Timed(raw.passes * slower, raw.update, raw.reduce * _ratio(theirs.reduce, said.reduce), raw.load)

    def _nearest(self, threads: int) -> Timed | None:
        """The whole step of one worker."""
        found = [(s.cuts, t) for s, t in self._alone.items() if s.threads == threads]
        return min(found, key=lambda each: each[0])[1] if found else None

    def _raw(self, setting: Setting, alone: Timed) -> Timed:
        passes = self._passes(setting)
        fetch = alone.fetch / setting.workers
        load = max(0.0, fetch - passes) if alone.ahead else fetch
        return Timed(passes, alone.update, self._reduce(setting.workers, passes), load, fetch, alone.ahead)

    def _passes(self, setting: Setting) -> float:
        rows, workers, cuts = self._about.rows, setting.workers, setting.cuts
        if shards := self._limits.shards:
            return self._alone[Setting(1, setting.threads)].passes * -(-shards // workers) / shards
        known = sorted(
            (rows / s.cuts, t.passes / s.cuts) for s, t in self._alone.items() if s.threads == setting.threads
        )
        return cuts * _between(known, rows / (workers * cuts))

    def _reduce(self, workers: int, passes: float) -> float:
        if workers == 1:
            return 0.0
        whole = self._about.pair_s * 2 * (workers - 1) / workers
        last = 1.0 if self._limits.shards else self._about.last
        return whole * last + max(0.0, whole * (1 - last) - BACKWARD * passes)


def _ratio(measured: float, said: float) -> float:
    return measured / said if said > 0 else 1.0


def _between(known: list[tuple[float, float]], rows: float) -> float:
    """Seconds of a pass of so many rows, by those that are known: on the lines between them, and on the line of the
    first two below. One that is alone is taken for proportional, which promises too much rather than too little."""
    (r0, s0), *more = known
    if not more or rows > known[-1][0]:
        r, s = known[-1]
        return s * rows / r
    r1, s1 = next(((r, s) for r, s in more if r >= rows))
    r0, s0 = [(r, s) for r, s in known if r < r1][-1]
    line = s0 + (s1 - s0) * (rows - r0) / (r1 - r0)
    return min(max(line, s0 * rows / r0), s0) if rows < r0 else line


def tune(limits: Limits, found: Mapping[Setting, Timed], about: About | None = None) -> Setting | Choice:
    """What to measure next, until it is known what to stay with."""
    if about is None or not found:
        return Setting(1, _threads(limits)[0], 1 if limits.shards else limits.cuts)
    if len(found) < TRIES:
        for step in (_more_threads, _more_cuts, _more_workers):
            if (wanted := step(limits, found, about)) is not None:
                return wanted
    return _choice(limits, found, about)


def _threads(limits: Limits) -> list[int]:
    if limits.threads or limits.shards:
        return [limits.threads or 1]
    powers = [1 << n for n in range(limits.cores.bit_length())]
    return sorted({*(p for p in powers if p <= limits.cores), limits.cores})


def _more_threads(limits: Limits, found: Mapping[Setting, Timed], about: About) -> Setting | None:
    """Until more of them are slower."""
    last = None
    for threads in _threads(limits):
        setting = Setting(1, threads, limits.cuts if not limits.shards else 1)
        if (timed := found.get(setting)) is None:
            return setting
        if last is not None and timed.step > last * (1 + MARGIN):
            return None
        last = timed.step
    return None


def _more_cuts(limits: Limits, found: Mapping[Setting, Timed], about: About) -> Setting | None:
    """Once for the law, and on until it is slower: a cache holds a pass from some size on."""
    if limits.shards or not about.can_cut:
        return None
    alone = {s: t for s, t in found.items() if s.workers == 1}
    best = min((s for s in alone if s.cuts == limits.cuts), key=lambda s: (alone[s].step, s))
    quickest = alone[best].step
    for times in CUT_INTO:
        setting = Setting(1, best.threads, times * limits.cuts)
        if setting.cuts > about.rows:
            return None
        if setting not in alone:
            return setting
        if alone[setting].step > quickest * (1 + MARGIN):
            return None
        quickest = min(quickest, alone[setting].step)
    return None


def _spread(limits: Limits, found: Mapping[Setting, Timed], about: About) -> Iterator[tuple[Setting, Timed]]:
    """What the law says of more workers than one."""
    law = Law(limits, about, found)
    most = min(limits.most, limits.cores, about.rows, limits.shards or limits.most)
    for workers in range(2, most + 1):
        for threads in sorted({s.threads for s in found}):
            if workers * threads > limits.cores:
                continue
            least = -(-limits.cuts // workers)
            cuts = (
                {least} if limits.shards or not about.can_cut else {least, *(s.cuts for s in found if s.cuts > least)}
            )
            for each in sorted(cuts):
                setting = Setting(workers, threads, each)
                if setting.workers * each <= about.rows and (told := law(setting)) is not None:
                    yield setting, told


def _more_workers(limits: Limits, found: Mapping[Setting, Timed], about: About) -> Setting | None:
    if len({s.workers for s in found}) > WORKER_TRIES:
        return None
    promised = {s: t for s, t in _spread(limits, found, about) if s not in found}
    if not promised:
        return None
    setting = min(promised, key=lambda s: (promised[s].step, s))
    best = min(t.step for t in found.values())
    if promised[setting].step > best * (1 - MARGIN) or _comes_too_late(best - promised[setting].step, about):
        return None
    return setting


def _comes_too_late(gain_s: float, about: About) -> bool:
    """It is over before the start of more workers is made up for."""
    return gain_s * about.left < about.started_s


def _choice(limits: Limits, found: Mapping[Setting, Timed], about: About) -> Choice:
    quickest = min(t.step for t in found.values())
    near = [s for s, t in found.items() if t.step <= quickest * (1 + MARGIN)]
    best = min(near, key=lambda s: (s.workers, s.cores, found[s].step))
    parts = limits.shards or best.workers * best.cuts
    why = _why(limits, found, about, best)
    return Choice(best.workers, best.threads, -(-about.rows // parts), why, best)


def _why(limits: Limits, found: Mapping[Setting, Timed], about: About, best: Setting) -> str:
    one = min((s for s in found if s.workers == 1), key=lambda s: (s != best, found[s].step))
    alone = f"{_who(one, about, limits)} takes {_ms(found[one].step)} a step{_waits(found[one])}"
    if best.workers > 1:
        return f"{_who(best, about, limits)} take {_told(found[best])}, {alone}: trained on {best.workers}"
    measured = {s: t for s, t in found.items() if s.workers > 1}
    others = measured or dict(_spread(limits, found, about))
    if not others:
        reason = "it may have no more" if limits.most == 1 else f"{limits.cores} core is there"
        if limits.most > 1 and limits.cores > 1:
            reason = f"a step has {about.rows} rows" if about.rows < 2 else "threads take all cores"
        return f"{alone}: trained on one, for {reason}"
    other = min(others, key=lambda s: (others[s].step, s))
    gain = found[one].step - others[other].step
    verb = "take" if measured else "would take"
    told = f"{_who(other, about, limits)} {verb} {_told(others[other])}, {alone}"
    if not measured and gain > MARGIN * found[one].step and _comes_too_late(gain, about):
        too_late = f"{about.left:,} steps are over before a start of {about.started_s:.1f} s is made up for"
        return f"{told}, but {too_late}: trained on one"
    return f"{told}: trained on one"


def _who(setting: Setting, about: About, limits: Limits) -> str:
    who = "one" if setting.workers == 1 else f"{setting.workers} workers"
    threads = f" with {setting.threads} threads{' each' if setting.workers > 1 else ''}" if setting.threads > 1 else ""
    cut = setting.cuts > 1 and not limits.shards
    rows = f" in micro-batches of {-(-about.rows // (setting.workers * setting.cuts))} rows" if cut else ""
    return f"{who}{threads}{rows}"


def _told(timed: Timed) -> str:
    parts = f"{_plain(timed.passes + timed.update)} compute + {_plain(timed.reduce)} all-reduce"
    rows = f" + {_plain(timed.load)} waiting for rows" if timed.load > WORTH_TELLING * timed.step else ""
    return f"{_ms(timed.step)} a step ({parts}{rows})"


def _waits(timed: Timed) -> str:
    share = timed.load / timed.step if timed.step else 0.0
    return f", {share:.0%} of it waiting for rows" if share > WORTH_TELLING else ""


def _ms(seconds: float) -> str:
    return f"{_plain(seconds)} ms"


def _plain(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:,.0f}"
