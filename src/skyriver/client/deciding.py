"""The commands for what decides: thresholds by costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyriver.client import tuning_page
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect, wait

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.core.contract import RulesVersion

decides = typer.Typer(help="Decisions: the rules of streams.", no_args_is_help=True)
app.add_typer(decides, name="decide")


@decides.command("tune")
def decide_tune(
    stream: Annotated[str, typer.Argument(metavar="STREAM")],
    cost: Annotated[
        list[str] | None,
        typer.Option(help="DECISION=AMOUNT for each, DECISION.positive= or .negative= by the label; as declared else."),
    ] = None,
    reviews: Annotated[
        list[str] | None, typer.Option(help="How many reviews there may be, 200/1d; DECISION=20/1d of another one.")
    ] = None,
    hold_out: Annotated[str, typer.Option(help='Measured on the last "30d" (default: half of what there is).')] = "",
    rule: Annotated[list[str] | None, typer.Option(help="Only the thresholds of this rule, as often as given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws for intervals.")] = 0,
    candidate: Annotated[
        bool, typer.Option("--candidate", help="Make the rules with the chosen thresholds a candidate, if they gain.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Choose the thresholds by which decisions cost least, on events that the model was not trained on."""
    screen = Screen(as_json=as_json)
    params: dict[str, Any] = {"costs": cost or [], "reviews": reviews or [], "rules": rule or [], "seed": seed}
    if hold_out:
        params["hold_out"] = hold_out
    with connect() as client, screen.progress() as bars:
        done = wait(client, client.act("tune", stream, params=params), bars)
        report = done["status"]["result"]["tune"]
        made = _candidate(client, stream, report) if candidate and report["verdict"] == "change" else None
    told = {**report, "candidate": made["version"] if made is not None else None} if candidate else report
    screen.data(told, lambda: tuning_page.tuned(screen, report))
    if made is not None:
        screen.say(
            f"\nThese are version {made['version']} of the rules, a candidate: it decides nothing yet."
            f" `skyriver rules shadow {stream} {made['version']}` tries it, `skyriver rules promote` lets it decide."
        )
    elif candidate:
        screen.say("\nNo candidate: it is not proved that what you have is worse.")
        raise typer.Exit(1)


def _candidate(client: Client, stream: str, report: Mapping[str, Any]) -> RulesVersion:
    gain = {"value": report["gain"], "low": report["gain_low"], "high": report["gain_high"]}
    against = {"job": report["job"], "rules_version": report["rules_version"]}
    thresholds = ", ".join(f"{own['rule']} {own['in_use']:g} -> {own['chosen']:g}" for own in report["thresholds"])
    return client.add_rules(
        stream,
        [rule["now"] for rule in report["rules"]],
        why=f"Tuned on {report['model']}:{report['version']}: {thresholds}",
        gain={**gain, "unit": report["costs"]["unit"], "per": "day", **against},
    )
