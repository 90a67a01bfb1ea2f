"""`skyriver serve`: one model file, answered by this very process; no cloud, no application."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from skyriver.client.screen import Screen
from skyriver.client.shell import Json, app, machine

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command()
def serve(
    file: Annotated[Path, typer.Argument(help="An ONNX file.")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="The address that it listens on.")] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="The model's name in paths (else the file's).")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:NUMBER.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Answer for one model file until Ctrl-C, without a cloud."""
    screen = Screen(as_json=as_json)
    if host not in _LOOPBACK:
        screen.say(f"Whoever reaches {host} may ask it: there are no tokens here. `skyriver deploy` serves with them.")

    def told(document: Mapping[str, Any]) -> None:
        screen.data(document, lambda: _show(document))
        sys.stdout.flush()

    machine().serve(file, host=host, port=port, name=name, device=device, told=told)
    screen.say("Ended.")


def _show(document: Mapping[str, Any]) -> None:
    print(f"{document['model']} answers at {document['url']}; Ctrl-C ends it.")
    for side in ("inputs", "outputs"):
        tensors = (f"{t['name']} {t['datatype']}{t['shape']}" for t in document[side])
        print(f"  {side:<8} {', '.join(tensors)}")
    print(f"  try      {document['curl']}")
    print(f"  also     {document['url']}/v2/models/{document['model']} (Open Inference Protocol), /metrics")
