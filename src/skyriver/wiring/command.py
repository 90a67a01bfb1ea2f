"""The `skyriver` command: joins the command line to this machine's cloud."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from skyriver.client import cli, shell
from skyriver.wiring import home as homes

if TYPE_CHECKING:
    from skyriver.core.jobs import Progress
    from skyriver.core.tls import TlsChoice


class ThisMachine:
    """The cloud of this machine. Parts are loaded when a command needs them: help must come at once."""

    def up(
        self,
        home: Path | None,
        port: int | None,
        told: Callable[[str], None],
        *,
        gateways: int | None = None,
        tls: TlsChoice | None = None,
        access_log: str = "",
    ) -> shell.Address:
        from skyriver.wiring.cloud import up

        return up(homes.Home.at(home), port, told, gateways=gateways, tls=tls, access_log=access_log)

    def serve_in_foreground(
        self,
        home: Path | None,
        port: int | None,
        told: Callable[[str], None],
        *,
        gateways: int | None = None,
        tls: TlsChoice | None = None,
        access_log: str = "",
    ) -> NoReturn:
        from skyriver.wiring.cloud import serve_in_foreground

        serve_in_foreground(homes.Home.at(home), port, told, gateways=gateways, tls=tls, access_log=access_log)

    def units(self, home: Path | None) -> Mapping[str, str]:
        from skyriver.wiring.units import units

        return units(homes.Home.at(home))

    def down(self, home: Path | None, told: Callable[[str], None]) -> list[str]:
        from skyriver.wiring.ending import down

        return down(homes.Home.at(home), told)

    def parts(self, home: Path | None) -> Sequence[dict[str, Any]]:
        from skyriver.wiring.parts import parts_of

        return parts_of(homes.Home.at(home))

    def part_log(self, home: Path | None, part: str, lines: int) -> list[str]:
        from skyriver.wiring.parts import part_log

        return part_log(homes.Home.at(home), part, lines)

    def examine(self, home: Path | None, *, fix: bool) -> Sequence[shell.Finding]:
        from skyriver.wiring.doctor import examine

        return examine(homes.Home.at(home), fix=fix)

    def address(self, home: Path | None) -> shell.Address:
        from skyriver.wiring.address import address_of

        return address_of(homes.Home.at(home))

    def examples(self) -> Path:
        """In the installed package, else in the source tree that it is run from."""
        package = Path(homes.__file__).parents[1]
        installed = package / "examples"
        return installed if installed.is_dir() else package.parents[1] / "examples"

    def serve(
        self, file: Path, *, host: str, port: int, name: str, device: str, told: Callable[[Mapping[str, Any]], None]
    ) -> None:
        from skyriver.wiring.standalone import serve

        serve(file, host=host, port=port, name=name, device=device, told=told)

    def declare(
        self, file: Path, home: Path | None, told: Progress, *, upgrade: bool
    ) -> tuple[Mapping[str, Any], bytes]:
        from skyriver.wiring.environments import declare

        return declare(file, homes.Home.at(home), told, upgrade=upgrade)


def main() -> None:
    sys.exit(cli.main(ThisMachine()))


if __name__ == "__main__":
    main()
