"""Whether a TCP port is free, and who has it."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from skyriver.core.errors import Conflict, InvalidInput, NotAllowed


def check_free(address: str, port: int) -> None:
    """Raises Conflict (PORT_IN_USE) when somebody listens there already."""
    try:
        with socket.socket(socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except PermissionError as error:
        raise NotAllowed(
            f"This user may not listen on port {port}.",
            code="PORT_NOT_ALLOWED",
            next_action="Choose a port above 1023 with `--port`.",
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise in_use(port) from error
        raise InvalidInput(
            f"The gateway cannot listen on {address}:{port}: {error.strerror}.",
            code="BAD_ADDRESS",
            next_action="Choose an address of this machine.",
        ) from error


def in_use(port: int) -> Conflict:
    owner = _owner(port)
    return Conflict(
        f"Port {port} is in use{f' by {owner}' if owner else ''}.",
        code="PORT_IN_USE",
        next_action="Choose another one with `--port`, or end what uses it.",
    )


def _owner(port: int) -> str:
    """`name (pid 123)` of the process that listens on the port, as far as this user may see it."""
    wanted = {f"socket:[{inode}]" for inode in _listening(port)}
    for directory in Path("/proc").glob("[0-9]*") if wanted else ():
        try:
            if any(str(entry.readlink()) in wanted for entry in (directory / "fd").iterdir()):
                return f"{(directory / 'comm').read_text().strip()} (pid {directory.name})"
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return ""


def _listening(port: int) -> list[str]:
    inodes = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.append(fields[9])
    return inodes
