"""How things look on the screen: one function a thing."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from skyriver.client import scaling_page, service_page, sizing_page, version_page
from skyriver.client.screen import Screen, age, coloured
from skyriver.core.units import utc_time

if TYPE_CHECKING:
    from skyriver.client.sending import Sent
    from skyriver.client.shell import Finding
    from skyriver.core.spec import AppSpec

EXAMPLES = 10
"""Bad rows that are shown; JSON output has all."""
ENDS = 5
"""Of a part, that are shown; JSON output has all."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x08")
"""Colours, moves of the cursor and titles (ECMA-48)."""
_SIGNS = {
    "create": "[green]+[/]",
    "update": "[yellow]~[/]",
    "remove": "[red]-[/]",
    "keep": " ",
    "orphan": "[dim]?[/]",
    "warn": "[bold yellow]![/]",
}


def plan(screen: Screen, app: str, lines: Sequence[Mapping[str, Any]]) -> None:
    screen.say(f"Plan for the application [bold]{app}[/]:")
    for line in lines:
        detail = f"  [dim]{escape(line['detail'])}[/]" if line["detail"] else ""
        screen.say(f"  {_SIGNS[line['action']]} {line['action']:<6} {line['kind']:<8} {line['name']}{detail}")


def warnings(screen: Screen, lines: Sequence[Mapping[str, Any]]) -> None:
    for line in lines:
        screen.say(f"  {_SIGNS['warn']} warn   {line['kind']:<8} {line['name']}  [dim]{escape(line['detail'])}[/]")


def plan_difference(screen: Screen, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """What a plan that was confirmed has and the one of now has not, and the other way round."""
    screen.say("The plan has changed since it was shown:")
    differs = False
    for what, lines, others in (("no longer", before, now), ("now", now, before)):
        for line in (line for line in lines if line not in others):
            differs = True
            detail = f"  [dim]{escape(line['detail'])}[/]" if line["detail"] else ""
            screen.say(f"  {what:<9} {line['action']:<6} {line['kind']:<8} {line['name']}{detail}")
    if not differs:
        screen.say("  the same steps, on what somebody else has written since.")


def deployed(
    screen: Screen, spec: AppSpec, changes: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]] = ()
) -> None:
    """`ended`: the operations that were waited for; a version that takes longer to take over says what it does."""
    screen.say("Done.")
    for step in (step for operation in ended for step in operation["status"].get("steps", ())):
        if step["ref"].startswith("version/") and step["message"]:
            screen.say(f"{escape(step['ref'].partition('/')[2])}: {escape(step['message'])}")
    created = {line["kind"] for line in changes if line["action"] == "create"}
    trained = any(model.train for model in spec.models)
    then = ", then [bold]skyriver run[/]" if trained else ""
    if not created & {"stream", "table", "model"}:
        if trained and any(of_training(line) for line in changes):
            screen.say("Next: [bold]skyriver run[/] trains with it.")
    elif spec.streams:
        name = spec.streams[0].name
        send = "" if trained else f", or [bold]skyriver send {name} FILE[/]"
        screen.say(f"Next: [bold]skyriver table load {name} FILE[/]{then or send}")
    elif spec.tables:
        screen.say(f"Next: [bold]skyriver table load {spec.tables[0].name} FILE[/]{then}")
    elif spec.models:
        screen.say(f"Next: [bold]skyriver predict {spec.models[0].name} FIELD=VALUE ...[/]")


def of_training(change: Mapping[str, Any]) -> bool:
    """Whether another training would make something else of it; a limit of the log, say, changes no model."""
    return change["kind"] == "model" or (change["kind"] == "stream" and "features" in change["detail"].split(";")[0])


def loaded(screen: Screen, table: str, report: Mapping[str, Any]) -> None:
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in report.get("counts", {}).items()]
    screen.table(f"Loaded into {table}", ("what", "rows"), rows)
    for reason, count in report.get("bad_by_reason", {}).items():
        screen.say(f"  set aside: {count:,} x {reason}")
    for bad in report.get("examples", ())[:EXAMPLES]:
        screen.say(f"    {escape(bad['file'])}, row {bad['row']}: {escape(bad['message'])}")
    if ignored := report.get("ignored_columns"):
        screen.say(f"  columns not in the declaration, left out: {', '.join(ignored)}")


