"""The commands for requests: what became of each at the gateway."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, connect

if TYPE_CHECKING:
    from skyriver.core.contract_requests import RequestLine

_requests = typer.Typer(help="Requests: what became of each at the gateway.", no_args_is_help=True)
app.add_typer(_requests, name="request")


@_requests.command("list")
def request_list(
    status: Annotated[str, typer.Option(help="Only answered so: 5xx, 429.")] = "",
    of: Annotated[str, typer.Option(help="Only of this model or stream; control for what steers the cloud.")] = "",
    since: Annotated[str, typer.Option(help="Only of so long: 10m, 1h.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="The most that is shown.")] = 50,
    as_json: Json = False,
) -> None:
    """The newest, newest first."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items = client.requests(status=status, of=of, since=since, limit=limit)
    screen.data({"items": items}, lambda: _table(screen, items))


@_requests.command("get")
def request_get(
    id: Annotated[str, typer.Argument(metavar="ID", help="The X-Request-Id of its answer.")], as_json: Json = False
) -> None:
    """What became of one, by the id that its answer carries."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        items = client.request(id)
    screen.data({"items": items}, lambda: _show(items))


def _table(screen: Screen, lines: Sequence[RequestLine]) -> None:
    if not lines:
        screen.say("No such requests are recorded.")
        return
    rows = [
        (_when(line), str(line["status"]), line["code"], line["of"], line["asks"], _ms(line["total_ms"]), line["id"])
        for line in lines
    ]
    screen.table("", ("TIME (UTC)", "STATUS", "CODE", "OF", "ASKS", "TOOK", "ID"), rows)


def _show(lines: Sequence[RequestLine]) -> None:
    for line in lines:
        names = ("receive", "queue", "connect", "answer", "total")
        times = (line["receive_ms"], line["queue_ms"], line["connect_ms"], line["answer_ms"], line["total_ms"])
        print(f"{line['id'] or 'no id'}: {line['method'] or 'no HTTP'} {line['of']} {line['asks']}".rstrip())
        print(f"  came      {_when(line)} UTC, of tenant {line['tenant'] or '(none)'}")
        print(f"  answered  {line['status']} {line['code']}".rstrip() + f" by {line['server'] or 'the gateway'}")
        print(f"  ended     {line['end']}, {line['bytes_in']:,} bytes in, {line['bytes_out']:,} out")
        print(f"  took      {', '.join(f'{name} {_ms(ms)}' for name, ms in zip(names, times, strict=True))}")


def _when(line: RequestLine) -> str:
    at = line["time"]
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))}.{int(at * 1000) % 1000:03d}"


def _ms(took: int | None) -> str:
    return "-" if took is None else f"{took} ms"
