"""What to declare instead, so that a service costs less and is not late more often: proposed, and verified by
replaying the service's own history under the present declaration and under the proposed one. Pure.

What is tried is few, and each is a change that a person would make: another number of replicas, one that follows the
load, sleep, another hold, less memory, less of a processor. Of those that keep the objective the cheapest is proposed,
if it saves something that is worth the change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from skyriver.control.schedule.doubting import doubt, unseen
from skyriver.control.schedule.lanes import Told
from skyriver.control.schedule.past import MOST_START_S, History, Outcome, Plan
from skyriver.control.schedule.replaying import replay
from skyriver.control.schedule.sleeping import terms_of
from skyriver.core.contract_advice import Declaration, ServiceAdvice
from skyriver.core.prices import MONTH_HOURS, Prices, micro
from skyriver.core.resources import UNDECLARED_MB, Limits
from skyriver.core.spec import ServiceSpec
from skyriver.core.units import SECOND, format_duration, format_span, iso_seconds, utc_time

LEAST_S: Final = 86_400.0
"""Of known history: a service's day has a shape."""
STALE_S: Final = 3_600.0
SLACK: Final = 0.5
"""Of what an objective allows: so much of the work may be late where none is declared, or as much as is now."""
ONLY_IF: Final = "Only if"
"""What is up to those who promise something to customers."""
WORTH: Final = 0.02
"""Of the cost: what saves less is not worth a change."""
LATENCIES: Final = 1.5
"""Times what 99% of the answers took: the latency that is declared where there was none."""
WAKES: Final = 1.5
"""Times a start: what a request that wakes a service may be promised to take."""
HOLDS: Final = ("1m", "2m", "15m")
MEMORY_ROOM, MEMORY_STEP, LEAST_MEMORY = 1.3, 64, 128
CORES_ROOM, LEAST_CORES = 1.25, 0.25
SMALLER: Final = 0.75
"""Less memory or processor is proposed where it is this share at most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A service, and what is known of it."""

    name: str
    app: str
    serve: ServiceSpec
    history: History | None
    p99_s: float = 0.0
    """In which 99% of its answers came; 0: not known."""
    memory_mb: int = 0
    """That is set aside for a replica where nobody declares it; 0: not measured."""

    def limits(self, serve: ServiceSpec) -> Limits:
        """Of a replica, if that were declared."""
        measured = self.memory_mb if serve.memory_mb == UNDECLARED_MB else 0
        return Limits(serve.cpus, measured or serve.memory_mb)


@dataclass(frozen=True, slots=True)
class _Try:
    serve: ServiceSpec
    slower: float = 1.0

    @property
    def plan(self) -> Plan:
        serve = self.serve
        return Plan(
            least=serve.least,
            most=serve.most,
            latency_s=serve.latency_us / SECOND,
            share=serve.share,
            hold_s=None if serve.hold_us is None else serve.hold_us / SECOND,
            wake_s=serve.wake_us / SECOND,
            idle_s=terms_of(serve).idle_s if serve.sleeps else None,
            slower=self.slower,
        )


def judged_plan(asked: Asked, serve: ServiceSpec, history: History) -> Plan:
    """As `advise` judges it."""
    return _judged_by(_Try(serve).plan, _Judge.of(asked, history))


def advise(asked: Asked, prices: Prices, now: float, told: Told = lambda share: None) -> ServiceAdvice:
    """`now`: seconds of the wall's clock."""
    if why := _unusable(asked, now):
        return advice_of(asked, prices, declaration_of(asked, asked.serve, None, prices, why), (), None, why)
    history = asked.history
    assert history is not None
    judge = _Judge.of(asked, history)
    tries = [_Try(serve) for serve in _changes(asked, judge)] if not judge.trouble else []
    plans = [_judged_by(one.plan, judge) for one in (_Try(asked.serve), *tries)]
    outcomes = replay(history, plans, told)
    judge = replace(judge, before=outcomes[0], unseen=unseen(history, outcomes[0]))
    present = declaration_of(asked, asked.serve, outcomes[0], prices, "")
    if judge.trouble:
        return _doubted(advice_of(asked, prices, present, (), None, judge.trouble), history, plans[0], outcomes[0])
    best, best_outcome, looked = asked.serve, outcomes[0], []
    for one, outcome in zip(tries, outcomes[1:], strict=True):
        costs, verdict = _monthly(asked, one.serve, outcome, prices), judge.verdict(one, outcome)
        if not verdict and not _saves(_monthly(asked, asked.serve, outcomes[0], prices), costs):
            verdict = "It saves nothing that is worth a change."
        if not verdict and one.serve.wake != asked.serve.wake:
            verdict = f"{ONLY_IF} requests that wake it may take {one.serve.wake}."
        looked.append(declaration_of(asked, one.serve, outcome, prices, verdict))
        # The simple ones come first, and of two that cost the same the simple one is taken.
        if not verdict and _saves(_monthly(asked, best, best_outcome, prices), costs):
            best, best_outcome = one.serve, outcome
    best, best_outcome = _smaller(asked, history, judge, prices, best, best_outcome)
    if best == asked.serve:
        found = advice_of(asked, prices, present, looked, None, _why_nothing(looked))
    else:
        proposed = declaration_of(asked, best, best_outcome, prices, "")
        why = _why(asked, history, best, outcomes[0], best_outcome)
        found = advice_of(asked, prices, present, looked, proposed, why)
    return _doubted(found, history, plans[0], outcomes[0])