def prediction(screen: Screen, answer: Mapping[str, Any]) -> None:
    head = f"{answer['model']}:{answer['version']}"
    rest = {k: v for k, v in answer.items() if k not in ("model", "version")}
    for name, value in rest.items():
        shown = f"{value:.6f}" if isinstance(value, float) else escape(str(value))
        screen.out.print(f"{head}  {name} = [bold]{shown}[/]")


def sent(screen: Screen, result: Sent) -> None:
    if result.labels:
        screen.out.print(f"{result.labels:,} labels taken.")
    elif result.reference_rows:
        screen.out.print(f"{result.reference_rows:,} rows of a reference taken.")
    else:
        and_decided = "" if result.reasons["NO_DECISIONS"] else " and decided"
        screen.out.print(f"{result.accepted:,} events taken{and_decided} in {result.seconds:.1f} s.")
        if result.duplicates:
            screen.out.print(f"{result.duplicates:,} were sent before: answered with their first decision.")
        decided = [(d, f"{n:,}") for d, n in result.decisions.most_common() if d]
        if decided:
            screen.table("", ("decision", "events"), decided)
        if kept := result.reasons["NO_DECISIONS"]:
            screen.out.print(f"{kept:,} are kept; the application declares no decisions on this stream (`app.decide`).")
        if cheaper := result.reasons["CHEAPER"]:
            screen.out.print(f"[yellow]{cheaper:,} by the cheaper version[/]: `skyriver stream get` shows what comes.")
        if shed := result.reasons["SHED"]:
            screen.out.print(
                f"[yellow]{shed:,} by the fallback[/], for more came than could be decided within the declared latency"
                " (SHED): send less at a time; `skyriver explain` with the stream's name says more."
            )
        if fallbacks := result.statuses["fallback"] - kept - cheaper - shed:
            screen.out.print(f"[yellow]{fallbacks:,} by the fallback[/], not by a model: `skyriver ps` says why.")
        if late := result.statuses["late"]:
            screen.out.print(
                f"[yellow]{late:,} were late[/]: decided without a score (LATE), for the stream had seen events newer"
                " by more than its disorder."
            )
        if failed := result.statuses["failed"]:
            screen.out.print(f"[yellow]{failed:,} without a score[/], for the model failed: `skyriver ps` says why.")
    if result.unknown_subjects:
        screen.out.print(f"Of them, {result.unknown_subjects:,} about events that the stream has not seen.")
    if result.rejected:
        screen.out.print(
            f"[red]{len(result.rejected):,} refused[/], kept with their reasons in the stream's dead letters:"
        )
    for bad in result.rejected[:EXAMPLES]:
        screen.out.print(f"  row {bad['index'] + 1}: {escape(bad['message'])}")


def running(screen: Screen, document: Mapping[str, Any]) -> None:
    for incident in document["incidents"]:
        what = f"[bold]{incident['name']}[/] {incident['status']['severity']}: {escape(incident['message'])}"
        screen.out.print(f"[red]![/] {what}")
    if document["incidents"]:
        screen.out.print("  `skyriver incident get NAME` shows what was done, and what to do next.\n")
    if not document["streams"] and not document["services"]:
        if document["parts"]:
            parts(screen, document["parts"])
        screen.say("The cloud runs, and nothing is deployed yet.")
        screen.say("Next: [bold]skyriver deploy APP.py[/] ([bold]skyriver init[/] writes an example).")
        return
    rows = [("stream", s["name"], s["state"], _model_of(s), _message(s)) for s in document["streams"]]
    scaled = {row["name"]: row for row in document["scalings"]}
    objectives = {told["name"]: told for told in document.get("objectives", ())}
    for service in document["services"]:
        split = [f"v{v} {w['weight']}%" for v, w in service["spec"]["versions"].items()]
        split += filter(None, [scaling_page.replicas(service)])
        message = service_page.missed(objectives.get(service["name"]))
        message = message or _message(service) or scaling_page.why(scaled.get(service["name"]))
        rows.append(("service", service["name"], service["state"], ", ".join(split), message))
    screen.table("", ("KIND", "NAME", "STATE", "SERVES", "MESSAGE"), rows)
    screen.out.print()
    parts(screen, [*document["parts"], *(p for p in document["processes"] if p["alive"])])


