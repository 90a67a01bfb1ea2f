"""What runs told step by step: `skyriver job get`, `job curves`, `job compare`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from skyriver.client import curve_page, show
from skyriver.client.jobs import Name, job_noun
from skyriver.client.patience import AWAY_SECONDS, Patience
from skyriver.client.screen import Screen, coloured
from skyriver.client.shell import Json, connect
from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import ENDED

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.core.contract_curves import Tracked

MOST_RUNS = 6
LOOK_SECONDS = 1.0
_TELLING = frozenset({"train", "call"})
"""Kinds of jobs that run functions which may."""
Save = Annotated[
    Path | None, typer.Option("--save", help="Draw them into this file: FILE.html, a page of its own, or FILE.svg.")
]
Table = tuple[str, list[list[str]]]
"""(heading, rows), the first of which is the head."""


@job_noun.command("get")
def job_get(name: Name, as_json: Json = False) -> None:
    """One, with all that is known of it; of one that told values by step their curves."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.get("jobs", name)
        run = client.curves(name) if not as_json and found["spec"]["kind"] in _TELLING else None
    if run is None or not run["curves"]:
        screen.data(found, lambda: show.resource(screen, found))
    else:
        _page(screen, run)
        screen.say("`--json` tells all that is known of the job.")


@job_noun.command("curves")
def job_curves(
    name: Name,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Draw them anew until it has ended.")] = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """What a run told step by step: by its name, that of one of its jobs, or MODEL:VERSION."""
    _check(save)
    screen = Screen(as_json=as_json)
    with connect() as client:
        run = _followed(client, screen, name) if following else client.curves(name)
    if save is not None:
        _save(save, run["name"], [run], _about(run))
    screen.data(run, lambda: _page(screen, run))
    if save is not None:
        screen.say(f"Drawn into {save}.")


def _followed(client: Client, screen: Screen, name: str) -> Tracked:
    """The run once it has ended. Until then it is drawn in a terminal: of as many metrics as fit."""
    patience = Patience(screen.say, AWAY_SECONDS)
    moves = screen.out.is_terminal and not screen.as_json
    fit = max(1, (screen.out.size.height - 3) // (curve_page.ROWS + 4))
    with Live(console=screen.out, auto_refresh=False, transient=True) if moves else nullcontext() as live:
        while True:
            run = patience.call(lambda: client.curves(name))
            if run["state"] in ENDED:
                return run
            if live is not None:
                head = f"[bold]{escape(run['name'])}[/] is {coloured(run['state'])}: {curve_page.how_far(run)}"
                lines = [head, *curve_page.plots([run], fit)]
                live.update(Text.from_markup("\n".join(lines), overflow="ignore"), refresh=True)
            time.sleep(LOOK_SECONDS)


@job_noun.command("compare")
def job_compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Runs, jobs or MODEL:VERSION, two or more.")],
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Runs side by side: parameters, data and code that differ, metrics, and their curves over each other."""
    if not 2 <= len(names) <= MOST_RUNS:
        raise InvalidInput(
            f"{len(names)} run is named." if len(names) == 1 else f"{len(names)} runs are named.",
            code="BAD_COMPARISON",
            next_action=f"Name 2 to {MOST_RUNS} of them, as in `skyriver job compare churn:1 churn:2`.",
        )
    _check(save)
    screen = Screen(as_json=as_json)
    with connect() as client:
        runs = [client.curves(name) for name in names]
    labelled: list[Mapping[str, Any]] = [{**run, "name": name} for name, run in zip(names, runs, strict=True)]
    tables = [table for table in (_differences(labelled), _metrics(labelled)) if len(table[1]) > 1]
    if save is not None:
        _save(save, " and ".join(run["name"] for run in labelled), labelled, tables)
    screen.data(_document(runs), lambda: _compared(screen, labelled, tables))
    if save is not None:
        screen.say(f"Drawn into {save}.")


def differing(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What was given to the runs and is not the same, by name: parameters, versions of tables, the code."""
    given = [
        {
            **{f"-p {name}": str(value) for name, value in run["params"].items()},
            **{f"table {name}": f"version {version}" for name, version in run["data"].items()},
            "code": run["code"][:12],
        }
        for run in runs
    ]
    names = dict.fromkeys(name for one in given for name in one)
    values = {name: [one.get(name, "") for one in given] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def _metrics_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Those of versions on their test rows, and the last of each curve."""
    found: dict[str, list[Any]] = {}
    for name in sorted({name for run in runs for name in run["metrics"]}):
        found[name] = [run["metrics"].get(name) for run in runs]
    for name in dict.fromkeys(name for run in runs for name in run["curves"]):
        curves = [run["curves"].get(name) for run in runs]
        found[f"{name}, last step"] = [curve["points"][-1][1] if curve else None for curve in curves]
    return found


def _document(runs: Sequence[Tracked]) -> dict[str, Any]:
    return {"runs": runs, "differ": differing(runs), "metrics": _metrics_of(runs)}


def _differences(runs: Sequence[Mapping[str, Any]]) -> Table:
    head = ["", *(run["name"] for run in runs)]
    return "What differs", [head, *([name, *values] for name, values in differing(runs).items())]


def _metrics(runs: Sequence[Mapping[str, Any]]) -> Table:
    head = ["metric", *(run["name"] for run in runs)]
    rows = [
        [name, *("" if value is None else curve_page.told(value) for value in values)]
        for name, values in _metrics_of(runs).items()
    ]
    return "Metrics", [head, *rows]


def _about(run: Mapping[str, Any]) -> list[Table]:
    rows = [["state", run["state"]], ["version", run["version"] or "none"], ["how far", curve_page.how_far(run)]]
    rows += [[f"-p {name}", value] for name, value in run["params"].items()]
    rows += [[f"table {name}", f"version {version}"] for name, version in run["data"].items()]
    return [("The run", [["", run["name"]], *rows])]


def _compared(screen: Screen, runs: Sequence[Mapping[str, Any]], tables: Sequence[Table]) -> None:
    if not differing(runs):
        screen.say("The same parameters, data and code were given to them.")
    for title, (head, *rows) in tables:
        screen.table(title, head, rows)
        screen.out.print()
    curve_page.curves(screen, runs)
    for run in runs:
        if not run["curves"]:
            screen.say(f"{run['name']} told nothing by step (`data.report(step, loss=...)` in its function).")


def _page(screen: Screen, run: Mapping[str, Any]) -> None:
    made = f", made {escape(run['version'])}" if run["version"] else ""
    screen.out.print(f"[bold]{escape(run['name'])}[/] is {coloured(run['state'])}{made}")
    if not run["curves"]:
        screen.say("It told nothing by step (`data.report(step, loss=...)` in its function).")
        return
    screen.out.print(f"  {curve_page.how_far(run)}")
    for name, value in run["params"].items():
        screen.out.print(f"  [dim]-p {escape(name)}[/] {escape(value)}")
    curve_page.curves(screen, [run])


def _save(file: Path, title: str, runs: Sequence[Mapping[str, Any]], tables: Sequence[Table]) -> None:
    from skyriver.client import curve_svg

    drawn = curve_svg.page(title, runs, tables) if file.suffix == ".html" else curve_svg.sheet(title, runs)
    file.write_text(drawn, encoding="utf-8")


def _check(file: Path | None) -> None:
    """Before anything is waited for. Raises InvalidInput (BAD_FILE)."""
    if file is not None and file.suffix not in (".html", ".svg"):
        raise InvalidInput(
            f"{file.name} is neither FILE.html nor FILE.svg.",
            code="BAD_FILE",
            where=str(file),
            next_action="Name one of these two.",
        )
