"""Checkpoints of a training: one safetensors file each, whole or not there, and a line about it beside it.

A worker writes the file under a name of its own; whoever keeps the workers gives it the checkpoint's
(`Checkpoints.publish`), or does not: a worker that was taken out meanwhile publishes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor

from skyriver.core.errors import Corrupt, InvalidInput, JobFailed, Unavailable, disk_error
from skyriver.data.folders import lock_within, replace_file

FORMAT: Final = "skyriver training 1"
KEPT: Final = 3
COPY_SHARE: Final = 100
OWNER: Final = "owner"
LOCKED_S: Final = 10.0
"""Who holds the lock does so for as long as it takes to rename a file."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is on disk, and not published yet."""

    path: Path
    step: int
    sha256: str


def write(folder: Path, state: Mapping[str, Any], worker: int) -> Written:
    """Durable when it returns. `state`: dictionaries, lists, numbers, texts and tensors, none of which share memory."""
    tensors: dict[str, Tensor] = {}
    tree = _without_tensors(state, "", tensors)
    told = {"format": FORMAT, "tree": json.dumps(tree)}
    data = save({name: t.detach().contiguous() for name, t in tensors.items()}, metadata=told)
    path = (
        folder / f"step-{state['step']:010d}.worker-{worker}.{os.getpid()}.new"
    )  # another attempt may have such a one
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Written(path, int(state["step"]), hashlib.sha256(data).hexdigest())


