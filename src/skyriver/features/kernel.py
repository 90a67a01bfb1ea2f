"""The compiled kernel of a plan, kept on disk so that only the first process on a machine compiles it.

    CACHE/<plan digest>/kernel_<digest of the source>.py    what is compiled
    CACHE/<plan digest>/__pycache__/kernel_<...>.nbi, .nbc  machine code, written and read by numba
    CACHE/<plan digest>/kernel_<...>.sums                   SHA-256 of these, written last

Numba unpickles what it finds and runs it, so nothing is shown to it that does not match its sum: what is lost or
damaged is made anew. Processes that come at the same time wait for the one that compiles (an OS file lock).
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba import types

from skyriver.core.errors import Unavailable
from skyriver.features.codegen import kernel_source
from skyriver.features.plan import FeaturePlan

_LOCK_SECONDS = 120.0
"""Longer than any compilation; after it we compile too: atomic writes keep that right, it only costs time."""
_LOCK_POLL_SECONDS = 0.02

Function = Callable[..., int]
Signatures = dict[str, tuple[Any, ...]]
"""Of functions, by their names."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Machine code of one plan: `fold` and `grow` for a stream, `thread` if it has trails, `find_rows` if it
    looks up references; `project` for a table (see `codegen`)."""

    digest: str
    fold: Function | None
    grow: Function | None
    thread: Function | None
    project: Function | None
    find_rows: Function | None
    compiled: bool
    """Whether this call had to compile; else it came from the cache."""


def leave_out_linear_algebra() -> None:
    """For a process that compiles kernels and runs no code of users: nothing in it can import scipy.linalg any more.
    numba would load that with the first kernel, for functions that none of ours has: a tenth of what a worker's start
    takes, and 15 MB."""
    sys.modules.setdefault("scipy.linalg", None)  # type: ignore[arg-type]  # so `import` is told that there is none


def load_kernel(plan: FeaturePlan, cache_dir: Path) -> Kernel:
    """The kernel of `plan` from `cache_dir`, compiled into it first if it is not there or damaged.

    Raises Unavailable (KERNEL_CACHE) where `cache_dir` cannot be written.
    """
    source = kernel_source(plan).encode()
    made, compiled = load_functions(source, _signatures(plan), cache_dir / plan.digest)
    get = made.get
    return Kernel(
        plan.digest, get("fold"), get("grow"), get("thread"), get("project"), get("find_rows"), compiled=compiled
    )


def load_functions(source: bytes, signatures: Signatures, folder: Path) -> tuple[dict[str, Function], bool]:
    """The functions of `source` that have signatures, from `folder` or compiled into it; whether they had to be.

    Raises Unavailable (KERNEL_CACHE) where `folder` cannot be written.
    """
    file = folder / f"kernel_{hashlib.sha256(source).hexdigest()[:16]}.py"
    try:
        if _is_whole(file, source):
            return _load(signatures, file, source)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock(file.with_suffix(".lock")):
            if not _is_whole(file, source):
                _write(file, source)
                _clear(file)
            return _load(signatures, file, source)
    except OSError as error:
        raise Unavailable(
            f"What is compiled cannot be kept in {folder}: {error.strerror}.",
            code="KERNEL_CACHE",
            next_action="Make room there, or make it writable.",
        ) from error


class _Text(SourceLoader):
    """Imports the very bytes that were checked, without a bytecode cache beside them."""

    def __init__(self, file: Path, source: bytes) -> None:
        self._file, self._source = file, source

    def get_filename(self, fullname: str) -> str:
        return str(self._file)

    def get_data(self, path: str | bytes) -> bytes:
        return self._source


def _module(name: str, file: Path, source: bytes) -> ModuleType:
    loader = _Text(file, source)
    found = importlib.util.spec_from_loader(f"skyriver_{name}", loader)
    assert found is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # numba finds the globals of cached code by its module's name
    loader.exec_module(module)
    return module


def _load(signatures: Signatures, file: Path, source: bytes) -> tuple[dict[str, Function], bool]:
    """Compiles what the cache does not have for this processor and version of numba, and then sums it up anew."""
    module = _module(file.stem, file, source)
    with _no_collections():
        made = {name: _compile(getattr(module, name), signature) for name, signature in signatures.items()}
    compiled = any(function.stats.cache_misses for function in made.values())
    if compiled:
        _write(file.with_suffix(".sums"), json.dumps(_sums(file)).encode())
    return made, compiled


@contextmanager
def _no_collections() -> Iterator[None]:
    """What a compiler makes, it holds until it is done: looking through that for garbage again and again is a tenth of
    its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compile(function: Callable[..., Any], signature: tuple[Any, ...]) -> Any:
    # error_model: a division by zero is told apart in the source, numba need not check it again.
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def _signatures(plan: FeaturePlan) -> Signatures:
    """One signature a function. What is only read may be a read-only array; every array is contiguous."""

    def read(kind: Any, dimensions: int = 1) -> Any:
        return types.Array(kind, dimensions, "C", readonly=True)

    words, meta, index = types.int64[:, ::1], types.int64[::1], types.int32[::1]
    outputs = (types.float32[:, ::1], types.float64[:, ::1])
    columns = (read(types.float64, 2), read(types.int64, 2))
    if not plan.of_stream:
        return {"project": (*columns, *outputs)}
    record = (read(types.uint8), read(types.int64), read(types.int64), *columns, read(types.int64, 2))
    labels = (read(types.int64), read(types.uint8), read(types.float64))
    side, slots = (words, words, words), types.uint64[:, ::1]
    tables = [index, words] * len(plan.keys)
    nodes = (words, types.int32[:, ::1]) if plan.trails else ()
    codes = (read(types.int64, 2),) if plan.trails else ()
    given = (read(types.int64), read(types.int64), read(types.float64, 2)) if plan.references else ()
    references = [index, words] * len(plan.references)
    signatures: Signatures = {
        "fold": (*record, *labels, *side, meta, slots, *outputs, *tables, *nodes, *codes, *given, *references),
        "grow": (index, words, meta, types.int64),
    }
    if plan.references:
        signatures["find_rows"] = (index, words, meta, types.int64)
    if plan.trails:
        signatures["thread"] = (*nodes, meta, *([words] * len(plan.keys)))
    return signatures


def _cache_files(file: Path) -> list[Path]:
    """Where numba keeps the machine code: beside the source, unless NUMBA_CACHE_DIR says otherwise."""
    probe = numba.njit(cache=True)(_module("kernel_probe", file, _PROBE).probe)
    folder = Path(str(probe.stats.cache_path))
    return sorted(p for p in folder.glob(f"{file.stem}.*") if p.suffix in (".nbi", ".nbc"))


_PROBE = b"def probe():\n    return 0\n"


def _sums(file: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in _cache_files(file)}


def _is_whole(file: Path, source: bytes) -> bool:
    try:
        if file.read_bytes() != source:
            return False
        sums = json.loads(file.with_suffix(".sums").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return bool(sums) and sums == _sums(file)


def _clear(file: Path) -> None:
    for path in (file.with_suffix(".sums"), *_cache_files(file)):
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.utime(temporary, (0, 0))  # numba compares the source's time: with the same text it shall be the same
    temporary.replace(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + _LOCK_SECONDS
    with path.open("ab") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(_LOCK_POLL_SECONDS)
        yield  # closing the file gives the lock back
