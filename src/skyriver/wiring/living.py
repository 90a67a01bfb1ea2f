"""Which processes of this machine are those of a home, whatever its run files say, and how one is ended."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from skyriver.adapters.processes.identity import Identity, identify, look, readable
from skyriver.wiring.home import Home

_MODULES = "skyriver.wiring."


@dataclass(frozen=True, slots=True)
class Living:
    identity: Identity
    module: str
    """What it is: supervisor, control, gateway, job, replica or worker; "" for what one of them started."""
    name: str
    """Of a job, replica or worker: TENANT.KIND.NAME."""


def processes_of(home: Home) -> list[Living]:
    """Every process of `home`: known by its command line (`python -m skyriver.wiring.MODULE HOME...`) or, if it has no
    terminal, by a working directory that is the gateway's or a job's: a shell that somebody left there is not ours."""
    root = Path(os.path.realpath(home.root))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # ended meanwhile, or another user's
                module, name = _what(entry, root)
                identity = identify(int(entry.name)) if module is not None else None
                if module is not None and identity is not None:
                    found.append(Living(identity, module, name))
    return found


def _what(entry: Path, root: Path) -> tuple[str | None, str]:
    words = [os.fsdecode(word) for word in (entry / "cmdline").read_bytes().split(b"\0")]
    if len(words) > 3 and words[1] == "-m" and words[2].startswith(_MODULES):
        of = Path(os.path.realpath(words[3]))
        if of == root or of.is_relative_to(root / "run"):
            return words[2].removeprefix(_MODULES), of.name.removesuffix(".config.json") if of != root else ""
    at = (entry / "cwd").readlink()
    if at == root / "gateway" and words[0].endswith("haproxy"):
        return "gateway", ""
    if at.is_relative_to(root / "work") and at != root / "work" and not _has_terminal(entry):
        return "", at.relative_to(root / "work").parts[0]
    return None, ""


def _has_terminal(entry: Path) -> bool:
    text = (entry / "stat").read_text()
    return text[text.rindex(")") + 2 :].split()[4] != "0"


def is_stopped(identity: Identity) -> bool:
    """Whether SIGSTOP holds it."""
    seen = look(identity)
    return seen is not None and seen.stopped


def terminate(identity: Identity, grace: float) -> None:
    """SIGTERM, and past `grace` seconds SIGKILL; it has ended when this returns."""
    try:
        descriptor = os.pidfd_open(identity.pid)  # from here on a signal cannot hit another process of that number
    except ProcessLookupError:
        return
    try:
        if not identity.alive():
            return
        with contextlib.suppress(ProcessLookupError):
            if grace:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # a stopped one gets its signals only then
                if readable(grace, descriptor):
                    return
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            readable(10.0, descriptor)
    finally:
        os.close(descriptor)
