"""From an application's file to what is deployed, with the packages that it brings (docs/decisions/0010)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from skyriver.client.appfile import load_app, place
from skyriver.client.shell import Machine
from skyriver.core.environments import REQUIREMENTS
from skyriver.core.errors import SkyriverError
from skyriver.core.jobs import Progress
from skyriver.core.spec import AppSpec


@dataclass(frozen=True, slots=True)
class Declared:
    """What an application's file says."""

    spec: AppSpec
    lock: bytes
    """Of its requirements; b"": it has none."""
    places: Mapping[str, str]
    """Those of `App.places`."""

    @contextmanager
    def placing(self) -> Iterator[None]:
        """What the cloud refuses of it gets the line of the file where it stands."""
        try:
            yield
        except SkyriverError as error:
            place(error, self.places)
            raise


def declare(machine: Machine, home: Path | None, file: Path, told: Progress, *, upgrade: bool = False) -> Declared:
    """It is executed here: with a requirements.txt beside it in the very environment that its jobs will run in, else
    by this interpreter.

    Raises InvalidInput with the line of the file, or of the requirements, where it went wrong.
    """
    if file.suffix != ".py" or not file.is_file() or not (file.parent / REQUIREMENTS).is_file():
        app = load_app(file)
        return Declared(app.spec, b"", app.places)
    found, lock = machine.declare(file, home, told, upgrade=upgrade)
    return Declared(AppSpec.model_validate(found["spec"]), lock, found["places"])
