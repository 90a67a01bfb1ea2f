"""The commands for models that are trained again by themselves: what was seen, what came of it, what holds it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from skyriver.client.screen import Screen, age, clock, coloured
from skyriver.client.shell import Json, all_of, connect, noun, wait
from skyriver.core.units import utc_time

_watches = noun(
    "watch",
    "watches",
    "Models that are trained again by themselves: drift, trainings, brakes.",
    lists=False,
    gets=False,
)

Model = Annotated[str, typer.Argument(metavar="MODEL")]
Why = Annotated[str, typer.Option("--why", help="The reason; it is kept with the watch.")]
SHOWN_COLUMNS = 12
SHOWN_TRAININGS = 5


@_watches.command("list")
def watch_list(as_json: Json = False) -> None:
    """All models that are watched."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items, damaged = all_of(client.list("watches"))
    columns = ("MODEL", "STATE", "SINCE", "TRAININGS", "WHY", "SAYS")
    if items:
        screen.data(items, lambda: screen.table("", columns, [_line(item) for item in items]))
    else:
        screen.data(items, lambda: screen.say('No model is watched: `retrain=sr.Retrain(on="drift")` declares it.'))
    if damaged is not None:
        raise damaged


@_watches.command("get")
def watch_get(model: Model, as_json: Json = False) -> None:
    """One: how far its columns are from those that it was trained on, how good it is, and its trainings."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = client.get("watches", model)
    screen.data(found, lambda: _page(screen, found))


@_watches.command("pause")
def watch_pause(model: Model, why: Why = "", as_json: Json = False) -> None:
    """Neither look nor train until it is resumed; a training that runs goes on."""
    _steer(model, "pause", why, as_json=as_json)


@_watches.command("resume")
def watch_resume(model: Model, as_json: Json = False) -> None:
    """Look and train again, also after trainings that came to nothing."""
    _steer(model, "resume", "", as_json=as_json)


def _steer(model: str, word: str, why: str, *, as_json: bool) -> None:
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act(f"watch_{word}", model, params={"why": why} if why else None), bars)
        found = client.get("watches", model)
    screen.data(found, lambda: screen.say(f"The watch of {model} is {found['state']}. {found['message']}".strip()))


def _line(watch: Mapping[str, Any]) -> tuple[str, ...]:
    trainings = watch["status"].get("trainings") or []
    return (
        watch["name"],
        watch["state"],
        _age(watch),
        str(len(trainings)),
        watch["reason"],
        watch["message"],
    )


def _page(screen: Screen, watch: Mapping[str, Any]) -> None:
    for line in _lines(watch):
        screen.out.print(line)
    seen = watch["status"].get("seen")
    if seen and (columns := seen["drift"]["columns"]):
        rows = [
            (c["column"], f"{c['distance']:.3f}", f"{c['limit']:.3f}", f"{c['farthest']:.3f}", _now(c))
            for c in columns[:SHOWN_COLUMNS]
        ]
        screen.table("", ("COLUMN", "INDEX", "DRIFT FROM", "KS", "BESIDE THE TRAINING ROWS"), rows)
        if len(columns) > SHOWN_COLUMNS:
            screen.say(f"and {len(columns) - SHOWN_COLUMNS} that are nearer; --json has all")
    trainings = (watch["status"].get("trainings") or [])[-SHOWN_TRAININGS:]
    if trainings:
        told = [(t["run"], age(t["at"]), _cause(t), t["outcome"] or "under way") for t in reversed(trainings)]
        screen.table("", ("TRAINING", "AGO", "FOR", "CAME TO"), told)


def _age(watch: Mapping[str, Any]) -> str:
    """In its state; of one that was never in another, since it was declared."""
    return age(watch["since"] or watch["created_at"])


def _cause(training: Mapping[str, Any]) -> str:
    of = f" of {training['after']}" if training.get("after") else ""
    return f"{training['cause'].replace('_', ' ')}{of}"


_DRIFTED = {"none": "much the same", "some": "has drifted", "great": "has drifted far"}


def _now(column: Mapping[str, Any]) -> str:
    """What became of a column, in words: its index stands beside it."""
    what = "differs for a few keys alone" if column.get("of_few") else _DRIFTED[column["severity"]]
    _, _, moved = column["told"].partition(": index ")[2].partition(", ")
    return f"{what}: {moved}" if moved else what


def _listed(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _lines(watch: Mapping[str, Any]) -> Iterator[str]:
    retrain, seen = watch["spec"]["retrain"], watch["status"].get("seen")
    yield f"[bold]{watch['name']}[/]  {coloured(watch['state'])} for {_age(watch)}"
    causes = [
        *(["drift"] if retrain["drift"] else []),
        *(["worse quality"] if retrain.get("quality") else []),
        *([f"an age of {retrain['every']}"] if retrain.get("every") else []),
    ]
    budget = f", {retrain['budget']} within 30 days" if retrain.get("budget") else ""
    yield f"  trains for {_listed(causes)}, at most once in {retrain['at_most']}{budget}"
    if later := retrain.get("follow_up"):
        yield f"  again {_listed(later)} after a training for {_listed([c for c in causes if 'age' not in c], 'or')}"
    if seen:
        when = clock(seen["at"])
        if answered := seen.get("answered"):
            drawn = (
                f"{answered['drawn']:,} of {answered['rows']:,} rows that version {seen['version']} answered over HTTP"
            )
            yield f"  looked at {when} UTC at {drawn}"
        else:
            yield f"  looked at {when} UTC at what {seen['stream']} decided with version {seen['version']}"
    if quality := watch["status"].get("quality"):
        yield f"  judged at {clock(quality['asked'])} UTC, version {quality['version']}: {escape(quality['message'])}"
    if follow := watch["status"].get("follow"):
        next_one = f"{utc_time(follow['due'][0])} UTC, {follow['of'] - len(follow['due']) + 1} of {follow['of']}"
        yield f"  follows up {follow['run']}: the next training is at {next_one}"
    if watch["message"]:
        word, reason = ("why  ", f"{watch['reason']}: ") if watch["reason"] else ("says ", "")
        yield f"  {word} {escape(reason + watch['message'])}"
    if watch["next_action"]:
        yield f"  next  {escape(watch['next_action'])}"
