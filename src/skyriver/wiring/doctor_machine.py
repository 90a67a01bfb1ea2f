"""What `skyriver doctor` examines of the machine: whether a cloud can live in this home.

Each check looks at one thing and says what it saw, what that means and what to do. None changes anything, but that
`disk writes` and `file locks` make a file in the home and remove it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import resource
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

from skyriver import __version__
from skyriver.adapters.haproxy import binary, port
from skyriver.adapters.haproxy.process import recorded
from skyriver.adapters.processes.groups import ControlGroups
from skyriver.adapters.sqlite.driver import SAFE_WAL, newest_driver
from skyriver.core.errors import SkyriverError
from skyriver.wiring.finding import Finding
from skyriver.wiring.home import DEFAULT_PORT, Home, port_of_environment

DESCRIPTORS = 4_096
"""A gateway has two a request, a stream's worker some for its log."""
DISK_LOW, DISK_EMPTY = 5_000_000_000, 200_000_000
INODES_LOW = 10_000
MEMORY_LOW_MB = 500
SLOW_SYNC_SECONDS = 0.05
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs"})
_TIME_ERROR = 5
_SYNC_TRIES = 5


def versions(home: Home) -> Finding:
    libc = " ".join(platform.libc_ver()).strip()
    seen = (
        f"skyriver {__version__}, Python {platform.python_version()}, Linux {platform.release()}, {libc or 'no glibc'}"
    )
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return Finding("versions", "fail", seen, "Skyriver needs Linux 5.3 or newer.", "Use a newer kernel.")
    return Finding("versions", "ok", seen)


def sqlite(home: Home) -> Finding:
    driver = newest_driver()
    seen = f"SQLite {driver.sqlite_version} ({driver.__name__.partition('.')[0]})"
    if driver.sqlite_version_info < SAFE_WAL:
        meaning = "Older than 3.51.3 a WAL can be corrupted, so a rollback journal is used: safe, and slower."
        return Finding("sqlite", "warn", seen, meaning, "`pip install pysqlite3` where there is a wheel of it.")
    return Finding("sqlite", "ok", seen)


def haproxy(home: Home) -> Finding:
    found = binary.find()
    return Finding("haproxy", "ok", f"HAProxy {'.'.join(map(str, found.version))}, {found.path}")


def listening(home: Home) -> Finding:
    known = home.settings().get("port")
    gateway = recorded(home.gateway)
    if gateway is not None and gateway.identity.alive() and gateway.port == known:
        return Finding("port", "ok", f"{known} is this cloud's")
    number = port_of_environment() or int(known or DEFAULT_PORT)  # as `skyriver up` chooses it
    try:
        port.check_free("127.0.0.1", number)
    except SkyriverError as error:
        return Finding("port", "fail", error.message, "The gateway cannot start there.", error.next_action)
    return Finding("port", "ok", f"{number} is free")


def descriptors(home: Home) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard:,}"
    seen = f"{soft:,} open files, {shown}"
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        meaning = "The gateway takes fewer requests at once."
        return Finding("descriptors", "warn", seen, meaning, f"Raise the hard limit to {DESCRIPTORS:,} (`ulimit -Hn`).")
    return Finding("descriptors", "ok", seen)


def disk(home: Home) -> Finding:
    place = _nearest(home.root)
    seen = os.statvfs(place)
    free, inodes = seen.f_bavail * seen.f_frsize, seen.f_favail
    text = f"{free / 1e9:.1f} GB and {inodes:,} files free at {place}"
    action = "Make room, or move the home to another disk."
    if seen.f_flag & os.ST_RDONLY:
        return Finding("disk", "fail", f"{place} is mounted read-only", "Nothing can be kept.", "Mount it writable.")
    if free < DISK_EMPTY or (seen.f_files and inodes < 100):
        return Finding("disk", "fail", text, "Events, jobs and changes are refused when it is full.", action)
    if free < DISK_LOW or (seen.f_files and inodes < INODES_LOW):
        return Finding("disk", "warn", text, "Logs and tables grow.", action)
    return Finding("disk", "ok", text)


