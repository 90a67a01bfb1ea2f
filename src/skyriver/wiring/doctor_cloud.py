"""What `skyriver doctor` examines of the cloud in this home, be it up, dead or never begun."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skyriver.adapters.keyfile.keys import KeyFiles
from skyriver.adapters.processes.identity import Identity, age_seconds
from skyriver.adapters.processes.runs import RunFiles
from skyriver.adapters.sqlite.driver import newest_driver
from skyriver.adapters.sqlite.migrations import REVISIONS
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.client.api import Client
from skyriver.core.errors import SkyriverError
from skyriver.release.signature import Signature, takes_pictures
from skyriver.trust.trusted import read_trusted
from skyriver.wiring.address import address_of
from skyriver.wiring.ending import end_everything, only_command
from skyriver.wiring.finding import Finding, Result
from skyriver.wiring.home import Home
from skyriver.wiring.living import processes_of
from skyriver.wiring.parts import parts_of
from skyriver.wiring.prices import OLD_DAYS, price_file, price_lists, read_prices
from skyriver.wiring.watched import control_of, read_parts, running_supervisor

HOUR_US = 3_600_000_000
CLOCK_STEP_SECONDS = 2.0
MANY_RESTARTS = 3
SHOWN = 5
_KINDS = ("streams", "services", "workers", "dispatchers", "replicas", "activators")
_GOOD = frozenset({"READY", "SCALED_TO_ZERO", "STOPPED"})


def parts(home: Home) -> Finding:
    found = parts_of(home)
    if not processes_of(home):
        return Finding("cloud", "ok", "none runs in this home")
    bad = [p for p in found if p["state"] != "READY"]
    if not bad:
        return Finding("cloud", "ok", ", ".join(f"{p['name']} (pid {p['pid']}, {p['rss_mb']:.0f} MB)" for p in found))
    seen = "; ".join(f"the {p['name']} is {p['state']} ({p['reason']})" for p in bad)
    actions = " ".join(sorted({p["next_action"] for p in bad if p["next_action"]}))
    meaning = " ".join(sorted({p["message"] for p in bad}))
    return Finding("cloud", "fail", seen, meaning, actions or "Look again in some seconds; `skyriver up` mends it.")


def restarts(home: Home) -> Finding:
    since = time.time_ns() // 1_000 - HOUR_US
    ends = {name: [e for e in part.ends if e["at"] >= since] for name, part in read_parts(home).items()}
    seen = ", ".join(f"{name} {len(found)}" for name, found in sorted(ends.items()))
    if any(len(found) > MANY_RESTARTS for found in ends.values()):
        last = max((e for found in ends.values() for e in found), key=lambda e: int(e["at"]))
        meaning = f"Something ends them again and again; the last one {last['why']}."
        return Finding("restarts", "warn", f"in the last hour: {seen}", meaning, f"Its log is in {home.logs}.")
    return Finding("restarts", "ok", f"in the last hour: {seen}")


def clock_steps(home: Home) -> Finding:
    """The wall clock against the one that cannot be set, since the supervisor began."""
    identity = running_supervisor(home)
    if identity is None:
        return Finding("clock steps", "ok", "nothing runs that they could disturb")
    told = next(p["started_at"] for p in parts_of(home) if p["name"] == "supervisor") / 1e6
    step = time.time() - age_seconds(identity) - told
    if abs(step) > CLOCK_STEP_SECONDS:
        meaning = "Ages and schedules are off; what waits by a monotonic clock is not."
        return Finding("clock steps", "warn", f"set by {step:+.0f} s since the cloud began", meaning, "Keep it by NTP.")
    return Finding("clock steps", "ok", "none since the cloud began")


def leftovers(home: Home) -> Finding:
    found = list(_leftovers(home))
    if not found:
        return Finding("leftovers", "ok", "none")
    shown = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    if processes_of(home):
        action = "`skyriver up` takes over what lives; `skyriver down` ends and removes all of it."
    else:
        action = "`skyriver doctor --fix` removes it; `skyriver up` goes on from it."
    return Finding("leftovers", "warn", shown, "The cloud did not end by `skyriver down`.", action)


def _leftovers(home: Home) -> Iterator[str]:
    """Of an unclean end. While the cloud runs, its own files are none."""
    if not home.run.is_dir():
        return
    known = {run.pid: run for run in RunFiles(home.run).all()}
    watched = running_supervisor(home) is not None or control_of(home) is not None
    if home.stopping.exists():
        yield "a `skyriver down` was cut off"
    for process in processes_of(home):
        if not watched:
            yield f"{process.module or 'a process of a job'} {process.name} (pid {process.identity.pid}) runs on alone"
    if watched:
        return
    for run in known.values():
        if not Identity(run.pid, run.start_time, run.boot).alive():
            yield f"the run file of {run.name}, whose process is gone"
    for path in (home.control_run, home.supervisor_run, *home.run.glob(".*")):
        if path.exists():
            yield f"{path.name}"
    if home.sockets.is_dir():
        for path in home.sockets.iterdir():
            if path.is_socket() and not _listened(path):
                yield f"the socket {path.name}, at which nobody listens"


def _listened(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        probe.connect(str(path))
        return True
    return False


def remove_leftovers(home: Home) -> None:
    """Only where no process of the cloud is left."""
    if home.run.is_dir() and list(_leftovers(home)) and not processes_of(home):
        with only_command(home, "skyriver doctor --fix", lambda text: None):
            if not processes_of(home):
                end_everything(home)


def database(home: Home) -> Finding:
    if not home.state.exists():
        return Finding("database", "ok", "there is none yet")
    driver = newest_driver()
    address = f"{home.state.as_uri()}?mode=ro"
    try:
        with contextlib.closing(driver.connect(address, uri=True, timeout=5.0)) as connection:
            told = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
            revision = next((str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")), "")
    except driver.DatabaseError as error:
        told, revision = [str(error)], ""
    if told != ["ok"]:
        action = "`skyriver down`, keep a copy of the folder, and restore a backup."
        return Finding("database", "fail", "; ".join(told), "The control state is damaged.", action)
    if revision != REVISIONS[-1]:
        meaning = "`skyriver up` migrates an older one; a newer one is refused."
        return Finding("database", "ok", f"whole, of schema {revision}", meaning)
    store = SqliteStore(home.state)
    try:
        head = store.verify_audit()
    finally:
        store.close()
    size = home.state.stat().st_size / 1e6
    return Finding("database", "ok", f"whole, {size:.1f} MB; {head.seq:,} audit rows, their chain unbroken")


def pictures(home: Home) -> Finding:
    """Whether those that models take can be read: Pillow is no part of the base installation."""
    if not _answers(home):
        return Finding("pictures", "ok", "not asked: the cloud does not answer")
    address = address_of(home)
    with Client(address.url, address.token) as client:
        return pictures_of(list(client.list("versions")), installed=find_spec("PIL") is not None)


def pictures_of(versions: Iterable[Any], *, installed: bool) -> Finding:
    signatures = {v["name"]: v["spec"].get("signature") for v in versions}
    taking = [n for n, s in signatures.items() if s and any(takes_pictures(t) for t in Signature.from_json(s).inputs)]
    if not taking:
        return Finding("pictures", "ok", "no model takes any")
    seen = f"taken by {', '.join(taking[:SHOWN])}{' and others' if len(taking) > SHOWN else ''}"
    if installed:
        return Finding("pictures", "ok", f"{seen}; Pillow reads them")
    meaning = "Pillow is not installed: a PNG or JPEG is answered 501, and only pixels as numbers are taken."
    return Finding("pictures", "warn", seen, meaning, '`pip install "skyriver[images]"`, for the replicas\' Python.')


def keys(home: Home) -> Finding:
    """Whether versions are signed, and will be."""
    if not home.state.exists() and not home.trusted.exists():
        return Finding("keys", "ok", "there are none yet")
    trusted = read_trusted(home.trusted)
    if trusted is None:
        library = find_spec("cryptography") is not None
        action = (
            "`skyriver down`, then `skyriver up`." if library else "`pip install cryptography`, then `skyriver up`."
        )
        return Finding("keys", "warn", "none: versions are not signed", "Nobody notices who changes a model.", action)
    files = KeyFiles(home.keys)
    lost = [tenant for tenant in sorted(trusted) if not files.list(tenant)]
    if lost:
        meaning = "What is signed goes on serving; new versions cannot be signed, and do not serve."
        action = "Put it back from a copy, or `skyriver key rotate --sign-again`."
        seen = f"the key file of {', '.join(lost[:SHOWN])} is missing in {home.keys}"
        return Finding("keys", "fail", seen, meaning, action)
    return Finding("keys", "ok", f"{sum(map(len, trusted.values()))} trusted; key files are their owner's alone")


def prices(home: Home) -> Finding:
    """Whether what resources cost can be read, and is not out of date."""
    try:
        found = read_prices(price_file(home), price_lists(), date.today())
    except SkyriverError as error:
        meaning = f"{error.code}: the prices before stay in force."
        return Finding("prices", "warn", f"{price_file(home)}: {error.message}", meaning, error.next_action)
    if found is None:
        return Finding("prices", "ok", "nothing costs anything: owned machines")
    age = (date.today() - found.as_of).days
    if age > OLD_DAYS and not found.are_zero:
        meaning = "What things cost, and what is decided by it, may be wrong."
        action = f"Look up what you pay, and write it with today's as_of into {price_file(home)}."
        return Finding("prices", "warn", f"they are of {found.as_of}, {age} days ago", meaning, action)
    return Finding("prices", "ok", f"in {found.currency}, of {found.as_of}")


def _answers(home: Home) -> bool:
    return control_of(home) is not None and all(p["state"] == "READY" for p in parts_of(home))


def deployed(home: Home) -> Finding:
    """What is declared and not as it should be."""
    if not _answers(home):
        return Finding("deployed", "ok", "not asked: the cloud does not answer")
    address = address_of(home)
    with Client(address.url, address.token) as client:
        rows: list[tuple[str, Any]] = [(kinds[:-1], row) for kinds in _KINDS for row in client.list(kinds)]
    bad = [(kind, row) for kind, row in rows if row["state"] not in _GOOD and row["reason"] != "NO_VERSION"]
    if not bad:
        return Finding("deployed", "ok", f"all {len(rows)} streams, services and their processes are as they should be")
    seen = "; ".join(f"{kind} {row['name']} is {row['state']} {row['reason']}".rstrip() for kind, row in bad[:SHOWN])
    worst = next((row for _, row in bad if row["next_action"]), bad[0][1])
    action = worst["next_action"] or f"`skyriver explain {worst['name']}` tells why."
    result: Result = "fail" if any(row["state"] in ("FAILED", "LOST") for _, row in bad) else "warn"
    return Finding("deployed", result, seen, worst["message"] or "It is on its way.", action)


CLOUD: dict[str, Callable[[Home], Finding]] = {
    "cloud": parts,
    "restarts": restarts,
    "clock steps": clock_steps,
    "leftovers": leftovers,
    "database": database,
    "deployed": deployed,
    "pictures": pictures,
    "keys": keys,
    "prices": prices,
}
