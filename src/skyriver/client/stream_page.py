"""How a stream looks to a person: one page of one stream, one line of many."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from skyriver.client.screen import age, coloured
from skyriver.client.sink_page import dispatcher_lines
from skyriver.core.contract import (
    BudgetNow,
    DeadLetter,
    FeatureChangeNow,
    ListNow,
    PaceNow,
    PartitionNow,
    Quantiles,
    SourceNow,
    StreamNow,
)
from skyriver.core.units import format_duration, utc_time

_BARS = "▁▂▃▄▅▆▇█"
_RIGHT = (
    "EVENTS/S",
    "P50",
    "P99",
    "P99.9",
    "ANSWER P99",
    "WAIT",
    "LATE",
    "FALLBACK",
    "DEAD",
    "NOT IN TABLES",
    "KEYS",
    "MEMORY",
)
COLUMNS = ("STREAM", "STATE", *_RIGHT[:-2], "TIME BEHIND", *_RIGHT[-2:])
RAW_SHOWN = 100
SMALL = 10
"""Where so many times less comes than can be decided, turns are small, and tell little of large ones."""


def page(now: StreamNow, *, rates: Sequence[float] = (), trouble: str = "") -> RenderableType:
    """All of one stream. `rates`: events a second at the looks before, for a small curve."""
    parts: list[RenderableType] = [Text.from_markup(_head(now))]
    if now["reason"] or now["message"]:
        why = f"{now['reason']}: " if now["reason"] else ""
        parts.append(Text.from_markup(f"  why        [yellow]{why}{escape(now['message'])}[/]"))
    if now["next_action"]:
        parts.append(Text.from_markup(f"  next       {escape(now['next_action'])}"))
    parts.append(Text.from_markup(f"  decides    {_decides(now)}"))
    parts += [Text.from_markup(f"  rules      {told}") for told in _rules(now)]
    for partition in now["partitions"]:
        parts += [Text.from_markup(f"  {name:<10} {told}") for name, told in _partition(now, partition, rates)]
    if not now["partitions"]:
        parts.append(Text("  no worker yet: it is being started"))
    parts += [
        Text.from_markup(f"  {'tables':<10} {told}" if n == 0 else f"  {'':<10} {told}") for n, told in _tables(now)
    ]
    if now["dispatcher"] is not None:
        parts += [Text.from_markup(f"  {name:<10} {told}") for name, told in dispatcher_lines(now["dispatcher"])]
    if letters := [letter for partition in now["partitions"] for letter in partition["last_dead"]]:
        parts += [Text.from_markup("\n[bold]Last dead letters[/], the newest first:"), dead_table(letters)]
        parts.append(Text.from_markup(f"[dim]`skyriver stream dead {now['name']}` shows more.[/]"))
    if trouble:
        parts.append(Text.from_markup(f"\n[yellow]{escape(trouble)}[/]"))
    return Group(*parts)


def lines(streams: Sequence[StreamNow], rates: Mapping[str, Sequence[float]], trouble: str = "") -> RenderableType:
    """A line a partition."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=True)
    if any(len(looks) > 1 for looks in rates.values()):
        table.add_column("LAST MINUTE", no_wrap=True)
    for now in streams:
        for partition in now["partitions"]:
            table.add_row(*_line(now, partition), curve(rates.get(now["name"], ())))
        if not now["partitions"]:
            table.add_row(now["name"], coloured(now["state"]))
    parts: list[RenderableType] = [table]
    parts += [
        Text.from_markup(f"{now['name']}: [yellow]{escape(now['message'])}[/] {escape(now['next_action'])}")
        for now in streams
        if now["message"]
    ]
    if streams:
        parts.append(Text("\nP50 to P99.9: from an event's append to its durable decision, over the last 10 s.", "dim"))
    else:
        parts.append(Text("There are no streams."))
    if trouble:
        parts.append(Text.from_markup(f"[yellow]{escape(trouble)}[/]"))
    return Group(*parts)


