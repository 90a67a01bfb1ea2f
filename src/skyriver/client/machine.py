"""Commands about this machine's cloud: starting and ending it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from skyriver.client import show
from skyriver.client.patience import AWAY
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect, machine, state
from skyriver.core.errors import InvalidInput, Unavailable
from skyriver.core.tls import TlsChoice


@app.command()
def up(
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="On loopback (else SKYRIVER_PORT, the last, 7470).")
    ] = None,
    gateways: Annotated[
        int | None, typer.Option(min=1, max=16, help="Processes that share the address (else as before, 1).")
    ] = None,
    tls: Annotated[
        str, typer.Option(metavar="self-made|off", help="HTTPS with a certificate made here; or none any more.")
    ] = "",
    tls_cert: Annotated[Path | None, typer.Option(help="HTTPS with this certificate and its chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of it (PEM).")] = None,
    tls_port: Annotated[int, typer.Option(min=0, max=65_535, help="For HTTPS (else the last, 7471).")] = 0,
    tls_address: Annotated[str, typer.Option(help="For HTTPS, as 0.0.0.0 (else the last, loopback).")] = "",
    access_log: Annotated[
        str, typer.Option(metavar="all|errors|off", help="Which requests are recorded (else as before, errors).")
    ] = "",
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and show the log; Ctrl-C ends it all.")
    ] = False,
    systemd: Annotated[bool, typer.Option("--systemd", help="Print units that start it at boot; do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Start the cloud on this machine (nothing happens if it runs)."""
    screen = Screen(as_json=as_json)
    if systemd:
        units = machine().units(state["home"])
        screen.data(units, lambda: print("\n".join(f"# {path}\n{text}" for path, text in units.items()), end=""))
        return
    if tls not in ("", "self-made", "off"):
        raise InvalidInput(f"--tls {tls} is not known.", code="BAD_TLS", next_action="Use self-made or off.")
    if access_log not in ("", "all", "errors", "off"):
        raise InvalidInput(
            f"--access-log {access_log} is not known.", code="BAD_ACCESS_LOG", next_action="Use all, errors or off."
        )
    given = TlsChoice(tls, tls_cert, tls_key, tls_address, tls_port)
    choice = given if given != TlsChoice() else None
    chosen: dict[str, Any] = {"gateways": gateways, "tls": choice, "access_log": access_log}
    if foreground:
        machine().serve_in_foreground(state["home"], port, screen.say, **chosen)
    with screen.progress() as bars:
        bars.tell("starting", 0, 0)
        address = machine().up(state["home"], port, screen.say, **chosen)
    document = {"url": address.url, "started": address.started} | ({"token": address.token} if address.fresh else {})

    def text() -> None:
        screen.say(f"The cloud {'runs' if address.started else 'runs already'} at [bold]{address.url}[/].")
        if address.fresh:
            screen.say(f"Its administrator's token, shown this once: [bold]{address.token}[/]")
            screen.say("The command line keeps it; programs send it as `Authorization: Bearer TOKEN`.")
            screen.say("Next: [bold]skyriver deploy APP.py[/] ([bold]skyriver init risk[/] writes an example).")

    screen.data(document, text)


@app.command()
def down(as_json: Json = False) -> None:
    """End everything that runs here; data, models and settings stay."""
    screen = Screen(as_json=as_json)
    with screen.progress() as bars:
        bars.tell("ending", 0, 0)
        ended = machine().down(state["home"], screen.say)
    screen.data({"ended": ended}, lambda: screen.say(f"Ended: {', '.join(ended) or 'nothing ran'}."))


@app.command()
def ps(as_json: Json = False) -> None:
    """What runs, and how it is."""
    screen = Screen(as_json=as_json)
    try:
        with connect() as client:
            document = {
                "streams": list(client.list("streams")),
                "services": list(client.list("services")),
                "scalings": list(client.list("scalings")),
                "objectives": list(client.objectives()),
                "processes": list(client.processes()),
                "parts": list(machine().parts(state["home"])),
                "incidents": [row for row in client.list("incidents") if row["state"] != "RESOLVED"],
            }
    except Unavailable as error:
        parts = machine().parts(state["home"])
        if parts and not as_json:
            show.parts(screen, parts)
        if error.code in AWAY and comes_back(parts):
            error.next_action = "The supervisor starts it again; ask again in some seconds."
        raise
    screen.data(document, lambda: show.running(screen, document))


def comes_back(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the supervisor is at work, and knows of nothing that somebody else has to mend."""
    well = any(part["name"] == "supervisor" and part["state"] == "READY" for part in parts)
    return well and all(part["state"] != "FAILED" for part in parts)


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Remove what an unclean end left, if nothing runs.")] = False,
    as_json: Json = False,
) -> None:
    """Examine this machine and its cloud, and say what to mend; changes nothing. Exit code 7 if something fails."""
    screen = Screen(as_json=as_json)
    found = machine().examine(state["home"], fix=fix)
    fields = ("name", "result", "seen", "meaning", "action")
    document = {"checks": [{name: getattr(finding, name) for name in fields} for finding in found]}
    screen.data(document, lambda: show.findings(screen, found))
    if any(finding.result == "fail" for finding in found):
        raise typer.Exit(7)