def parts(screen: Screen, processes: Sequence[Mapping[str, Any]]) -> None:
    """A table of processes, those of the cloud itself among them, and what is wrong with one of these."""
    rows = [
        (
            p["kind"],
            p["name"],
            p["state"],
            p["pid"] or "",
            age(p["started_at"]) if p["pid"] and p["started_at"] else "",
            f"{p['rss_mb']:.0f} MB" if p["pid"] else "",
            f"{p['cpu_seconds']:.1f} s" if p["pid"] else "",
        )
        for p in processes
    ]
    screen.table("", ("PROCESS", "NAME", "STATE", "PID", "UP", "MEMORY", "CPU"), rows)
    for p in processes:
        if p["kind"] == "part" and p["message"]:
            screen.out.print(f"{p['name']}: {p['reason']}: {escape(_message(p))}")


def findings(screen: Screen, found: Sequence[Finding]) -> None:
    signs = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
    for finding in found:
        screen.out.print(f"{signs[finding.result]}  [bold]{finding.name}[/]  {escape(finding.seen)}")
        if finding.result != "ok":
            screen.out.print(f"      {escape(finding.meaning)}")
            screen.out.print(f"      → {escape(finding.action)}")
    bad = [f for f in found if f.result != "ok"]
    count = f"{len(bad)} of {len(found)} checks have something to mend" if bad else f"All {len(found)} checks are fine"
    screen.say(f"{count}.")


def _message(item: Mapping[str, Any]) -> str:
    return f"{item['message']} {item['next_action']}".strip()


def _model_of(stream: Mapping[str, Any]) -> str:
    version = stream["status"].get("model_version")
    decide = stream["spec"].get("decide")
    return f"{decide['model']}:{version}" if decide and version else ""


def explained(
    screen: Screen, items: Sequence[Mapping[str, Any]], story: Sequence[str] = (), *, counters: bool = True
) -> None:
    """`story`: of the last change, in sentences, which come before what is no service that scales. Without `counters`
    a service's processes are a line each."""
    scalings = {item["name"]: item for item in items if item["kind"] == "scaling"}
    services = {item["name"]: item for item in items if item["kind"] == "service"}
    told = [escape(sentence) for sentence in story]
    for item in service_page.in_order(items):
        if item["kind"] not in ("service", "scaling") or item["name"] not in scalings:
            _tell(screen, told)
        how_long = f" for {age(item['since'])}" if item["since"] else ""
        screen.out.print(f"[bold]{item['kind']} {item['name']}[/] is {coloured(item['state'])}{how_long}")
        _print_why(screen, item)
        if item["kind"] == "scaling":
            service = services.get(item["name"])
            asleep = service is not None and service_page.is_asleep(service)
            scaling_page.scaling(screen, item, service.get("objective") if service else None, is_asleep=asleep)
        else:
            if item["kind"] == "service":
                scaling = scalings.get(item["name"])
                for word, sentence in (*service_page.lines(item, scaling), *sizing_page.lines(item, scaling)):
                    screen.out.print(f"  [dim]{word:<10}[/] {escape(sentence)}")
            if item["kind"] != "service" or counters:
                _print_facts(screen, _facts_of(item))
        if item["kind"] == "version":
            version_page.gate(screen, item["status"])
        for name, report in item["processes"].items():
            if report.get("alive"):
                brief = service_page.process(report) if item["kind"] == "service" and not counters else ""
                said = f", {brief}" if brief else ""
                screen.out.print(f"  process {name}, pid {report['pid']}, up {age(report['started_at'])}{said}")
                if not brief:
                    _print_facts(screen, _plain(report))
        _print_log(screen, item["log"])
    _tell(screen, told)


def _tell(screen: Screen, sentences: list[str]) -> None:
    """Each once."""
    while sentences:
        screen.out.print(sentences.pop(0))


