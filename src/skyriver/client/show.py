"""How things look on the screen: one function a thing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from skyriver.client.screen import Screen, age, coloured

if TYPE_CHECKING:
    from skyriver.core.spec import AppSpec

_SIGNS = {"create": "[green]+[/]", "update": "[yellow]~[/]", "remove": "[red]-[/]", "keep": " ", "orphan": "[dim]?[/]"}


def plan(screen: Screen, app: str, lines: Sequence[Mapping[str, Any]]) -> None:
    screen.say(f"Plan for the application [bold]{app}[/]:")
    for line in lines:
        detail = f"  [dim]{escape(line['detail'])}[/]" if line["detail"] else ""
        screen.say(f"  {_SIGNS[line['action']]} {line['action']:<6} {line['kind']:<8} {line['name']}{detail}")


def deployed(screen: Screen, spec: AppSpec) -> None:
    screen.say("Done.")
    if spec.streams:
        screen.say(f"Next: [bold]skyriver table load {spec.streams[0].name} FILE[/], then [bold]skyriver run[/]")
    elif spec.tables:
        screen.say(f"Next: [bold]skyriver table load {spec.tables[0].name} FILE[/], then [bold]skyriver run[/]")
    elif spec.models:
        screen.say(f"Next: [bold]skyriver predict {spec.models[0].name} FIELD=VALUE ...[/]")


def loaded(screen: Screen, table: str, report: Mapping[str, Any]) -> None:
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in report.get("counts", {}).items()]
    screen.table(f"Loaded into {table}", ("what", "rows"), rows)
    for reason, count in report.get("bad_by_reason", {}).items():
        screen.say(f"  set aside: {count:,} x {reason}")
    if ignored := report.get("ignored_columns"):
        screen.say(f"  columns not in the declaration, left out: {', '.join(ignored)}")


def version(screen: Screen, found: Mapping[str, Any]) -> None:
    spec, status = found["spec"], found["status"]
    rows = [(name, f"{value:.4f}") for name, value in sorted(spec["metrics"].items())]
    screen.table(f"{found['name']}  {found['state']}", ("metric", "value"), rows)
    for candidate in spec.get("candidates", ()):
        screen.say(f"  candidate {candidate['name']}: {escape(str(candidate.get('why', '')))}")
    for check in status.get("gate", {}).get("checks", ()):
        sign = "[green]passed[/]" if check["passed"] else "[red]failed[/]"
        screen.say(f"  gate {escape(check['rule'])}: {sign} ({escape(check['why'])})")


def prediction(screen: Screen, answer: Mapping[str, Any]) -> None:
    head = f"{answer['model']}:{answer['version']}"
    rest = {k: v for k, v in answer.items() if k not in ("model", "version")}
    for name, value in rest.items():
        shown = f"{value:.6f}" if isinstance(value, float) else escape(str(value))
        screen.out.print(f"{head}  {name} = [bold]{shown}[/]")


@dataclass
class Sent:
    """What became of events that were sent."""

    accepted: int = 0
    duplicates: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    rejected: list[Mapping[str, Any]] = field(default_factory=list)
    labels: int = 0
    seconds: float = 0.0

    def add(self, answer: Mapping[str, Any]) -> None:
        self.accepted += answer["accepted"]
        self.duplicates += answer["duplicates"]
        self.rejected += answer["rejected"]
        for decision in answer.get("decisions", ()):
            if decision is not None:
                self.decisions[decision["decision"]] += 1
                self.statuses[decision["status"]] += 1

    def add_labels(self, answer: Mapping[str, Any]) -> None:
        self.labels += answer["accepted"]
        self.rejected += answer["rejected"]

    def to_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "labels": self.labels,
            "decisions": dict(self.decisions),
            "statuses": dict(self.statuses),
            "rejected": list(self.rejected),
            "seconds": self.seconds,
        }


def sent(screen: Screen, result: Sent) -> None:
    if result.labels:
        screen.out.print(f"{result.labels:,} labels taken.")
    else:
        screen.out.print(f"{result.accepted:,} events taken and decided in {result.seconds:.1f} s.")
        screen.table("", ("decision", "events"), [(d, f"{n:,}") for d, n in result.decisions.most_common()])
    if result.duplicates:
        screen.out.print(f"{result.duplicates:,} were sent before: answered with their first decision.")
    for bad in result.rejected[:10]:
        screen.out.print(f"[red]refused[/] row {bad['index']}: {escape(bad['message'])}")


def running(screen: Screen, document: Mapping[str, Any]) -> None:
    rows = [("stream", s["name"], s["state"], _model_of(s), s["message"]) for s in document["streams"]]
    for service in document["services"]:
        split = ", ".join(f"v{v} {w['weight']}%" for v, w in service["spec"]["versions"].items())
        rows.append(("service", service["name"], service["state"], split, service["message"]))
    screen.table("", ("KIND", "NAME", "STATE", "SERVES", "MESSAGE"), rows)
    screen.out.print()
    processes = [
        (
            p["kind"],
            p["name"],
            p["state"],
            p["pid"],
            age(p["started_at"]),
            f"{p['rss_mb']:.0f} MB",
            f"{p['cpu_seconds']:.1f} s",
        )
        for p in document["processes"]
        if p["alive"]
    ]
    screen.table("", ("PROCESS", "NAME", "STATE", "PID", "UP", "MEMORY", "CPU"), processes)


def _model_of(stream: Mapping[str, Any]) -> str:
    version = stream["status"].get("model_version")
    decide = stream["spec"].get("decide")
    return f"{decide['model']}:{version}" if decide and version else ""


def explained(screen: Screen, items: Sequence[Mapping[str, Any]]) -> None:
    for item in items:
        since = f" since {age(item['since'])}" if item["since"] else ""
        screen.out.print(f"[bold]{item['kind']} {item['name']}[/] is {coloured(item['state'])}{since}")
        if item["reason"]:
            screen.out.print(f"  why   {item['reason']}: {escape(item['message'])}")
        if item["next_action"]:
            screen.out.print(f"  next  {escape(item['next_action'])}")
        for name, value in sorted(_facts(item)):
            screen.out.print(f"  [dim]{name:<16}[/] {escape(str(value))}")
        if item["log"]:
            screen.out.print("  last lines of its log:")
            for line in item["log"]:
                screen.out.print(f"    [dim]{escape(line)}[/]")


def _facts(item: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The small, telling values of a status and of what the process reports."""
    facts: dict[str, Any] = {}
    for source in (item["status"], *item["processes"].values()):
        facts |= {k: v for k, v in source.items() if isinstance(v, str | int | float | bool) and v not in ("", None)}
    if item["kind"] == "version":
        facts |= {k: f"{v:.4f}" for k, v in item["spec"].get("metrics", {}).items()}
    if item["kind"] == "model":
        facts |= {f"@{alias}": v for alias, v in item["status"].get("aliases", {}).items()}
    return list(facts.items())


_COLUMNS = {
    "tables": ("version", "rows", "bytes"),
    "models": ("aliases",),
    "versions": ("settled",),
    "jobs": ("progress",),
}


def resources(screen: Screen, kinds: str, items: Sequence[Mapping[str, Any]]) -> None:
    columns = _COLUMNS.get(kinds, ())
    rows = [
        (
            item["name"],
            item["state"],
            item["reason"],
            age(item["updated_at"]),
            *(_cell(item["status"].get(c)) for c in columns),
        )
        for item in items
    ]
    screen.table("", ("NAME", "STATE", "REASON", "UPDATED", *(c.upper() for c in columns)), rows)


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
    if report["different"]:
        screen.out.print(f"[red]{report['different']:,} of {report['compared']:,} feature rows differ.[/]")
        for difference in report["first_differences"]:
            screen.out.print(f"  {escape(str(difference))}")
    else:
        screen.out.print(f"[green]{report['compared']:,} recorded feature rows equal the backfill, bit for bit.[/]")