def _doubted(found: ServiceAdvice, history: History, plan: Plan, outcome: Outcome) -> ServiceAdvice:
    if doubts := doubt(history, plan, outcome):
        found["doubt"] = doubts
    return found


def _unusable(asked: Asked, now: float) -> str:
    """Why nothing can be said of it; "" where something can."""
    history = asked.history
    if history is None:
        return "Nothing is known of its demand yet: it is measured from now on, and a day at least is needed."
    if now - history.ends > STALE_S:
        ended = utc_time(history.ends * SECOND)
        return f"Nobody has measured it since {ended} UTC: it has no replica that tells, or the cloud was down."
    if history.known_s < LEAST_S:
        return f"There is a history of only {_span(history.known_s)}, and a day at least is needed."
    return ""


@dataclass(frozen=True, slots=True)
class _Judge:
    """What no proposal may break."""

    allowed: float
    """Share of the work that may be late, or as much as is now."""
    latency: str
    """Declared, or what it would be declared as; "" where nothing is known."""
    trouble: str
    """Why nothing is made smaller, whatever the replay says."""
    start_s: float
    before: Outcome | None = None
    unseen: float = 0.0
    """Share that was late beyond what the replay says: it is taken to stay so with any declaration."""

    @classmethod
    def of(cls, asked: Asked, history: History) -> _Judge:
        serve = asked.serve
        most, trouble = 1 - serve.share, ""
        allowed = most if serve.latency else SLACK * most
        if impossible := serve.cannot_keep(history.service_s * SECOND):
            trouble = f"{impossible}."
        elif history.late > most:
            trouble = (
                f"{history.late:.2%} of its requests were late or refused, and {most:.2%} may be: it has too little."
            )
        return cls(allowed, serve.latency or _latency(asked, history), trouble, history.start_s)

    def verdict(self, one: _Try, outcome: Outcome) -> str:
        """ "" where it may be."""
        before = self.before
        assert before is not None
        most, late = max(self.allowed, before.late + self.unseen), outcome.late + self.unseen
        if late <= most + 1e-9:
            return ""
        return f"{_percent(late)} would be late, and {_percent(most)} may be."


def _judged_by(plan: Plan, judge: _Judge) -> Plan:
    """Without an objective, what is late is measured by how fast it answers now."""
    if plan.latency_s or not judge.latency:
        return plan
    latency_s = ServiceSpec(latency=judge.latency).latency_us / SECOND
    return replace(plan, latency_s=latency_s)


def _changes(asked: Asked, judge: _Judge) -> Iterator[ServiceSpec]:
    """What is tried, the simplest first."""
    serve, history = asked.serve, asked.history
    assert history is not None
    enough = _fewest(asked, judge)
    if not serve.elastic and serve.least > 1:
        if enough < serve.least:
            yield _with(serve, replicas=enough)
        if judge.latency:
            objective = {"latency": judge.latency, "share": round(1 - judge.allowed, 9)}
            yield _with(serve, replicas=(1, serve.least), **objective)
            yield from _asleep(serve, judge, replicas=(0, serve.least), **objective)
        return
    if not serve.elastic:
        if not serve.sleeps:
            yield from _asleep(serve, judge, replicas=(0, 1))
        elif serve.idle:
            yield _with(serve, idle="")
        return
    fewer = {(least, serve.most) for least in (0, 1) if least < serve.least}
    if enough < serve.most:
        fewer |= {(min(serve.least, enough), enough)}
    for least, most in sorted(fewer):
        if most > 1 and not least and serve.least:
            yield from _asleep(serve, judge, replicas=(least, most))
        elif most > 1:
            yield _with(serve, replicas=(least, most))
        else:
            yield _with(serve, replicas=(0, 1) if not least else 1, hold="")
    held_us = serve.hold_us or 300 * SECOND
    for hold in HOLDS:
        if ServiceSpec(replicas=(1, 2), hold=hold).hold_us != held_us:
            yield _with(serve, hold=hold)
    if serve.idle:
        yield _with(serve, idle="")