def dead_table(letters: Sequence[DeadLetter]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("OFFSET", "REASON", "MESSAGE", "AS IT CAME"):
        table.add_column(name, overflow="fold", no_wrap=name in ("OFFSET", "REASON"))
    for letter in letters:
        raw = letter["raw"] if len(letter["raw"]) <= RAW_SHOWN else letter["raw"][:RAW_SHOWN] + "…"
        table.add_row(str(letter["offset"]), letter["reason"], escape(letter["message"]), escape(raw))
    return table


def curve(rates: Sequence[float]) -> str:
    """A bar a look, the highest as high as there is."""
    top = max(rates, default=0.0)
    if len(rates) < 2:
        return ""
    return "".join(_BARS[min(len(_BARS) - 1, int(rate / top * len(_BARS)))] if top else _BARS[0] for rate in rates)


def _head(now: StreamNow) -> str:
    return f"[bold]stream {now['name']}[/] is {coloured(now['state'])} for {age(now['since'])}"


def _decides(now: StreamNow) -> str:
    decides = now["decides"]
    if decides is None:
        return "nothing: it takes events in and keeps them"
    version, model = decides["version"], decides["model"]
    if version == 0:
        model = f"no version of {model} yet"
    elif version:
        model = f"{model}:{version}"
    rules = ", ".join(f"{rule['decision']} if {rule['when']}{_named(rule)}" for rule in decides["rules"])
    if decides["combine"]:
        rules = f"the strictest ({' > '.join(decides['combine'])}) of {rules}"
    rest = f"{rules}, otherwise {decides['otherwise']}" if rules else f"always {decides['otherwise']}"
    return f"{escape(model)}: {escape(rest)}; without a score {escape(decides['fallback'])}"


def _rules(now: StreamNow) -> Iterator[str]:
    """Which version, if there is more to say than that it is the first."""
    decides = now["decides"] or {}
    version, trial = decides.get("rules_version", 0), decides.get("trial")
    if trial is None:
        if version > 1:
            yield f"version {version}"
        return
    share = f" for {trial['percent']:g}% of the keys" if trial["percent"] else ""
    told = f"version {version}; version {trial['version']} in {trial['state']}{share}"
    if "events" in trial:
        told += f": differs on {trial['differed']:,} of {trial['events']:,} events"
    yield told if trial["in_use"] else f"{told}, not in use yet"


def _named(rule: Mapping[str, Any]) -> str:
    return f" ({rule['name']})" if rule.get("name") else ""


def _source(source: SourceNow) -> str:
    lag = "" if source["lag"] is None else f", {source['lag']:,} wait there"
    counts = f"{source['messages']:,} messages, {source['dead']:,} dead letters{lag}"
    return f"{escape(source['name'])} is {coloured(source['state'])} for {age(source['since'])}: {counts}"


def _pace(pace: PaceNow) -> str:
    """How the declared latency is kept."""
    within = f"{pace['share']:.1%} to be decided within {format_duration(pace['latency_us'])}"
    threads = pace.get("threads")
    most = threads["most"] if threads is not None else 1
    steps = {"full": "every event is scored", "cheaper": "by the cheaper version", "threads": f"in {most} threads"}
    step = steps.get(pace["step"], pace["step"])
    if pace["step"] != "full":
        step = f"[yellow]{step}[/] for {age(pace['since'])}"
        step += ", and events were shed before" if pace["step"] == "cheaper" and pace["shed_events"] else ""
    lately = ""
    if pace["in_time"] is not None:
        shed = f", {pace['shed']:.1%} shed" if pace["shed"] else ""
        shed += f", {pace['cheaper']:.1%} by the cheaper version" if pace["cheaper"] else ""
        lately = f"; {pace['in_time']:.1%} were{shed} [dim](last 10 s)[/]"
    can = _can(pace)
    if pace.get("late_since"):
        busy = ", ".join(f"{what} {share:.0%}" for what, share in pace.get("busy", {}).items())
        can += f"; [yellow]late for {age(pace['late_since'])}, not by scoring alone:[/] {busy}"
    if threads is not None and threads["in_vain"]:
        can += f"; [yellow]{most} threads brought nothing[/]"
    elif threads is not None and threads["gain"]:
        can += f"; {threads['gain']:.2f} times as many in {most} threads"
    alone = pace["alone_us"]
    if alone is not None and alone > pace["latency_us"] / 2:
        can += f"; [yellow]out of reach:[/] one event alone takes up to {alone / 1000:,.1f} ms"
    return f"{step}; {within}{lately}{can}"


def _can(pace: PaceNow) -> str:
    """What comes, and what can be decided: by whom, for the two versions differ; and whether turns tell it as they are
    when more comes."""
    capacity = pace["capacity"]
    if not capacity:
        return ""
    how = " by the cheaper version" if pace["step"] != "full" and pace["cheaper"] else ""
    if pace["step"] == "full" and pace["rate_in"] < capacity / SMALL:
        how = " [dim](reckoned from small turns)[/]"
    return f"; {pace['rate_in']:,.0f} events/s come now, {capacity:,.0f} can be{how}"


def _partition(now: StreamNow, p: PartitionNow, rates: Sequence[float]) -> Iterator[tuple[str, str]]:
    """(name, what) of each line."""
    yield (
        "now",
        (
            f"{p['events_per_second']:,.0f} events/s, {p['decisions_per_second']:,.0f} decisions/s"
            f" [dim](last 10 s)[/] {curve(rates)}".rstrip()
        ),
    )
    durable = "on the disk" if now["durability"] == "disk" else "safe from the end of the process"
    yield "latency", f"append to decision {durable}: {_latency(p['decision_us'])}"
    yield "", f"request to answer: {_latency(p['answer_us'])}"
    yield (
        "lag",
        (
            f"{p['waiting_rows']:,} rows wait, {p['undecided']:,} events without a decision,"
            f" {p['not_materialised']:,} records not in the tables yet"
        ),
    )
    if p["pace"] is not None:
        yield "pace", _pace(p["pace"])
    if p["source"] is not None:
        yield "source", _source(p["source"])
    yield "time", _time(p)
    yield "events", f"{p['events']:,} taken: {_counts(_statuses(p)) or 'none decided'}"
    scored = ("NO_DECISIONS", "BUDGET_SPENT", "CHEAPER")
    unscored = {why: count for why, count in p["by_reason"].items() if why not in scored}
    if unscored:
        yield "", f"no score because: {_counts(unscored)}"
    if cheaper := p["by_reason"].get("CHEAPER", 0):
        yield "", f"{cheaper:,} scored by the cheaper version in all"
    decisions = {decision: count for decision, count in p["by_decision"].items() if decision}
    if decisions:
        yield "decisions", _counts(decisions)
    for budget in p["budgets"]:
        yield "budget", _budget(budget)
    if p["budgets"]:
        yield "", f"{p['by_reason'].get('BUDGET_SPENT', 0):,} events with a score were beyond a budget"
    rows = f", {p['reference_rows']:,} rows of references" if p["reference_rows"] else ""
    yield (
        "besides",
        f"{p['duplicates']:,} duplicates, {p['labels']:,} labels, {p['history_rows']:,} rows of loaded history{rows}",
    )
    for kept in p["lists"]:
        yield "list", _list(kept)
    reasons = f": {_counts(p['dead_by_reason'])}" if p["dead_by_reason"] else ""
    yield "dead", f"{p['dead']:,} refused{reasons}"
    yield "checkpoint", _checkpoint(now, p)
    parts = ", ".join(f"{name} {size(of)}" for name, of in p["stored_bytes"].items())
    yield "disk", parts or "not measured yet"
    yield "log", _log(p)
    each = f", {p['feature_bytes'] / p['feature_keys']:,.0f} bytes a key" if p["feature_keys"] else ""
    yield "memory", (f"{p['rss_mb']:,.0f} MB; features {size(p['feature_bytes'])} for {p['feature_keys']:,} keys{each}")
    for keys in p["keys"]:
        yield "", f"{keys['held']:,} keys of {escape(keys['by'])}, {_each(keys['least_bytes'], keys['most_bytes'])}"
    if p["feature_change"] is not None:
        yield "change", _change(p["feature_change"])
    up = f", pid {p['pid']}, up {age(p['started_at'])}" if p["pid"] else ""
    yield "worker", f"{p['worker']} {coloured(p['state'])}{up}; its log was opened {p['epoch']:,} times"
    if p["message"] and p["message"] not in now["message"]:
        why = f"{p['reason']}: " if p["reason"] else ""
        yield "", f"[yellow]{escape(why + p['message'])} {escape(p['next_action'])}".rstrip() + "[/]"


def _list(each: ListNow) -> str:
    changed = f", last changed at {utc_time(each['changed_at'])} UTC by its events" if each["changed_at"] else ""
    return f"{escape(each['name'])}: {each['ids']:,} on it{changed}"


def _budget(budget: BudgetNow) -> str:
    decision, beyond = escape(budget["decision"]), f"beyond it {escape(budget['overflow'])}"
    if budget["spent"] is not None:
        return f"{decision}: {budget['spent']:,} of {budget['most']:,} in the last {budget['per']}, {beyond}"
    each = f"{budget['most']:,} in {budget['per']} for each {escape(budget['by'])}"
    return f"{decision}: {each}, {beyond}; {budget['keys'] or 0:,} of these have some now"


def _statuses(p: PartitionNow) -> Mapping[str, int]:
    """What is not to be decided (NO_DECISIONS) has the status `fallback`, and is only kept."""
    kept = p["by_reason"].get("NO_DECISIONS", 0)
    statuses = {**p["by_status"], "fallback": p["by_status"].get("fallback", 0) - kept, "kept": kept}
    return {status: count for status, count in statuses.items() if count}


def _each(least: int, most: int) -> str:
    return f"{least:,} bytes each" if least == most else f"{least:,} to {most:,} bytes each"


def _change(change: FeatureChangeNow) -> str:
    """Of changed features: how far they are, and what they cost."""
    cost = f"{change['memory_mb']:,.0f} MB of memory, {change['disk_mb']:,.0f} MB of disk"
    built = f"{change['cpu_seconds']:,.1f} s of CPU, {change['events_per_second']:,.0f} events/s"
    match change["state"]:
        case "ready":
            return f"features {change['digest'][:12]} are ready beside those that decide: {cost}; built with {built}"
        case "waiting":
            at = time.strftime("%Y-%m-%d %H:%M", time.gmtime((change["whole_from"] or 0) / 1e6))
            return f"features {change['digest'][:12]} may decide from {at} UTC of the stream's time on: {cost}"
        case "compiling":
            return f"features {change['digest'][:12]} are compiled, before they are built from the log: {built}, {cost}"
        case _:
            done = f"{change['offset']:,} of {change['end']:,} records"
            return f"features {change['digest'][:12]} are {change['state']}: {done}, {built}, {cost}"


def _tables(now: StreamNow) -> Iterator[tuple[int, str]]:
    for place, table in enumerate(now["tables"]):
        told = f"{table['rows']:,} rows, {size(table['bytes'])}, version {table['version']}"
        yield place, f"{table['name']}: {told}, {age(table['updated_at'])} ago"


def _line(now: StreamNow, p: PartitionNow) -> Iterator[str]:
    latency = p["decision_us"]
    yield now["name"]
    yield coloured(now["state"])
    yield f"{p['events_per_second']:,.0f}"
    yield from (_milliseconds(latency["p50"]), _milliseconds(latency["p99"]), _milliseconds(latency["p999"]))
    yield _milliseconds(p["answer_us"]["p99"])
    yield f"{p['waiting_rows'] + p['undecided']:,}"
    yield f"{p['by_status'].get('late', 0):,}"
    yield f"{_statuses(p).get('fallback', 0) + p['by_status'].get('failed', 0):,}"
    yield f"{p['dead']:,}"
    yield f"{p['not_materialised']:,}"
    yield _span(p["behind_seconds"]) if p["behind_seconds"] is not None else ""
    yield f"{p['feature_keys']:,}"
    yield f"{p['rss_mb']:,.0f} MB"


def _latency(found: Quantiles) -> str:
    if not found["p999"]:
        return "[dim]nothing came in the last 10 s[/]"
    return f"p50 {_milliseconds(found['p50'])}, p99 {_milliseconds(found['p99'])}, p99.9 {_milliseconds(found['p999'])}"


def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:.2f} ms" if microseconds else "-"


