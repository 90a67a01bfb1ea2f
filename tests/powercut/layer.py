"""The recording layer (layer.c): built with the machine's C compiler, loaded into a child and switched on there."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

SOURCE = Path(__file__).with_name("layer.c")
_HEAD = struct.Struct("<B3xIIIQqq")

Lie = Literal["none", "files", "folders", "both"]
"""Whose syncs are dropped."""
_LIES: dict[Lie, int] = {"none": 0, "files": 1, "folders": 2, "both": 3}


class Kind(IntEnum):
    """As in layer.c."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    DATASYNC = 5
    RANGESYNC = 6
    RENAME = 7
    UNLINK = 8
    RMDIR = 9
    MKDIR = 10
    LINK = 11
    SYMLINK = 12
    CHMOD = 13
    MARK = 14
    UNSEEN = 15
    SYNCALL = 16


@dataclass(frozen=True, slots=True)
class Event:
    """One operation that succeeded. What `a` and `b` are, the kind says: an offset and a length, a size, a mode."""

    kind: Kind
    one: str
    two: str
    data: bytes
    inode: int
    a: int
    b: int


class NoCompiler(Exception):
    """This machine has no C compiler."""


def build(folder: Path) -> Path:
    """The layer as a shared library in `folder`, made once for each text of its source. Raises NoCompiler."""
    library = folder / f"powercut-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("the layer needs a C compiler; on Debian: apt install gcc libc6-dev")
    made = library.with_suffix(f".{os.getpid()}")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise AssertionError(f"{compiler} does not take the layer:\n{done.stderr}")
    made.replace(library)
    return library


def environment(library: Path) -> Mapping[str, str]:
    """For the child that records."""
    return {**os.environ, "LD_PRELOAD": str(library)}


@contextmanager
def recording(library: Path, root: Path, trace: Path, *, lie: Lie = "none") -> Iterator[None]:
    """Everything that this process does below `root` goes into `trace`, but for the syncs that `lie` names."""
    loaded = ctypes.CDLL(str(library))
    if loaded.powercut_begin(os.fsencode(root), os.fsencode(trace), _LIES[lie]):
        raise OSError(f"no recording of {root}")
    try:
        yield
    finally:
        loaded.powercut_end()


def mark(library: Path, told: Any) -> None:
    """Puts a word of the process between its operations."""
    ctypes.CDLL(str(library)).powercut_mark(json.dumps(told).encode())


def read_trace(trace: Path) -> list[Event]:
    """Raises AssertionError for an operation that the layer could not look into."""
    data, at, events = trace.read_bytes(), 0, []
    while at < len(data):
        kind, one, two, size, inode, a, b = _HEAD.unpack_from(data, at)
        names = at + _HEAD.size
        content = names + one + two
        event = Event(
            Kind(kind),
            os.fsdecode(data[names : names + one]),
            os.fsdecode(data[names + one : content]),
            data[content : content + size],
            inode,
            a,
            b,
        )
        assert event.kind is not Kind.UNSEEN, f"the layer cannot record this: {event.one}"
        events.append(event)
        at = content + size
    return events
