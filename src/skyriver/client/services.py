"""The commands for services: which version gets the requests, whether it sleeps while nobody asks, and how many
replicas it had, and why."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer

from skyriver.client import scaling_page
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, act_and_tell, connect, noun
from skyriver.core.errors import NotFound

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


@_services.command("history")
def service_history(name: Name, as_json: Json = False) -> None:
    """How many replicas it had, why, and at what price; of a service whose replicas follow the load."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        client.get("services", name)  # what is not there is told of as any service is
        changes: list[Any] = []
        row = None
        with suppress(NotFound):
            row = client.get("scalings", name)
        if row is not None and scaling_page.follows(row):
            changes = list(row["status"].get("changes", ()))
        else:
            screen.say(f"The number of its replicas does not follow the load: declare replicas=(1, n) for {name}.")
    if changes or as_json:
        screen.data(changes, lambda: scaling_page.history(screen, changes))
    else:
        screen.say("It has as many replicas as at first.")
