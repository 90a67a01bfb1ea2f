"""Signs of streams: their workers, what they decide, where their events come from and go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from skyriver.core.resources import Resource
from skyriver.core.units import format_duration
from skyriver.decide.streams.lateness import why_late
from skyriver.observe.of_services import of_process
from skyriver.observe.sight import subject_of
from skyriver.observe.signs import HOLD_S, SOON_S, Seen, Sign, explains, guarded, of_row, span
from skyriver.observe.tracks import SLOWER, SLOWER_US, Mix, Track

ALLOWED: Final = 0.01
"""Of events, that may be decided otherwise than by the model, and that may be refused: no stream declares another."""
EXPECTED: Final = frozenset({"", "BUDGET_SPENT", "NO_DECISIONS", "LATE", "SHED", "CHEAPER"})
"""Reasons that no model or worker is to blame for; what is shed is told by `_sheds`."""
SHED_S: Final = 30.0
"""What is shed for less is a burst."""
RESTART_US: Final = 60_000_000
"""So long a planned restart may take: it replays what came after the last checkpoint."""
BEHIND_S: Final = 5.0
BEHIND_LEAST: Final = 500
SINK_FAILURES: Final = 5
MISSED_MINUTES: Final = 10
"""So long what was missed is told: it does not come back."""
CHECKPOINT_US: Final = 15 * 60_000_000


def of_streams(seen: Seen) -> Iterator[Sign]:
    rows = seen.sight.snapshot.rows
    yield from guarded(_of_workers, seen, rows.every("stream"))
    yield from guarded(_of_dispatcher, seen, rows.every("dispatcher"))
    yield from guarded(_away, seen, rows.every("activator"))


def _of_workers(seen: Seen, stream: Resource) -> Iterator[Sign]:
    for worker in seen.sight.snapshot.children(stream, "worker"):
        yield from _of_worker(seen, stream, worker)


def events_of(stream: Resource) -> str:
    """What comes to it: wrong by itself, whatever is wrong with who decides."""
    return f"{subject_of(stream)}/events"


def _away(seen: Seen, row: Resource) -> Iterator[Sign]:
    """A process that is always wanted, and was there."""
    track = seen.track(row)
    if row.state == "READY":
        track.known["served"] = 1
    elif track.known.get("served") and not _is_planned(seen, row):
        yield of_row(row, "away", "critical", HOLD_S)
    yield from of_process(seen, row)


def _is_planned(seen: Seen, row: Resource) -> bool:
    """It is started again because somebody deployed, and that does not take too long."""
    return (row.state, row.reason) == ("STARTING", "DEPLOYED") and seen.sight.snapshot.elapsed(row.since) < RESTART_US


def _of_worker(seen: Seen, stream: Resource, worker: Resource) -> Iterator[Sign]:
    yield from _away(seen, worker)
    process = seen.sight.snapshot.processes.get(worker.process)
    if process is None or not process.alive or not process.report.get("ready"):
        return
    report, track, subject = process.report, seen.track(stream), subject_of(stream)
    if report.get("message"):
        reason = f"{report['reason']}: " if report.get("reason") else ""
        told = f"The worker of {stream.name} says: {reason}{report['message']}"
        yield Sign(
            subject_of(worker), "says", told, report.get("next_action") or explains(worker.name), "warning", HOLD_S
        )
    source = report.get("source") or {}
    if source.get("state") == "DEGRADED":
        told = f"Nothing comes from {source['name']} to {stream.name}. {source['reason']}: {source['message']}"
        action = source.get("next_action") or explains(stream.name)
        yield Sign(events_of(stream), "source", told, action, "critical", HOLD_S)
    failed = seen.sight.machine.failed.get((stream.tenant, f"stream/{stream.name}"), 0)
    events = track.step("events", float(report.get("events", 0)))
    track.of("errors").add(seen.seconds, failed + events, failed)  # nobody counts the requests that events came in
    if missed := track.of("errors").missed(seen.seconds, ALLOWED):
        told = f"{missed.bad:,} requests to the stream {stream.name} failed within the last {missed.within}."
        action = f"`skyriver request list --of stream/{stream.name} --status 5xx` shows them."
        yield Sign(subject, "errors", told, action, missed.severity)
    yield from _of_events(seen, stream, report, track, events)
    yield from _of_pace(seen, stream, report, track, events)
    yield from _of_budgets(seen, stream, report)


def _of_events(seen: Seen, stream: Resource, report: Mapping[str, Any], track: Track, events: int) -> Iterator[Sign]:
    """What became of them."""
    name, subject = stream.name, subject_of(stream)
    dead = track.step("dead", float(report.get("dead", 0)))
    by_reason: Mapping[str, int] = report.get("by_reason") or {}
    fallbacks = sum(
        track.step(f"reason {reason}", float(count)) for reason, count in by_reason.items() if reason not in EXPECTED
    )
    late = track.step("late", float(by_reason.get("LATE", 0)))
    track.of("dead").add(seen.seconds, events + dead, dead)
    track.of("late").add(seen.seconds, events, late)
    if stream.spec.get("decide"):
        track.of("fallbacks").add(seen.seconds, events, fallbacks)
    told = {
        "dead": (f"were refused ({_reasons(track, report)})", f"`skyriver stream dead {name}` shows them with why."),
        "late": ("came too late to be decided", f"`skyriver stream get {name}` shows its times."),
        "fallbacks": ("were decided without the model's score", explains(name)),
    }
    for kind, (what, action) in told.items():
        if kind in track.outcomes and (missed := track.of(kind).missed(seen.seconds, ALLOWED)):
            said = f"{missed.share} events of {name} {what} within the last {missed.within}."
            yield Sign(subject if kind == "fallbacks" else events_of(stream), kind, said, action, missed.severity)
    by_decision = {
        word: track.step(f"decision {word}", float(count)) for word, count in (report.get("by_decision") or {}).items()
    }
    track.mix = track.mix or Mix()
    track.mix.add(seen.seconds, by_decision)
    if moved := track.mix.moved():
        word, now, usual = moved
        told_now = f"{name} decides otherwise than in the last hour: {now:.0%} are {word}, and {usual:.0%} were."
        yield Sign(subject, "decides otherwise", told_now, explains(name), "warning", HOLD_S)


def _of_budgets(seen: Seen, stream: Resource, report: Mapping[str, Any]) -> Iterator[Sign]:
    """Of those that all events share: spent, or soon; what a single key has spent is its own matter."""
    for own in report.get("budgets") or ():
        if own["spent"] is None:
            continue
        subject = f"{subject_of(stream)}/budget"
        left = seen.tracks.get(f"{subject} {own['decision']} {own['per']}").left(
            seen.seconds, own["spent"], own["most"]
        )
        budget = f"The budget of {own['most']:,} {own['decision']} in {own['per']} of {stream.name}"
        action = f"Events beyond it get {own['overflow']}: declare a larger one if that is not wanted."
        if own["spent"] >= own["most"]:
            yield Sign(subject, "budget", f"{budget} is spent.", action, "warning", HOLD_S)
        elif left is not None and left < SOON_S and own["spent"] >= own["most"] / 2:
            yield Sign(
                subject, "budget", f"{budget} is spent in {span(left)} if it goes on so.", action, "warning", HOLD_S
            )


def _reasons(track: Track, report: Mapping[str, Any]) -> str:
    """The commonest of what was refused since the control plane began to look."""
    counts: Mapping[str, int] = report.get("dead_by_reason") or {}
    grown = {reason: count - track.known.setdefault(f"dead {reason}", count) for reason, count in counts.items()}
    most = sorted((reason for reason, count in grown.items() if count), key=lambda reason: -grown[reason])[:3]
    return ", ".join(f"{reason} {grown[reason]:,}" for reason in most) or "bad events"


def _of_pace(seen: Seen, stream: Resource, report: Mapping[str, Any], track: Track, events: int) -> Iterator[Sign]:
    name, subject = stream.name, subject_of(stream)
    track.rate.add(seen.seconds, events)
    if track.rate.silent():
        told = f"No events come to {name} any more; in the half hour before, they always did."
        yield Sign(events_of(stream), "silence", told, "Look at what sends them; the stream itself is well.")
    elif fell := track.rate.fell():
        told = f"{fell[0]:,.0f} events come to {name} in ten seconds; in the hour before it were {fell[1]:,.0f}."
        action = "Look at what sends them; the stream itself is well."
        yield Sign(events_of(stream), "fewer", told, action, "warning")
    rate, waiting = float(report.get("events_per_second", 0.0)), int(report.get("waiting_rows", 0))
    source_lag = (report.get("source") or {}).get("lag") or 0
    waiting += int(source_lag)
    if waiting >= max(BEHIND_LEAST, BEHIND_S * rate):
        told = f"{waiting:,} events wait to be decided by {name}, which decides {rate:,.0f} a second."
        yield Sign(subject, "lag", told, explains(name), "critical", HOLD_S)
    yield from _sheds(stream, report)
    if slower := _slower(seen, track, report):
        now, usual = slower
        told = (
            f"{name} decides slower than usual: its p99 is {now / 1000:,.0f} ms, and {usual / 1000:,.0f} ms otherwise."
        )
        yield Sign(subject, "slow", told, explains(name), "warning")
    behind = int(report.get("offset", 0)) - int(report.get("checkpoint_offset", 0))
    at = int(report.get("checkpoint_at", 0))
    if at and behind > 1 and seen.sight.snapshot.elapsed(at) > CHECKPOINT_US:
        told = f"The last checkpoint of {name} is {behind:,} records old: after a restart it would take long to go on."
        yield Sign(subject, "checkpoint", told, f"`skyriver logs {name}` tells why none is written.", "warning")


def _sheds(stream: Resource, report: Mapping[str, Any]) -> Iterator[Sign]:
    """More comes than can be decided within the declared latency."""
    pace = report.get("pace") or {}
    if pace.get("shed"):
        yield Sign(subject_of(stream), "sheds", *told_of_shedding(stream, pace), "critical", SHED_S)
    elif pace.get("late_since"):
        within = format_duration(int(pace["latency_us"]))
        told = f"{stream.name} decides events later than within {within}: {why_late(pace)[0]}."
        yield Sign(subject_of(stream), "answers late", told, explains(stream.name), "warning", SHED_S)


def told_of_shedding(stream: Resource, pace: Mapping[str, Any]) -> tuple[str, str]:
    """(what, what to do)."""
    within = format_duration(int(pace["latency_us"]))
    told = f"{stream.name} is overloaded: events that cannot be decided within {within} get its fallback."
    action = f"`skyriver stream get {stream.name}` shows what comes and what can be decided."
    return told, f"{action} A smaller model (compress=) decides more, a longer latency= sheds less."


def _slower(seen: Seen, track: Track, report: Mapping[str, Any]) -> tuple[float, float] | None:
    p99 = float((report.get("decision_us") or {}).get("p99", 0))
    if p99:
        track.usually("p99").add(seen.seconds, p99)
    return track.usually("p99").above(SLOWER, SLOWER_US)


def _of_dispatcher(seen: Seen, dispatcher: Resource) -> Iterator[Sign]:
    yield from _away(seen, dispatcher)
    process = seen.sight.snapshot.processes.get(dispatcher.process)
    report = process.report if process is not None and process.alive else {}
    track = seen.track(dispatcher)
    missed = track.of("missed").minutes
    new = track.step("missed", float(report.get("missed", 0)))
    missed.add(seen.seconds, new, new)
    if lately := missed.over(seen.seconds, MISSED_MINUTES)[1]:
        told = f"{lately:,} decisions of {dispatcher.name} were given up before they were acted on."
        yield Sign(subject_of(dispatcher), "missed", told, report.get("next_action") or explains(dispatcher.name))
    if report.get("reason"):
        told = f"The dispatcher of {dispatcher.name} says: {report['reason']}: {report.get('message', '')}"
        action = report.get("next_action") or explains(dispatcher.name)
        yield Sign(subject_of(dispatcher), "says", told, action, "warning", HOLD_S)
    for sink in report.get("sinks", ()):
        if int(sink.get("failures", 0)) >= SINK_FAILURES:
            told = f"The sink {sink['sink']} has not taken anything {sink['failures']} times: {sink['last_error']}."
            action = f"`skyriver sink list {dispatcher.name}` shows what waits for it."
            yield Sign(f"{subject_of(dispatcher)}/sink/{sink['sink']}", "sink", told, action, "critical", HOLD_S)