def _print_why(screen: Screen, item: Mapping[str, Any]) -> None:
    """Its reason, what to do, what it waits for and tried."""
    if item["reason"] or item["message"]:
        why = f"{item['reason']}: " if item["reason"] else ""
        screen.out.print(f"  why   {why}{escape(item['message'])}")
    if item["next_action"]:
        screen.out.print(f"  next  {escape(item['next_action'])}")
    for waiting in item["waits_for"]:
        screen.out.print(f"  waits {_waiting(waiting)}")
    for attempt in item["tried"]:
        why = f"{attempt.get('reason', '')}: {attempt.get('message', '')}".strip(": ")
        screen.out.print(f"  tried attempt {attempt.get('attempt', '?')}: {escape(why or 'under way')}")
    for text in item["next_pass"]:
        screen.out.print(f"  now   it {escape(text)}")
    if helps := [h for h in item["helps"] if h != item["next_action"]]:
        screen.out.print(f"  would help: {escape(' '.join(helps))}")


def _print_log(screen: Screen, lines: Sequence[str]) -> None:
    if lines:
        screen.out.print("  last lines of its log:")
        for line in lines:
            screen.out.print(f"    [dim]{escape(line)}[/]")


def part(screen: Screen, row: Mapping[str, Any]) -> None:
    """A part of the cloud itself, and how it ended before."""
    how_long = f" for {age(row['started_at'])}" if row["started_at"] else ""
    screen.out.print(f"[bold]{row['kind']} {row['name']}[/] is {coloured(row['state'])}{how_long}")
    if row["message"]:
        screen.out.print(f"  why   {row['reason']}: {escape(row['message'])}")
    if row["next_action"]:
        screen.out.print(f"  next  {escape(row['next_action'])}")
    for end in row["ends"][-ENDS:]:
        screen.out.print(f"  ended {age(end['at'])} ago: {escape(end['why'])}")
    if row["pid"]:
        screen.out.print(f"  process {row['name']}, pid {row['pid']}, {row['rss_mb']:.0f} MB")
    _print_log(screen, row["log"])


def _waiting(waiting: Mapping[str, Any]) -> str:
    """`for job/x, RUNNING (fit 40%): why`."""
    progress = _cell(waiting["progress"]) if waiting["state"] in ("STARTING", "RUNNING") else ""
    why = f"{waiting['reason']} {waiting['message']}".strip()
    return (
        f"for {waiting['ref']}, {coloured(waiting['state'] or 'gone')}"
        f"{f' ({escape(progress)})' if progress else ''}{f': {escape(why)}' if why else ''}"
    )


_TOLD = frozenset({"alive", "pid", "dead_pid", "started_at", "ready", "routed", "worker", "settled"})
"""What is said in other words, or says nothing to a person."""


def _plain(source: Mapping[str, Any]) -> dict[str, Any]:
    """The small, telling values."""
    return {
        k: v
        for k, v in source.items()
        if isinstance(v, str | int | float) and not isinstance(v, bool) and v != "" and k not in _TOLD
    }


def _facts_of(item: Mapping[str, Any]) -> dict[str, Any]:
    facts = _plain(item["status"])
    match item["kind"]:
        case "version":
            facts |= {k: f"{v:.4f}" for k, v in item["spec"].get("metrics", {}).items()} | _tags(item)
        case "model":
            facts |= {f"@{alias}": v for alias, v in item["status"].get("aliases", {}).items()} | _tags(item)
        case (
            "stream"
        ):  # whom it follows is told by what there is, and which declaration a worker has is the loop's matter
            arms = ("canary", "shadow", "model_version")
            facts = {k: v for k, v in facts.items() if k != "generation" and (v or k not in arms)}
        case "operation":
            facts |= {step["ref"]: step["state"] for step in item["status"].get("steps", ())}
    return facts


def _tags(item: Mapping[str, Any]) -> dict[str, Any]:
    return {f"#{key}": value for key, value in item["status"].get("tags", {}).items()}


