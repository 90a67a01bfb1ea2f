"""The commands for services: which version gets the requests, whether it sleeps while nobody asks, and how many
replicas it had, and why."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from skyriver.client import scaling_page
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, act_and_tell, connect, noun
from skyriver.client.trial_page import trials
from skyriver.core.errors import InvalidInput, NotFound

_services = noun("service", "services", "Services: which version gets the requests.")

Name = Annotated[str, typer.Argument(metavar="NAME")]


@_services.command("sleep")
def service_sleep(name: Name, as_json: Json = False) -> None:
    """Let it sleep now, if it is declared to: what it has is answered, and the next request wakes it."""
    act_and_tell("service", name, "sleep", as_json=as_json, why=True)


@_services.command("wake")
def service_wake(name: Name, as_json: Json = False) -> None:
    """Wake it before somebody asks."""
    act_and_tell("service", name, "wake", as_json=as_json, why=True)


@_services.command("replay")
def service_replay(
    name: Name,
    replicas: Annotated[str, typer.Option(help="As 3, or 1..8: as many as the load needs.")] = "",
    latency: Annotated[str, typer.Option(help="An answer is to take at most so long, as 50ms.")] = "",
    share: Annotated[float | None, typer.Option(help="Of the requests that are to be answered within it.")] = None,
    hold: Annotated[str, typer.Option(help="Fewer replicas must have done for so long.")] = "",
    wake: Annotated[str, typer.Option(help="A request that wakes it may take so long.")] = "",
    idle: Annotated[str, typer.Option(help="It sleeps after so long without a request.")] = "",
    as_json: Json = False,
) -> None:
    """What it would have done if it were declared so, on its own history; what is not given stays as it is declared.
    Nothing is changed."""
    screen = Screen(as_json=as_json)
    asked = {"latency": latency, "share": share, "hold": hold, "wake": wake, "idle": idle}
    with connect() as client, screen.progress() as bars:
        declared = dict(client.get("services", name)["spec"]["serve"])
        declared |= {what: value for what, value in asked.items() if value not in ("", None)}
        if replicas:
            declared["replicas"] = least, most = _replicas(replicas)
            if least == most:
                declared["replicas"] = most
                declared |= {"hold": hold}
            if least:
                declared |= {"wake": wake, "idle": idle}
        from skyriver.client.wished import check_wished  # specifications take long to load

        check_wished(declared, {"replicas": replicas, **asked})
        found = client.advice(name, declared=declared, told=lambda done: bars.tell("replaying", done, 1.0))
    screen.data(found, lambda: trials(screen, name, found))


def _replicas(text: str) -> tuple[int, int]:
    least, dots, most = text.partition("..")
    try:
        found = int(least), int(most if dots else least)
    except ValueError:
        raise InvalidInput(
            f"--replicas {text} is no number of replicas.",
            code="BAD_REPLICAS",
            next_action="Write it as 3, or as 1..8 for as many as the load needs.",
        ) from None
    if found[0] > found[1]:
        raise InvalidInput(
            f"--replicas {text} has fewer at the most than at the least.",
            code="BAD_REPLICAS",
            next_action=f"Write the least first: --replicas {found[1]}..{found[0]}.",
        )
    return found


@_services.command("history")
def service_history(name: Name, as_json: Json = False) -> None:
    """How many replicas it had, why, and at what price; of a service whose replicas follow the load, or that sleeps."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        service = client.get("services", name)  # what is not there is told of as any service is
        row = None
        with suppress(NotFound):
            row = client.get("scalings", name)
    is_elastic = row is not None and scaling_page.follows(row)
    changes = row["status"].get("changes", ()) if row is not None and is_elastic else ()
    told = scaling_page.with_rests(changes, service["status"].get("rests", ()))
    if not (is_elastic or told):
        screen.say(f"The number of its replicas does not follow the load: declare replicas=(1, n) for {name}.")
    if told or as_json:
        screen.data(told, lambda: scaling_page.history(screen, told))
    else:
        screen.say("It has as many replicas as at first.")