def copied(value: Any) -> Any:
    """With tensors of its own, on the CPU: the training goes on while it is written."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [copied(v) for v in value] if isinstance(value, list) else tuple(copied(v) for v in value)
    return value


def check_keeps(state: Mapping[str, Any]) -> None:
    """Before the first step, not when the first checkpoint is due or somebody joins. Raises InvalidInput
    (BAD_STATE)."""
    _without_tensors(state, "", {})


def read(path: Path) -> dict[str, Any]:
    """Raises Corrupt for a file that is not what was written."""
    try:
        data = path.read_bytes()
        about = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError) as error:
        raise _corrupt(path, f"it cannot be read: {error}") from error
    if not isinstance(about, dict) or hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise _corrupt(path, f"its SHA-256 is another one than was written down ({len(data):,} bytes)")
    tensors = load(data)
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length])["__metadata__"]
    if told.get("format") != FORMAT:
        raise _corrupt(path, f"it is of the format {told.get('format')!r}, not {FORMAT!r}")
    found: dict[str, Any] = _with_tensors(json.loads(told["tree"]), tensors)
    return found


def path_of(folder: Path, step: int) -> Path:
    """Of a published one."""
    return folder / f"step-{step:010d}.safetensors"


def step_of(path: Path) -> int:
    """Steps that were done, of a published one."""
    return int(path.stem.removeprefix("step-"))


def check_fits(
    state: Mapping[str, Any],
    modules: Mapping[str, torch.nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    identity: Mapping[str, int],
    where: str,
) -> None:
    """Raises InvalidInput where a checkpoint is of another model, or of another training of it: it says by what."""
    for name, value in identity.items():
        if state["of"].get(name) != value:
            raise _other(where, f"{name} was {state['of'].get(name)} there and is {value} here")
    if state["optimizers"].keys() != optimizers.keys():
        raise _other(where, f"it has {len(state['optimizers'])} optimizers, and here there are {len(optimizers)}")
    for name, module in modules.items():
        there, here = state["modules"].get(name), module.state_dict()
        if there is None:
            raise _other(where, f"it has no module {name!r}")
        for key in sorted(there.keys() | here.keys()):
            if key not in there or key not in here:
                raise _other(where, f"{key} is only in {'the checkpoint' if key in there else 'the model'}")
            if there[key].shape != here[key].shape:
                raise _other(where, f"{key} has {tuple(there[key].shape)} there and {tuple(here[key].shape)} here")


class Saver:
    """Of one worker: copies the state, and has a thread write it. What a copy costs is at most a hundredth of the
    time."""

    def __init__(self, folder: Path, every_s: float, worker: int) -> None:
        self.folder, self._every_s, self._worker = folder, every_s, worker
        self._copied, self._took_s = time.monotonic(), 0.0
        self._thread: threading.Thread | None = None
        self._done: Written | BaseException | None = None

    def due(self) -> bool:
        if self._thread is not None:
            return False
        return time.monotonic() - self._copied >= max(self._every_s, COPY_SHARE * self._took_s)

    def save(self, state: Mapping[str, Any]) -> None:
        begun = time.monotonic()
        copy = copied(state)
        self._copied = time.monotonic()
        self._took_s = self._copied - begun
        self._thread = threading.Thread(target=self._write, args=(copy,), name="checkpoint", daemon=True)
        self._thread.start()

    def written(self, wait_s: float = 0.0) -> Written | None:
        """Once of each that is on disk by now. Raises what went wrong."""
        if self._thread is None:
            return None
        self._thread.join(wait_s)
        if self._thread.is_alive():
            return None
        self._thread, done = None, self._done
        if isinstance(done, BaseException):
            raise done
        return done

    def _write(self, state: Mapping[str, Any]) -> None:
        try:
            self._done = write(self.folder, state, self._worker)
        except BaseException as error:
            self._done = error


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Those of one training, in a folder of its own. It is the newest attempt's: one before it that lives on changes
    nothing there, and hears so."""

    folder: Path
    kept: int = KEPT
    attempt: int = 0
    """An earlier one than has claimed them is refused, whenever it comes."""
    owner: str = ""
    """Of this attempt."""

    def claimed(self) -> Checkpoints:
        """By a new attempt: whoever had them is fenced from now on. Raises JobFailed (FENCED), Unavailable."""
        mine = replace(self, owner=f"{self.attempt} {secrets.token_hex(8)}")
        try:
            while True:
                self.folder.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError), mine._locked():  # the attempt before may just remove it
                    mine._refuse_earlier()
                    replace_file(self.folder / OWNER, mine.owner.encode())
                    mine._clear()
                    return mine
        except OSError as error:
            raise disk_error(error, "The training's checkpoints cannot be kept", str(self.folder)) from error

    def publish(self, written: Written) -> Path:
        """It counts from now on; older ones than the last `kept` go, and what is left of writing one before it. Raises
        OSError, JobFailed (FENCED)."""
        path = path_of(self.folder, written.step)
        about = path.with_suffix(".json")
        with self._owned():
            written.path.replace(path)
            # the file counts once this is there
            replace_file(about, json.dumps({"sha256": written.sha256, "step": written.step}).encode())
            for old in list(self.newest())[self.kept :]:
                old.unlink(missing_ok=True)
                old.with_suffix(".json").unlink(missing_ok=True)
            self._clear(before=written.step)  # an orphan of the attempt before may have left one, dying while it wrote
        return path

    def remove(self) -> None:
        """With the folder, unless it is another attempt's by now."""
        with contextlib.suppress(OSError, JobFailed, Unavailable), self._owned():
            self._remove()

    def supersede(self) -> None:
        """Removes them with the folder, whichever attempt before this one had them; on a full disk too. Raises
        JobFailed (FENCED)."""
        with contextlib.suppress(OSError, Unavailable), self._locked():
            self._refuse_earlier()
            self._remove()

    def check_owned(self) -> None:
        """Raises JobFailed (FENCED), OSError, Unavailable."""
        with self._owned():
            pass

    def newest(self) -> Iterator[Path]:
        """Those that are published, the newest first."""
        yield from sorted((p for p in self.folder.glob("step-*.safetensors")), reverse=True)

    def usable(self) -> tuple[Path | None, list[Corrupt]]:
        """The newest that is what was written, and what is wrong with those that are newer, which are set aside: what
        is published next may be of an earlier step."""
        wrong: list[Corrupt] = []
        for path in self.newest():
            try:
                read(path)
            except Corrupt as error:
                wrong.append(error)
                with contextlib.suppress(OSError):
                    path.replace(path.with_suffix(".bad"))
            else:
                return path, wrong
        return None, wrong

    def clear(self, worker: int | None = None) -> None:
        """What was not published, of a worker or of all: nobody writes there any more."""
        with contextlib.suppress(OSError, JobFailed, Unavailable), self._owned():
            self._clear(worker)

    def _clear(self, worker: int | None = None, before: int | None = None) -> None:
        for path in self.folder.glob("step-*.new" if worker is None else f"step-*.worker-{worker}.*.new"):
            if before is None or int(path.name.removeprefix("step-").partition(".")[0]) < before:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _remove(self) -> None:
        """At once for whoever comes: nobody finds half of it, or has something of his own removed with it."""
        gone = self.folder.with_name(f"{secrets.token_hex(8)}.gone")
        self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _owner(self) -> str:
        """Who has claimed them; "": nobody has, or they are removed."""
        try:
            return (self.folder / OWNER).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _refuse_earlier(self) -> None:
        attempt, _, token = self._owner().partition(" ")
        if token and attempt.isdecimal() and int(attempt) > self.attempt:
            raise self._fenced()

    def _fenced(self) -> JobFailed:
        return JobFailed(
            "A later attempt of this training has begun: this one changes nothing any more.",
            code="FENCED",
            where=str(self.folder),
            next_action="Nothing: the later attempt goes on from the last checkpoint.",
        )

    @contextlib.contextmanager
    def _owned(self) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self._locked())
            except FileNotFoundError as error:
                if self.owner:  # the later attempt is over, and has removed them
                    raise self._fenced() from error
                raise
            if self.owner and self._owner() != self.owner:
                raise self._fenced()
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """By the kernel, so it goes with the process. Raises OSError (ENOENT: removed, also while it was waited for),
        Unavailable."""
        path = self.folder / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not lock_within(lock, LOCKED_S):
                raise Unavailable(
                    f"Another attempt, which stands still, has locked the checkpoints for {LOCKED_S:.0f} s.",
                    code="LOCKED",
                    where=str(self.folder),
                    next_action="It is tried again; `fuser` names the process that has the file `lock` open.",
                )
            if not os.path.samestat(os.fstat(lock), path.stat()):
                raise FileNotFoundError(errno.ENOENT, "removed while it was waited for", str(path))
            yield
        finally:
            os.close(lock)