def disk_writes(home: Home) -> Finding:
    if not home.root.is_dir():
        return Finding("disk writes", "ok", "there is no home yet")
    seconds = []
    path = home.root / f".doctor.{os.getpid()}"
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(_SYNC_TRIES):
                begun = time.perf_counter()
                file.write(bytes(4096))
                os.fsync(file.fileno())
                seconds.append(time.perf_counter() - begun)
    except OSError as error:
        meaning = "Nothing can be kept: events, jobs and changes are refused."
        return Finding("disk writes", "fail", f"{error.strerror} in {home.root}", meaning, "Make room, or it writable.")
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    middle = sorted(seconds)[len(seconds) // 2]
    text = f"4 KB are written and synced in {middle * 1000:.2f} ms"
    if middle > SLOW_SYNC_SECONDS:
        return Finding(
            "disk writes", "warn", text, "Each commit and batch of events waits that long.", "Use a faster disk."
        )
    return Finding("disk writes", "ok", text)


def locks(home: Home) -> Finding:
    if not home.root.is_dir():
        return Finding("file locks", "ok", "there is no home yet")
    kind = _file_system(home.root)
    path = home.root / f".doctor-lock.{os.getpid()}"
    first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            works = False
        except BlockingIOError:
            works = True
        finally:
            os.close(second)
    finally:
        os.close(first)
        path.unlink(missing_ok=True)
    action = "Put the home on a local disk (`--home`)."
    if not works:
        meaning = "Two control planes, or two writers of one stream, could run at once."
        return Finding("file locks", "fail", f"they do not hold on {kind}", meaning, action)
    if kind in _REMOTE:
        meaning = "Locks of a network file system may fail when its server restarts; SQLite does not support them."
        return Finding("file locks", "warn", f"they hold, on {kind}", meaning, action)
    return Finding("file locks", "ok", f"they hold, on {kind}")


def clock(home: Home) -> Finding:
    try:
        # Asks only (no mode is set): whether something keeps the clock right.
        kept = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) != _TIME_ERROR
    except (OSError, AttributeError):
        kept = True
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if not kept:
        meaning = "Nothing keeps this clock right. Events too far ahead of it are refused."
        return Finding("clock", "warn", f"{text}, not synchronised", meaning, "Run an NTP client, such as chrony.")
    return Finding("clock", "ok", text)


def held(home: Home) -> Finding:
    told = ControlGroups(home.root).told()
    text = "; ".join(f"{what} of jobs {how}" for what, how in sorted(told.items()))
    if any("no control group" in how for how in told.values()):
        meaning = "Jobs are held to what they asked for, but less exactly."
        action = "Start the cloud by systemd (`skyriver up --systemd`): its unit asks for control groups of its own."
        return Finding("limits", "warn", text, meaning, action)
    return Finding("limits", "ok", text)


def memory(home: Home) -> Finding:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) / 1000 for name in ("MemTotal", "MemAvailable"))
    text = f"{available:,.0f} of {total:,.0f} MB available"
    if available < MEMORY_LOW_MB:
        meaning = "Jobs wait for memory, and the kernel may kill processes."
        return Finding("memory", "warn", text, meaning, "`skyriver top` shows who has it.")
    return Finding("memory", "ok", text)


def shared_memory(home: Home) -> Finding:
    if not os.access("/dev/shm", os.W_OK):
        meaning = "Training that spreads over processes needs it."
        return Finding("shared memory", "warn", "/dev/shm cannot be written", meaning, "Mount a tmpfs there.")
    seen = os.statvfs("/dev/shm")
    return Finding("shared memory", "ok", f"{seen.f_bavail * seen.f_frsize / 1e6:,.0f} MB free in /dev/shm")


def permissions(home: Home) -> Finding:
    if not home.root.exists():
        return Finding("home", "ok", f"{home.root} is made by `skyriver up`")
    seen = home.root.stat()
    if not stat.S_ISDIR(seen.st_mode):
        return Finding("home", "fail", f"{home.root} is no folder", "It cannot be a home.", "Name another: `--home`.")
    if seen.st_uid != os.geteuid():
        meaning = "A cloud belongs to one user; files made by another one cannot be read by it."
        return Finding("home", "fail", f"{home.root} is user {seen.st_uid}'s", meaning, "Run commands as that user.")
    for path in (home.root, home.token, home.state):
        if path.exists() and path.stat().st_mode & 0o077:
            meaning = "Other users of this machine can read what is theirs not."
            action = f"`chmod go= {path}`"
            return Finding("home", "fail", f"{path} is open to others", meaning, action)
    return Finding("home", "ok", f"{home.root}, yours alone")


MACHINE: dict[str, Callable[[Home], Finding]] = {
    "versions": versions,
    "sqlite": sqlite,
    "haproxy": haproxy,
    "port": listening,
    "descriptors": descriptors,
    "memory": memory,
    "shared memory": shared_memory,
    "limits": held,
    "clock": clock,
    "home": permissions,
    "disk": disk,
    "disk writes": disk_writes,
    "file locks": locks,
}


def _nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def _file_system(path: Path) -> str:
    """The kind of the mount that holds `path`."""
    best, kind = -1, "an unknown file system"
    real = Path(os.path.realpath(path))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4].encode().decode("unicode_escape"))
        if real.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), right.split()[0]
    return kind
