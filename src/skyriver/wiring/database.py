"""The control state as SKYRIVER_STORE names it, and the command that prepares a PostgreSQL database for it:

    SKYRIVER_STORE=postgresql://skyriver:PASSWORD@HOST/DATABASE \\
    SKYRIVER_STORE_ADMIN=postgresql://ADMINISTRATOR:PASSWORD@HOST/DATABASE  python -m skyriver.wiring.database

The administrator may make roles and tables; the role of SKYRIVER_STORE, made if it is not there, may not. Run it once,
and again with each new version. Addresses hold passwords, so they come in the environment: others see a command line.
"""

from __future__ import annotations

import os
from typing import Final

from skyriver.core.errors import InvalidInput, SkyriverError

STORE_VARIABLE: Final = "SKYRIVER_STORE"
ADMIN_VARIABLE: Final = "SKYRIVER_STORE_ADMIN"


def store_address() -> str:
    """The address of a PostgreSQL database; empty for the file in the home. Raises InvalidInput when its driver is not
    installed."""
    address = os.environ.get(STORE_VARIABLE, "")
    if address:
        try:
            import psycopg  # noqa: F401  # an extra of the package
        except ImportError as error:
            raise InvalidInput(
                "The driver of PostgreSQL is not installed.",
                code="NO_DRIVER",
                where=STORE_VARIABLE,
                next_action="Run `pip install 'skyriver[postgres]'`.",
            ) from error
    return address


def main() -> None:
    try:
        address, administrator = store_address(), os.environ.get(ADMIN_VARIABLE, "")
        if not address or not administrator:
            raise InvalidInput(
                f"{STORE_VARIABLE} and {ADMIN_VARIABLE} name the database to prepare, and who may do it.",
                code="BAD_STORE",
                next_action="Set both, as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
            )
        from skyriver.adapters.postgres.preparing import prepare  # needs the driver

        revision = prepare(administrator, address)
    except SkyriverError as error:
        raise SystemExit(f"{error.code}: {error}") from error
    print(f"The database is prepared: revision {revision}.")


if __name__ == "__main__":
    main()
