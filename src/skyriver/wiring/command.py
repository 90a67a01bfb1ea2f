"""The `skyriver` command: joins the command line to this machine's cloud."""

from __future__ import annotations

import sys
from pathlib import Path

from skyriver.client import cli, shell
from skyriver.wiring import home as homes


class ThisMachine:
    """The cloud of this machine. Parts are loaded when a command needs them: help must come at once."""

    def up(self, home: Path | None, port: int | None) -> shell.Address:
        from skyriver.wiring.cloud import up

        return up(homes.Home.at(home), port)

    def down(self, home: Path | None) -> list[str]:
        from skyriver.wiring.cloud import down

        return down(homes.Home.at(home))

    def address(self, home: Path | None) -> shell.Address:
        from skyriver.wiring.address import address_of

        return address_of(homes.Home.at(home))

    def examples(self) -> Path:
        """In the installed package, else in the source tree that it is run from."""
        package = Path(homes.__file__).parents[1]
        installed = package / "examples"
        return installed if installed.is_dir() else package.parents[1] / "examples"


def main() -> None:
    sys.exit(cli.main(ThisMachine()))