def _asleep(serve: ServiceSpec, judge: _Judge, **changed: Any) -> Iterator[ServiceSpec]:
    """As it is, and with what a request that wakes it may take, where a start is longer than the latency."""
    sleeps = _with(serve, **changed)
    yield sleeps
    wake_s = max(1, math.ceil(WAKES * judge.start_s))
    latency_us = ServiceSpec(latency=judge.latency).latency_us
    if 0 < latency_us < judge.start_s * SECOND:
        yield _with(sleeps, wake=format_duration(wake_s * SECOND))


def _with(serve: ServiceSpec, **changed: Any) -> ServiceSpec:
    return ServiceSpec.model_validate({**serve.model_dump(exclude_none=True), **changed})


def _fewest(asked: Asked, judge: _Judge) -> int:
    """Replicas that do at any time, if they always stay; as many as there are where no fewer do."""
    history, serve = asked.history, asked.serve
    assert history is not None
    plan = _judged_by(Plan(serve.most, serve.most, serve.latency_us / SECOND, serve.share), judge)
    most = max(replay(history, [plan])[0].late, judge.allowed)
    few, many = 1, serve.most
    while few < many:
        n = (few + many) // 2
        if replay(history, [replace(plan, least=n, most=n)])[0].late <= most + 1e-9:
            many = n
        else:
            few = n + 1
    return many


def _smaller(
    asked: Asked, history: History, judge: _Judge, prices: Prices, serve: ServiceSpec, outcome: Outcome
) -> tuple[ServiceSpec, Outcome]:
    """The same with as much memory and processor as was ever used, and room; each only if it saves by itself: with a
    slower processor there may be more replicas."""
    memory = max(LEAST_MEMORY, math.ceil(history.rss_mb * MEMORY_ROOM / MEMORY_STEP) * MEMORY_STEP)
    declared = serve.memory_mb != UNDECLARED_MB  # else what was measured is set aside
    costs = _monthly(asked, serve, outcome, prices)
    if declared and history.rss_mb and memory <= SMALLER * serve.memory_mb:
        less = _with(serve, memory_mb=memory)
        if _saves(costs, with_less := _monthly(asked, less, outcome, prices)):
            serve, costs = less, with_less
    cores = max(LEAST_CORES, math.ceil(history.cores * CORES_ROOM * 10) / 10)
    if not history.cores or cores > SMALLER * serve.cpus:
        return serve, outcome
    # Whether its runs use all of the processor for a moment is not known: then each takes so many times as long.
    smaller, slower = _with(serve, cpus=cores), serve.cpus / cores
    if judge.latency and asked.p99_s * slower > ServiceSpec(latency=judge.latency).latency_us / SECOND:
        return serve, outcome
    one = _Try(smaller, slower)
    slow = replace(history, start_s=min(history.start_s * slower, MOST_START_S))
    again = replay(slow, [_judged_by(one.plan, judge)])[0]
    if judge.verdict(one, again) or not _saves(costs, _monthly(asked, smaller, again, prices)):
        return serve, outcome
    return smaller, again


def _monthly(asked: Asked, serve: ServiceSpec, outcome: Outcome, prices: Prices) -> Decimal:
    """Of money, or of replica-hours where nothing costs anything: as it is told."""
    told = declaration_of(asked, serve, outcome, prices, "")
    return Decimal(repr(told["replica_hours"]) if prices.are_zero else told["cost"] or 0)


def _saves(before: Decimal, after: Decimal) -> bool:
    return after < before * Decimal(repr(1 - WORTH))


def declaration_of(
    asked: Asked, serve: ServiceSpec, outcome: Outcome | None, prices: Prices, verdict: str
) -> Declaration:
    """`outcome` None: there is no history, and only a number that stays is known."""
    if outcome is None and (serve.elastic or serve.sleeps):
        unknown: Declaration = {
            "line": line_of(serve),
            "replica_hours": None,
            "core_hours": None,
            "memory_gb_hours": None,
            "cost": None,
            "late": None,
            "verdict": verdict,
        }
        return unknown
    hours = (outcome.replicas if outcome is not None else float(serve.least)) * MONTH_HOURS
    cost = Decimal(repr(hours)) * prices.per_second(asked.limits(serve)) * 3_600
    return {
        "line": line_of(serve),
        "replica_hours": round(hours, 3),
        "core_hours": round(hours * serve.cpus, 3),
        "memory_gb_hours": round(hours * asked.limits(serve).memory_mb / 1_000, 3),
        "cost": f"{micro(cost):f}",
        "late": round(outcome.late, 6) if outcome is not None else None,
        "verdict": verdict,
    }


