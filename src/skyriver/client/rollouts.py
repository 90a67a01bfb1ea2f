"""The commands for rollouts: how far another version is on its way, and what a person decides about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from skyriver.client.screen import Screen, age, clock, coloured
from skyriver.client.shell import Json, all_of, connect, noun, wait

_rollouts = noun("rollout", "rollouts", "Rollouts: how another version of a model takes over.", lists=False, gets=False)

Name = Annotated[str, typer.Argument(metavar="ROLLOUT")]
Why = Annotated[str, typer.Option("--why", help="The reason; it is kept with the rollout.")]


@_rollouts.command("list")
def rollout_list(as_json: Json = False) -> None:
    """All there are, the last one first."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items, damaged = all_of(client.list("rollouts"))
    items.sort(key=lambda rollout: rollout["created_at"], reverse=True)
    columns = ("NAME", "VERSIONS", "STATE", "SHARE", "SINCE", "WHY")
    if items:
        screen.data(items, lambda: screen.table("", columns, [_line(item) for item in items]))
    else:
        screen.data(
            items, lambda: screen.say("There are no rollouts: `skyriver run MODEL` makes a version that takes over.")
        )
    if damaged is not None:
        raise damaged


@_rollouts.command("get")
def rollout_get(name: Name, as_json: Json = False) -> None:
    """One: how far it is, what both versions answered, and the evidence against the new one."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.get("rollouts", name)
    screen.data(found, lambda: _page(screen, found))


@_rollouts.command("pause")
def rollout_pause(name: Name, why: Why = "", as_json: Json = False) -> None:
    """Keep the shares as they are; the version is still taken back when it is worse."""
    _steer(name, "pause", why, as_json=as_json)


@_rollouts.command("resume")
def rollout_resume(name: Name, as_json: Json = False) -> None:
    """Let it go on, with the step that it was paused in."""
    _steer(name, "resume", "", as_json=as_json)


@_rollouts.command("promote")
def rollout_promote(name: Name, as_json: Json = False) -> None:
    """Give the version all requests now."""
    _steer(name, "promote", "", as_json=as_json)


@_rollouts.command("abort")
def rollout_abort(name: Name, why: Why = "", as_json: Json = False) -> None:
    """Give the version before all requests again."""
    _steer(name, "abort", why, as_json=as_json)


def _steer(name: str, word: str, why: str, *, as_json: bool) -> None:
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act(f"rollout_{word}", name, params={"why": why} if why else None), bars)
        found = client.get("rollouts", name)
    told = f" {found['message']}" if found["reason"] == "BY_HAND" else ""
    screen.data(found, lambda: screen.say(f"The rollout {name} is {found['state']}.{told}"))


def _line(rollout: Mapping[str, Any]) -> tuple[str, ...]:
    shown = rollout["status"].get("shown")
    share = ""
    if shown and rollout["state"] in _UNDER_WAY:
        where = "copies" if shown.get("phase") == "shadow" else f"step {shown['step']} of {shown['steps']}"
        share = f"{shown['percent']}%, {where}"
    why = rollout["reason"] or ("a rollback" if rollout["spec"]["cause"] == "rollback" else "")
    return rollout["name"], _versions(rollout), rollout["state"], share, age(rollout["since"]), why


_UNDER_WAY = ("SHADOW", "CANARY", "PAUSED")


def _versions(rollout: Mapping[str, Any]) -> str:
    to = f"{rollout['spec']['model']}: {{}}to {rollout['spec']['to']}"
    if rollout["state"] == "PENDING":  # it is not known yet in place of which
        return to.format("")
    return to.format(f"{rollout['status'].get('from') or 'none'} ")


def _page(screen: Screen, rollout: Mapping[str, Any]) -> None:
    for line in _lines(rollout):
        screen.out.print(line)
    shown = rollout["status"].get("shown")
    if not shown:
        return
    rows = []
    for side, version in (("champion", rollout["status"]["from"]), ("candidate", rollout["spec"]["to"])):
        counted = shown[side]
        rows.append((f"{version} ({side})", *(f"{counted[what]:,}" for what in ("answered", "failed", "refused"))))
    screen.table("", ("VERSION", "ANSWERED", "FAILED", "REFUSED"), rows)
    against = [(guard, f"{value:,.2f}") for guard, value in shown["evidence"].items()]
    screen.table("", ("GUARD", f"EVIDENCE TO 1 (all: {shown['taken_back_at']} take it back)"), against)


def _lines(rollout: Mapping[str, Any]) -> Iterator[str]:
    yield f"[bold]{rollout['name']}[/]  {_versions(rollout)}  {coloured(rollout['state'])} for {age(rollout['since'])}"
    shown = rollout["status"].get("shown")
    if shown and rollout["state"] in _UNDER_WAY:
        begun = clock(shown["since"])
        declared = rollout["spec"][rollout["spec"]["strategy"]]
        if shown.get("phase") == "shadow":
            every = declared["shadow"]["over"]
            yield f"  shadow: copies of {shown['percent']}% of the requests since {begun} UTC"
        else:
            every = declared["every"]
            of = "keys" if shown.get("by_key") else "requests"
            yield f"  step {shown['step']} of {shown['steps']}: {shown['percent']}% of the {of} since {begun} UTC"
        yield f"  goes on after {every} and {shown['needed']:,} answers; there are {shown['answered_in_step']:,}"
    if shown and shown.get("phase") == "shadow":
        yield from _of_copies(shown)
    if rollout["message"] and rollout["state"] not in ("SHADOW", "CANARY"):
        yield f"  why   {rollout['reason']}: {escape(rollout['message'])}"
    if rollout["next_action"]:
        yield f"  next  {escape(rollout['next_action'])}"


def _of_copies(shown: Mapping[str, Any]) -> Iterator[str]:
    copies, agreement = shown["copies"], shown["agreement"]
    yield f"  copies {copies['sent']:,} sent, {copies['dropped']:,} dropped, {copies['unanswered']:,} unanswered"
    if found := agreement.get("score_difference"):
        yield f"  scores differ by {found['p50']:g} (half of them), {found['p90']:g} (90%), {found['p99']:g} (99%)"
    if (before := agreement.get("champion_us")) and (after := agreement.get("candidate_us")):
        yield (
            f"  answers take {after['p50'] / 1e3:g} ms (99%: {after['p99'] / 1e3:g} ms), the champion's"
            f" {before['p50'] / 1e3:g} ms ({before['p99'] / 1e3:g} ms)"
        )
