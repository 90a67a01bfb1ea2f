"""A model file on this machine: read if it may be one, and checked. The one way in, of jobs and of `skyriver serve`."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from skyriver.core.errors import InvalidInput, NotFound
from skyriver.release.formats import FILE, SAVED_MODEL, ForeignFormat, foreign_format, format_by_name
from skyriver.release.onnx_check import Limits, OnnxSummary, check_onnx


def take_model(path: Path, *, named: str = "", limits: Limits | None = None) -> tuple[bytes, OnnxSummary]:
    """Its bytes, and what `check_onnx` finds in them. No more is read than the limit; nothing is unpacked or loaded.
    `named` is how its owner calls it, in errors.

    Raises NotFound (NO_MODEL_FILE), InvalidInput (NOT_A_FILE, FILE_UNREADABLE, or what `check_onnx` raises).
    """
    limits = limits or Limits()
    named = named or str(path)
    data = _read(path, named, limits.bytes)
    try:
        return data, check_onnx(data, limits=limits)
    except InvalidInput as error:
        by_name = format_by_name(Path(named).name) if error.code == "ONNX_UNREADABLE" else None
        if by_name is not None:
            raise _foreign(by_name, named) from error
        error.where = error.where or named
        of_shell = error.code == "ONNX_FOREIGN_FORMAT"  # else it is an argument in Python
        error.next_action = error.next_action.replace(FILE, shlex.quote(named) if of_shell else repr(named))
        raise


def _read(path: Path, named: str, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us up
    except FileNotFoundError as error:
        raise NotFound(
            "There is no such file.", code="NO_MODEL_FILE", where=named, next_action="Name a file in ONNX's format."
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"The file cannot be read: {error.strerror}.",
            code="FILE_UNREADABLE",
            where=named,
            next_action="Check its owner and mode.",
        ) from error
    told = os.fstat(descriptor)
    if not stat.S_ISREG(told.st_mode):
        os.close(descriptor)
        if stat.S_ISDIR(told.st_mode):
            raise _of_folder(path, named)
        raise InvalidInput(
            "This is no file, but a pipe or device.",
            code="NOT_A_FILE",
            where=named,
            next_action="Write the model to a file and name that.",
        )
    with open(descriptor, "rb") as file:  # noqa: PTH123  # what was opened, whatever the path names by now
        if told.st_size > limit:
            foreign = foreign_format(file.read(4096)) or format_by_name(Path(named).name)
            if foreign is not None:
                raise _foreign(foreign, named)
            raise InvalidInput(
                f"The file has {told.st_size} bytes; at most {limit} are allowed.",
                code="ONNX_TOO_LARGE",
                where=named,
                next_action="Train a smaller model, or store its weights in fewer bits.",
            )
        return file.read(told.st_size)


def _of_folder(path: Path, named: str) -> InvalidInput:
    if (path / "saved_model.pb").exists():
        return _foreign(SAVED_MODEL, named)
    files = sorted(p.name for p in path.glob("*.onnx"))[:3]
    return InvalidInput(
        "This is a folder; one ONNX file is wanted.",
        code="NOT_A_FILE",
        where=named,
        next_action=f"There is {', '.join(files)} in it." if files else "Name the file in it.",
    )


def _foreign(found: ForeignFormat, named: str) -> InvalidInput:
    return InvalidInput(
        f"This is {found.told}; only ONNX crosses this border.",
        code="ONNX_FOREIGN_FORMAT",
        where=named,
        next_action=found.conversion.replace(FILE, shlex.quote(named)),
    )
