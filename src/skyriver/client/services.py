"""The commands for services: which version gets the requests, and whether it sleeps while nobody asks."""

from __future__ import annotations

from typing import Annotated

import typer

from skyriver.client.shell import Json, act_and_tell, noun

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
