"""What is asked first of a service: whether it keeps its objective, how many replicas it has, why, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skyriver.client import scaling_page


def lines(service: Mapping[str, Any], scaling: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """(word, sentence) each; `scaling`: its row, where there is one. Of one whose replicas do not follow the load only
    what its objective came to."""
    if (told := service.get("objective")) and not (told["state"] == "idle" and is_asleep(service)):
        yield "objective", told["message"]
        yield from (
            (word, told[what]) for word, what in (("because", "because"), ("next", "next_action")) if told[what]
        )
    if scaling is None or not scaling_page.follows(scaling) or is_asleep(service):
        return
    yield (
        "replicas",
        f"{scaling_page.replicas(service).removesuffix('s').removesuffix(' replica')}: {scaling['status']['why']}",
    )
    of = scaling_page.choices(scaling["status"])
    chosen = next((row for row in of.rows if row[0] == scaling["spec"]["replicas"]), None)
    if chosen is not None and chosen[3]:
        yield "cost", f"{chosen[1]} {of.unit} for them, and {chosen[2]} for what is late."


def missed(objective: Mapping[str, Any] | None) -> str:
    """That it is, why, and what to do; "" while it is not."""
    if objective is None or objective["state"] != "missed":
        return ""
    return " ".join(filter(None, (objective[what] for what in ("message", "because", "next_action"))))


def is_asleep(service: Mapping[str, Any]) -> bool:
    return bool((service["status"].get("rest") or {}).get("state") == "asleep")


def in_order(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A service that scales or sleeps and how it is scaled first: the rest of what has its name is asked for less."""
    scaled = {item["name"] for item in items if item["kind"] == "scaling"}
    first = [item for item in items if item["kind"] in ("service", "scaling") and item["name"] in scaled]
    return [*first, *(item for item in items if item not in first)]


def process(report: Mapping[str, Any]) -> str:
    """What its counters come to, in a line."""
    told = [f"{report['requests']:,} requests" if report.get("requests") else ""]
    told += [
        f"{what} {report[key] / 1_000:,.3g} ms"
        for what, key in (("p50", "p50_us"), ("p99", "p99_us"))
        if report.get(key)
    ]
    told += [f"{report['rss_mb']:,.0f} MB" if report.get("rss_mb") else ""]
    told += [f"{report[what]:,} {word}" for what, word in _WRONG.items() if report.get(what)]
    return ", ".join(filter(None, told))


_WRONG = {"errors": "failed", "overloaded": "found no room", "expired": "were given up", "refused": "were wrong"}