def advice_of(
    asked: Asked,
    prices: Prices,
    present: Declaration,
    looked: Sequence[Declaration],
    proposed: Declaration | None,
    why: str,
) -> ServiceAdvice:
    history, saves = asked.history, 0.0
    if proposed is not None:
        what = "replica_hours" if prices.are_zero else "cost"
        before, after = float(present[what]), float(proposed[what])  # type: ignore[literal-required]
        saves = round(1 - after / before, 6) if before else 0.0
    return {
        "name": asked.name,
        "app": asked.app,
        "now": present,
        "proposed": proposed,
        "saves": saves,
        "since": iso_seconds(history.begins * SECOND) if history is not None else None,
        "until": iso_seconds(history.ends * SECOND) if history is not None else None,
        "known_hours": round(history.known_s / 3_600, 2) if history is not None else 0.0,
        "late": round(history.late, 6) if history is not None and math.isfinite(history.late) else None,
        "why": why,
        "looked_at": list(looked),
    }


def _why(asked: Asked, history: History, best: ServiceSpec, before: Outcome, after: Outcome) -> str:
    serve, said = asked.serve, []
    if best.replicas != serve.replicas or best.hold != serve.hold or best.idle != serve.idle:
        said.append(f"{after.replicas:.3g} replicas on the mean would have done for {before.replicas:.3g}.")
    if best.latency != serve.latency:
        said.append(
            f"latency={best.latency!r} is new (99% of its answers took {asked.p99_s * 1_000:.3g} ms at most):"
            " the number goes by it."
        )
    if best.sleeps and not serve.sleeps:
        said.append(f"It sleeps while nobody asks; a request that wakes it waits {history.start_s:.2g} s.")
    if best.memory_mb != serve.memory_mb:
        said.append(f"It never held more than {history.rss_mb:.0f} MB of {serve.memory_mb}.")
    if best.cpus != serve.cpus:
        said.append(f"It never took more than {history.cores:.2g} cores of {serve.cpus:g}.")
    return " ".join(said)


def _why_nothing(looked: Sequence[Declaration]) -> str:
    if not looked:
        return "There is nothing smaller to try: it has what it uses."
    late = sum("would be late" in one["verdict"] for one in looked)
    asks = [one for one in looked if one["verdict"].startswith(ONLY_IF)]
    said = f"Tried: {len(looked)} others; too much would be late with {late}"
    said += f", and {len(looked) - late - len(asks)} save nothing."
    for one in asks[:1]:
        said += f" If {one['verdict'].removeprefix(ONLY_IF).strip(' .')}, declare {one['line']}."
    return said


def line_of(serve: ServiceSpec) -> str:
    """What is written in the application."""
    declared = serve.model_dump(exclude_defaults=True, exclude={"features"})
    if "replicas" in declared and isinstance(serve.replicas, tuple):
        declared["replicas"] = serve.replicas
    given = [f"{name}={_literal(value)}" for name, value in declared.items()]
    if serve.features is not None:
        options = serve.features.model_dump(exclude_defaults=True, exclude={"stream"})
        inner = [serve.features.stream.replace("-", "_"), *(f"{name}={_literal(v)}" for name, v in options.items())]
        given.append(f"features=sr.FromStream({', '.join(inner)})")
    return f"sr.Service({', '.join(given)})"


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _latency(asked: Asked, history: History) -> str:
    """Of a service that declares none: the shortest of 1, 2, 5, 10 ... ms that is longer than what 99% of its answers
    take, and that all its replicas keep by the replay with half of the allowed share; "" where there is none."""
    if asked.p99_s <= 0:
        return ""
    serve, wanted = asked.serve, LATENCIES * asked.p99_s * 1_000
    power = 10 ** math.floor(math.log10(max(wanted, 1.0)))
    for n in (1, 2, 5, 10, 20, 50, 100):
        plan = Plan(serve.most, serve.most, n * power / 1_000, serve.share)
        if n * power >= wanted and replay(history, [plan])[0].late <= SLACK * (1 - serve.share):
            return format_duration(int(n * power * 1_000))
    return ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _span(seconds: float) -> str:
    return format_span(round(seconds * SECOND))
