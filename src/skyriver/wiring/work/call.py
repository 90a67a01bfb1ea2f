"""The work of a user's job: the function is called, and what it returns and saves are the outputs."""

from __future__ import annotations

import json
import math
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import skyriver
from skyriver.core.environments import lacking
from skyriver.core.errors import JobFailed, SkyriverError
from skyriver.core.jobs import Ending
from skyriver.wiring.work.job import Job

OUTPUT_LIMIT = 1_000_000
"""Bytes of what a job returns, as JSON; those of an array together. They are kept in the control state, and given to
each job that needs them."""
MESSAGE_LIMIT = 2_000


def work(job: Job) -> dict[str, Any]:
    """Outputs: `result`, what the function returned, and `artifacts`, what it saved, as digest and bytes by name;
    `curve`, the digest of what it told by step."""
    spec = job.app.job(job.target)
    app = job.load_app()
    folder = (job.work_dir / "app").resolve()
    given = skyriver.Job(
        job.name,
        params={**spec.params, **job.params},
        outputs=job.inputs,
        index=job.index or 0,
        attempt=job.attempt,
        slot=job.slot,
        objects=job.objects,
        progress=job.progress,
        tell=job.curve,
    )
    try:
        result = app.functions[spec.function](given)
    except (SkyriverError, MemoryError):
        raise
    except SystemExit as error:
        if error.code not in (None, 0):
            raise _failed(error, folder, Ending.EXITED, f"sys.exit({error.code!r})") from error
        result = None
    except Exception as error:
        raise _failed(error, folder, Ending.USER_ERROR, _line(error)) from error
    limit = OUTPUT_LIMIT // max(1, spec.array)
    told = {"result": _as_json(result, spec.function, limit), "artifacts": given.artifacts}
    return told | ({"curve": curve} if (curve := job.kept_curve()) is not None else {})


def _failed(error: BaseException, folder: Path, ending: Ending, message: str) -> JobFailed:
    """What is told outside, in one line; the log gets the traceback of the user's own lines."""
    trace = error.__traceback__
    while trace is not None and not _is_in(trace, folder):
        trace = trace.tb_next
    error.__traceback__ = trace or error.__traceback__
    frames = [f for f in traceback.extract_tb(trace) if Path(f.filename).resolve().is_relative_to(folder)]
    where = f"{Path(frames[-1].filename).resolve().relative_to(folder)}:{frames[-1].lineno}" if frames else ""
    return JobFailed(
        message[:MESSAGE_LIMIT],
        code=ending.value,
        where=where,
        next_action=lacking(error) or "Correct the function and deploy it; the log of the job has the traceback.",
    )


def _is_in(trace: TracebackType, folder: Path) -> bool:
    return Path(trace.tb_frame.f_code.co_filename).resolve().is_relative_to(folder)


def _line(error: BaseException) -> str:
    return " ".join(traceback.format_exception_only(error)[-1].split())


def _as_json(result: object, function: str, limit: int) -> Any:
    """`result` as it is kept. Raises JobFailed (USER_ERROR) naming the part that is no JSON, or its size."""
    if wrong := _wrong(result, "the result"):
        raise JobFailed(
            f"{function} returned what cannot be told as JSON: {wrong}.",
            code=Ending.USER_ERROR.value,
            next_action="Return texts, numbers, booleans, None, lists and dicts of them; job.save keeps the rest.",
        )
    text = json.dumps(result)
    if len(text) > limit:
        raise JobFailed(
            f"{function} returned {len(text):,} bytes of JSON; {limit:,} are allowed.",
            code=Ending.USER_ERROR.value,
            next_action="Save it with job.save(NAME, ...), and return little.",
        )
    return json.loads(text)


def _wrong(value: object, where: str) -> str:
    """Which part is no JSON, and why; "" where all of it is."""
    match value:
        case None | bool() | int() | str():
            return "" if type(value) in (type(None), bool, int, str) else f"{where} is of the type {_type(value)}"
        case float():
            return "" if math.isfinite(value) else f"{where} is {value}"
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    return f"a key of {where} is {key!r}, not a text"
                if wrong := _wrong(item, f"{where}[{key!r}]"):
                    return wrong
            return ""
        case list() | tuple():
            return next((w for n, item in enumerate(value) if (w := _wrong(item, f"{where}[{n}]"))), "")
        case _:
            return f"{where} is of the type {_type(value)}"


def _type(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