_PLAIN: Final = (type(None), bool, int, float, str)
"""None that is derived from these: what reads a state back makes objects of no class that it was not told of."""


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        number = str(len(tensors))
        tensors[number] = value
        return {"$tensor": number}
    if type(value) in (dict, OrderedDict, Counter) and all(type(k) in _PLAIN for k in value):
        # a key may be a number, as those of an optimizer's state are
        return {"$pairs": [[k, _without_tensors(v, f"{name}/{k}", tensors)] for k, v in value.items()]}
    if type(value) in (list, tuple):
        items = [_without_tensors(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if type(value) in _PLAIN:
        return value
    of = type(value)
    called = of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"
    raise InvalidInput(
        f"ctx.state: there is a {called} at {name.lstrip('/')}, which cannot be kept or given to who joins.",
        code="BAD_STATE",
        next_action="Let state_dict() have Python's own numbers, texts, lists and dictionaries, and tensors.",
    )


def _with_tensors(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_with_tensors(v, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$tuple" in tree:
        return tuple(_with_tensors(v, tensors) for v in tree["$tuple"])
    return {k: _with_tensors(v, tensors) for k, v in tree["$pairs"]}


def _corrupt(path: Path, why: str) -> Corrupt:
    return Corrupt(
        f"The checkpoint {path.name} is not what was written: {why}.",
        code="BAD_CHECKPOINT",
        where=str(path),
        next_action="The training goes on from the one before it; without any it begins anew.",
    )


def _other(where: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"The checkpoint is of another training: {why}.",
        code="OTHER_TRAINING",
        where=where,
        next_action="Run it again: a new run begins anew, and the model's file may change only between runs.",
    )
