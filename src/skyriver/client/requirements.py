"""From an application's file to what is deployed, with the packages that it brings (docs/decisions/0010)."""

from __future__ import annotations

from pathlib import Path

from skyriver.client.appfile import load_app
from skyriver.client.shell import Machine
from skyriver.core.environments import REQUIREMENTS
from skyriver.core.jobs import Progress
from skyriver.core.spec import AppSpec


def declare(
    machine: Machine, home: Path | None, file: Path, told: Progress, *, upgrade: bool = False
) -> tuple[AppSpec, bytes]:
    """The file's specification and the lock of its requirements, b"" where it has none. It is executed here: with a
    requirements.txt beside it in the very environment that its jobs will run in, else by this interpreter.

    Raises InvalidInput with the line of the file, or of the requirements, where it went wrong.
    """
    if file.suffix != ".py" or not file.is_file() or not (file.parent / REQUIREMENTS).is_file():
        return load_app(file).spec, b""
    spec, lock = machine.declare(file, home, told, upgrade=upgrade)
    return AppSpec.model_validate(spec), lock
