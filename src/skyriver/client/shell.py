"""What all commands of the command line share: the application, this machine, the client, waiting, asking."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol, TypeVar

import typer

from skyriver import __version__
from skyriver.client import show
from skyriver.client.screen import Bars, Screen
from skyriver.core.errors import Corrupt, InvalidInput, Unavailable

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.core.contract import Resource
    from skyriver.core.jobs import Progress
    from skyriver.core.tls import TlsChoice

T = TypeVar("T")
_LONGEST_WAIT = 30 * 86_400.0
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; `-o json` is the same.")]


class Address(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def fresh(self) -> bool: ...
    @property
    def started(self) -> bool: ...


class Finding(Protocol):
    """What one check of the machine or the cloud saw."""

    @property
    def name(self) -> str: ...
    @property
    def result(self) -> str:
        """ok, warn or fail."""
        ...

    @property
    def seen(self) -> str: ...
    @property
    def meaning(self) -> str: ...
    @property
    def action(self) -> str: ...


class Machine(Protocol):
    """This machine's cloud: its home, its start and its end, and the examples that the package carries."""

    def up(
        self,
        home: Path | None,
        port: int | None,
        told: Callable[[str], None],
        *,
        gateways: int | None = None,
        tls: TlsChoice | None = None,
        access_log: str = "",
    ) -> Address: ...

    def serve_in_foreground(
        self,
        home: Path | None,
        port: int | None,
        told: Callable[[str], None],
        *,
        gateways: int | None = None,
        tls: TlsChoice | None = None,
        access_log: str = "",
    ) -> NoReturn: ...

    def units(self, home: Path | None) -> Mapping[str, str]:
        """systemd units that start the cloud with the machine: where each is to be written -> its text."""
        ...

    def down(self, home: Path | None, told: Callable[[str], None]) -> list[str]: ...

    def parts(self, home: Path | None) -> Sequence[dict[str, Any]]:
        """The supervisor, the control plane and the gateway: how each is, whether the cloud answers or not; none
        when nothing of it runs."""
        ...

    def part_log(self, home: Path | None, part: str, lines: int) -> list[str]:
        """The last `lines` of what the supervisor, the control plane or the gateway printed (`part` as in `parts`).
        Raises NotFound when it has no log."""
        ...

    def examine(self, home: Path | None, *, fix: bool) -> Sequence[Finding]:
        """Machine and cloud, examined. With `fix` what an unclean end left is removed, if nothing runs."""
        ...

    def address(self, home: Path | None) -> Address: ...

    def examples(self) -> Path: ...

    def serve(
        self, file: Path, *, host: str, port: int, name: str, device: str, told: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Answers for one model file in this process until it is interrupted, without a cloud. `told` is given its
        address, its inputs and outputs and a request to try, once it answers."""
        ...

    def declare(
        self, file: Path, home: Path | None, told: Progress, *, upgrade: bool
    ) -> tuple[Mapping[str, Any], bytes]:
        """What an application's file with a requirements.txt beside it declares (as JSON), executed with what that
        asks for; and the lock of it."""
        ...


state: dict[str, Any] = {"home": None}
app = typer.Typer(
    name="skyriver",
    help="An open AI cloud: from raw data to live decisions, on one machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def machine() -> Machine:
    found: Machine = state["machine"]
    return found


def connect() -> Client:
    from skyriver.client.api import Client  # 0.1 s that help need not wait for

    address = machine().address(state["home"])
    return Client(address.url, address.token)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"skyriver {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    home: Annotated[
        Path | None,
        typer.Option(help="The cloud's directory (else SKYRIVER_HOME, else the user's data directory)."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Show the version and end.")
    ] = False,
) -> None:
    state["home"] = home


LOOK_S = 0.25
TAKE_UP_S = 60.0
"""Within which a stream's worker is to decide with what was deployed."""


def taken_up(client: Client, bars: Bars, name: str) -> None:
    """Once its worker does. Raises Unavailable (NOT_FINISHED) where that takes too long; it goes on."""
    until = time.monotonic() + TAKE_UP_S
    wanted = client.get("streams", name)["generation"]
    while (row := client.get("streams", name))["status"].get("generation", 0) < wanted:
        if time.monotonic() > until:
            raise Unavailable(
                f"{name} is deployed, and its worker does not decide with that after {TAKE_UP_S:g} s."
                f" {row['state']} {row['message']}".rstrip(),
                code="NOT_FINISHED",
                where=f"stream/{name}",
                next_action=row["next_action"] or f"`skyriver explain {name}` shows how far it is.",
            )
        bars.tell(f"{name} {row['state'].lower()}", 0.0, 0.0)
        time.sleep(LOOK_S)


def wait(client: Client, operation: str, bars: Bars, *, timeout: float | None = None) -> Resource:
    """The operation once it succeeded. Ctrl-C, or `timeout` seconds, end the waiting alone: Unavailable
    (NOT_FINISHED)."""
    try:
        return client.wait(operation, timeout=_LONGEST_WAIT if timeout is None else timeout, told=bars.follow())
    except KeyboardInterrupt as error:
        raise Unavailable(
            f"{operation} goes on; only the waiting for it has ended.",
            code="NOT_FINISHED",
            next_action=f"`skyriver explain {operation}` shows how far it is.",
        ) from error


def act_and_tell(kind: str, name: str, action: str, *, as_json: bool, why: bool = False) -> None:
    """What is asked for with a name alone, such as to pause: waits until it is done, and tells which state the named is
    in now, and `why` where that is more than was asked for."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        wait(client, client.act(action, name), bars)
        found = client.get(f"{kind}s", name)
    told = f"The {kind} {name} is {found['state']}." + (f" {found['message']}" if why else "")
    screen.data(found, lambda: screen.say(told))


def confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("Nobody is there to confirm.", code="NOT_CONFIRMED", next_action="Give -y to do it.")
    if not typer.confirm(question, err=True):
        raise InvalidInput(
            "Not confirmed; nothing was done.", code="NOT_CONFIRMED", next_action="Answer y, or give -y, to do it."
        )


def all_of(items: Iterable[T]) -> tuple[list[T], Corrupt | None]:
    """What a list of the client's gives, and what it raises behind that where some of it is damaged: to be raised once
    the others are shown."""
    found: list[T] = []
    try:
        found.extend(items)
    except Corrupt as error:
        return found, error
    return found, None


def only(client: Client, kinds: str, what: str) -> str:
    names: list[str] = [r["name"] for r in client.list(kinds)]
    if len(names) != 1:
        raise InvalidInput(
            f"There are {len(names)} {kinds}: {', '.join(names) or 'none'}.",
            code="WHICH",
            next_action=f"Name the {what}." if names else "`skyriver deploy APP.py` first.",
        )
    return names[0]


def parameters_of(given: Sequence[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for item in given:
        name, sep, text = item.partition("=")
        if not sep or not name:
            raise InvalidInput(
                f"{item!r} is not NAME=VALUE.", code="BAD_PARAMETER", next_action="Write e.g. amount=9.5."
            )
        parameters[name] = _value(text)
    return parameters


def _value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, null, quoted text), else the text itself."""
    try:
        return json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON elsewhere
    except ValueError:
        return text


def noun(name: str, kinds: str, help_text: str, *, lists: bool = True, gets: bool = True) -> typer.Typer:
    """A noun with the verbs that all nouns have; without `lists` or `gets` it brings a `list` or `get` of its own."""
    nouns = typer.Typer(help=help_text, no_args_is_help=True)

    def listed(as_json: Json = False) -> None:
        """All there are."""
        screen = Screen(as_json=as_json)
        with connect() as client:
            items, damaged = all_of(client.list(kinds))
        screen.data(items, lambda: show.resources(screen, kinds, items))
        if damaged is not None:
            raise damaged

    if lists:
        nouns.command("list")(listed)

    def got(item: Annotated[str, typer.Argument(metavar="NAME")], as_json: Json = False) -> None:
        """One, with all that is known of it."""
        screen = Screen(as_json=as_json)
        with connect() as client:
            found = client.get(kinds, item)
        screen.data(found, lambda: show.resource(screen, found))

    if gets:
        nouns.command("get")(got)

    app.add_typer(nouns, name=name)
    return nouns
