"""How versions of rules look to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape

from skyriver.client.screen import Screen, age, coloured
from skyriver.core.contract import RulesCompared, RulesVersion
from skyriver.core.units import utc_time

_ORIGINS = {"deploy": "deployed", "hand": "given by hand", "tune": "tuned"}


def listed(screen: Screen, versions: Sequence[RulesVersion]) -> None:
    columns = ("VERSION", "STATE", "SINCE", "FROM", "DIFFERS", "WHY")
    screen.table("", columns, [_line(version) for version in reversed(versions)])


def told(screen: Screen, version: RulesVersion) -> None:
    """After something was asked of it."""
    percent = f" for {version['percent']:g}% of the keys" if version["percent"] else ""
    screen.say(f"Version {version['version']} of the rules of {version['stream']} is {version['state']}{percent}.")
    for warning in version["warnings"] if version["state"] == "CANDIDATE" else ():
        screen.say(f"  [bold yellow]![/] {escape(warning)}")
    if version["state"] in ("SHADOW", "CANARY", "LIVE") and not version["in_use"]:
        screen.say(f"The stream does not use it yet: `skyriver stream get {version['stream']}` shows why.")


def page(screen: Screen, version: RulesVersion) -> None:
    for line in _lines(version):
        screen.out.print(line)
    compared = version["compared"]
    if compared is None:
        return
    screen.out.print(f"\n{_compared(version, compared)}")
    if not compared["events"]:
        return
    columns = ("RULES THAT DECIDE", f"VERSION {version['version']}", "EVENTS", "OF 1,000")
    rows = [(s["live"], s["candidate"], f"{s['events']:,}", f"{s['per_1000']:.1f}") for s in compared["said"]]
    screen.table("", columns, rows)
    if compared["decided_by_candidate"]:
        screen.out.print("\nWhat was decided, by whose rules:")
        screen.table(
            "", ("DECISION", f"VERSION {compared['live']}", f"VERSION {version['version']}"), [*_arms(compared)]
        )


def _line(version: RulesVersion) -> tuple[str, ...]:
    compared = version["compared"]
    differs = f"{compared['differed']:,} of {compared['events']:,}" if compared is not None else ""
    percent = f" {version['percent']:g}%" if version["percent"] else ""
    return (
        str(version["version"]),
        f"{version['state']}{percent}",
        age(version["since"]),
        _ORIGINS.get(version["origin"], version["origin"]),
        differs,
        version["why"],
    )


def _lines(version: RulesVersion) -> Iterator[str]:
    percent = f" for {version['percent']:g}% of the keys" if version["percent"] else ""
    use = "" if version["state"] not in ("SHADOW", "CANARY", "LIVE") or version["in_use"] else ", not in use yet"
    head = f"[bold]version {version['version']} of the rules of {escape(version['stream'])}[/]"
    yield f"{head} is {coloured(version['state'])}{percent} for {age(version['since'])}{use}"
    why = f": {escape(version['why'])}" if version["why"] else ""
    yield f"  from       {_ORIGINS.get(version['origin'], version['origin'])}{why}"
    gain = version["gain"]
    if gain is not None:
        unit, job = f" {gain['unit']}" if gain["unit"] else "", f", by {gain['job']}" if gain["job"] else ""
        interval = f"{gain['low']:.6g} to {gain['high']:.6g}"
        yield f"  gain       {gain['value']:.6g}{unit} a {gain['per']} ({interval}){escape(job)}"
    if version["message"]:
        yield f"  why        [yellow]{escape(version['message'])}[/]"
    for place, rule in enumerate(version["rules"]):
        name = f" ({rule['name']})" if rule.get("name") else ""
        yield f"  {'' if place else 'rules':<10} {escape(rule['decision'])} if {escape(rule['when'])}{escape(name)}"
    for place, step in enumerate(version["history"]):
        yield f"  {'' if place else 'history':<10} {_step(step)}"


def _step(step: Mapping[str, object]) -> str:
    at = utc_time(int(str(step["at"])))
    why = f": {step['why']}" if step["why"] else ""
    anyway = f"; past the gate, {step['anyway']}" if step.get("anyway") else ""
    return escape(f"{at} UTC {step['state']} by {step['by']}{why}{anyway}")


def _compared(version: RulesVersion, compared: RulesCompared) -> str:
    if not compared["events"]:
        return "No event was compared yet."
    share = 1000 * compared["differed"] / compared["events"]
    would = "would change" if not version["percent"] else "changes"
    return (
        f"On {compared['events']:,} events it differs from version {compared['live']} {compared['differed']:,} times:"
        f" it {would} {share:.1f} decisions of 1,000."
    )


def _arms(compared: RulesCompared) -> Iterator[tuple[str, ...]]:
    arms = (compared["decided_by_live"], compared["decided_by_candidate"])
    for decision in sorted({*arms[0], *arms[1]}):
        yield (decision, *(_share(arm, decision) for arm in arms))


def _share(arm: Mapping[str, int], decision: str) -> str:
    count, events = arm.get(decision, 0), sum(arm.values())
    return f"{count:,} ({100 * count / events:.1f}%)" if events else "0"
