"""The commands for what decides: thresholds by costs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from skyriver.client import tuning_page
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect, wait

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
    screen.data(report, lambda: tuning_page.tuned(screen, report))
