"""The commands for services: which version gets the requests, and whether it sleeps while nobody asks."""

from __future__ import annotations

from typing import Annotated

import typer

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, connect, noun, wait

_services = noun("service", "services", "Services: which version gets the requests.")

Name = Annotated[str, typer.Argument(metavar="NAME")]


@_services.command("sleep")
def service_sleep(name: Name, as_json: Json = False) -> None:
    """Let it sleep now, if it is declared to: what it has is answered, and the next request wakes it."""
    _ask(name, "sleep", as_json=as_json)


@_services.command("wake")
def service_wake(name: Name, as_json: Json = False) -> None:
    """Wake it before somebody asks."""
    _ask(name, "wake", as_json=as_json)


def _ask(name: str, action: str, *, as_json: bool) -> None:
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act(action, name), bars)
        found = client.get("services", name)
    screen.data(found, lambda: screen.say(f"The service {name} is {found['state']}. {found['message']}"))
