"""Where something is declared: the line of an application's file. It is told to who declares, and is no part of the
specification, so that moving a line changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

_CORE = str(Path(__file__).parent)


def declared_at() -> str:
    """`file:line` of the first caller that is none of the declarations' own; "": there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_own(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def _is_own(file: str) -> bool:
    return file.startswith(_CORE) or file == "<string>"  # where dataclasses have their __init__