def _time(p: PartitionNow) -> str:
    """The stream's own time: its windows end there."""
    if p["effective_time"] is None or p["behind_seconds"] is None:
        return "not begun: no event has come"
    return f"{utc_time(p['effective_time'])} UTC by its events, {_span(p['behind_seconds'])} behind the clock"


def _log(p: PartitionNow) -> str:
    text = f"offsets {p['first_offset']:,} to {max(p['offset'] - 1, 0):,}, {size(p['log_bytes'])}"
    if p["local_log_bytes"] < p["log_bytes"] or p["tier_lag_bytes"]:
        text += f", {size(p['local_log_bytes'])} of it here, {size(p['tier_lag_bytes'])} not in the tier yet"
    return text


def _checkpoint(now: StreamNow, p: PartitionNow) -> str:
    if not p["checkpoint_at"]:
        return "none yet"
    seconds = max(0, now["at"] - p["checkpoint_at"]) / 1e6
    behind = max(0, p["offset"] - p["checkpoint_offset"])
    return (
        f"{_span(seconds)} ago; a restart replays {behind:,} records;"
        f" events waited {_milliseconds(p['checkpoint_pause_us'])} for it"
    )


def _counts(counts: Mapping[str, Any]) -> str:
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return escape(", ".join(f"{count:,} {name}" for name, count in ranked))


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.1f} s"


def size(number: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:,.1f} {unit}"
    return f"{number:,} bytes"