def _print_facts(screen: Screen, facts: Mapping[str, Any]) -> None:
    for name, value in sorted(facts.items()):
        screen.out.print(f"    [dim]{name:<16}[/] {_fact(name, value)}")


_MOMENTS = frozenset({"looked", "judged", "ended"})
"""Wall times (microseconds), beside what ends with _at, _time or _since."""


def _fact(name: str, value: object) -> str:
    if isinstance(value, int) and (name in _MOMENTS or name.endswith(("_time", "_at", "_since"))):
        return f"{utc_time(value)} UTC"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


_COLUMNS = {
    "tables": ("version", "rows", "bytes"),
    "models": ("aliases",),
    "versions": ("settled",),
    "jobs": ("progress", "message"),
    "schedules": ("cron", "next_time", "last_time"),
}


def resources(screen: Screen, kinds: str, items: Sequence[Mapping[str, Any]], *, as_given: bool = False) -> None:
    """In the order of names, or `as_given`."""
    columns = _COLUMNS.get(kinds, ())
    if any(item["status"].get("tags") for item in items):
        columns = (*columns, "tags")
    rows = [
        (
            item["name"],
            item["state"],
            item["reason"],
            age(item["updated_at"]),
            *(_cell(_value(item, c)) for c in columns),
        )
        for item in (items if as_given else sorted(items, key=lambda i: in_order(i["name"])))
    ]
    if not rows:
        screen.say(f"There are no {kinds}.")
        return
    screen.table("", ("NAME", "STATE", "REASON", "UPDATED", *(c.removesuffix("_time").upper() for c in columns)), rows)


def _value(item: Mapping[str, Any], column: str) -> object:
    if column == "progress" and item["state"] not in ("STARTING", "RUNNING", "CANCELLING"):
        return None
    if column == "cron":
        return f"{item['spec']['cron']['expression']} {item['spec']['cron']['zone']}"
    if column == "message":
        return item["message"]
    found = item["status"].get(column)
    return _fact(column, found) if column.endswith("_time") and found else found


def in_order(name: str) -> list[tuple[int, str]]:
    """Sorts `load-10` after `load-9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case int():
            return f"{value:,}"
        case {"stage": stage, "done": int(done), "total": int(total)}:
            return f"{stage} {100 * done // total}%" if total else str(stage)
        case dict():
            return ", ".join(f"{k} {v}" for k, v in value.items())
        case _:
            return str(value)


def resource(screen: Screen, found: Mapping[str, Any]) -> None:
    screen.out.print_json(data=dict(found))


def history(screen: Screen, model: Mapping[str, Any]) -> None:
    rows = [
        (
            f"{model['name']}:{e['version']}",
            e["cause"],
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(e["at"] / 1e6)),
        )
        for e in reversed(model["status"].get("history", []))
    ]
    screen.table("", ("VERSION", "BY", "SINCE"), rows)


def verified(screen: Screen, report: Mapping[str, Any]) -> None:
    if not report["compared"]:
        screen.out.print("The stream has recorded no feature rows yet: nothing is decided by a model so far.")
    elif report["different"]:
        screen.out.print(f"[red]{report['different']:,} of {report['compared']:,} feature rows differ.[/]")
        for difference in report["first_differences"]:
            screen.out.print(f"  {escape(str(difference))}")
    else:
        screen.out.print(f"[green]{report['compared']:,} recorded feature rows equal the backfill, bit for bit.[/]")


def _as_it_ended(written: str, *, plain: bool) -> str:
    """The last of what was written over each other that says something."""
    stood = [part for part in written.split("\r") if _CONTROL.sub("", part)] or [""]
    return _CONTROL.sub("", stood[-1]) if plain else stood[-1].rstrip("\b")


def log_lines(screen: Screen, lines: Sequence[tuple[str, str]]) -> None:
    """Straight to stdout, each at once: what processes print is no markup and is often piped. Of a line that was
    written over, as progress bars are, what stood there at the end; without colours where there is no terminal."""
    plain = not sys.stdout.isatty()
    for name, written in lines:
        line = written if screen.as_json else _as_it_ended(written, plain=plain)
        print(json.dumps({"name": name, "line": line}) if screen.as_json else f"{name} | {line}", flush=True)
