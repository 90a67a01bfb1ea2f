"""The process of one worker: it does the function, hands over what comes of it if it is asked to, and ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributed import TCPStore

from skyriver.core.environments import lacking
from skyriver.core.errors import InvalidInput, SkyriverError, Unavailable
from skyriver.train.fitted.fitted import first_line
from skyriver.train.memory import is_out_of_memory
from skyriver.train.spread.context import Context
from skyriver.train.spread.member import Dismissed
from skyriver.train.spread.printed import name_lines

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""As malloc.h numbers what `mallopt` sets."""
ARENAS: Final = 2
"""The main thread's, and one that all others share."""
LONGEST_TRACEBACK: Final = 100_000
_INSTALLED: Final = (Path(__file__).parents[2], Path(sysconfig.get_path("stdlib")))


def work(
    pipe: Connection,
    address: tuple[str, int],
    worker: int,
    function: Callable[[Context], Any],
    hand_over: Callable[[Context, Any], bytes],
    settings: Mapping[str, Any],
) -> None:
    """The process's main. What it says: ready, broken, beat, done, result, leaving, failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it all decides what Ctrl-C is
    threading.Thread(target=_end_with, args=(parent_process(),), name="orphan", daemon=True).start()
    torch.set_num_threads(int(settings.get("threads", 1)))
    bound_arenas()
    keep_memory()
    if settings.get("named"):
        name_lines(worker)
    _without_semaphores()
    ctx: Context | None = None
    try:
        store = TCPStore(*address, is_master=False, timeout=timedelta(seconds=30))
        of = dict(settings.get("context", {}))
        if of.get("device") == "cuda":
            of["device"] = _gpu(settings["slot"])
        ctx = made = Context(pipe, store, worker, **of)
        signal.signal(signal.SIGTERM, lambda *_: made.leave())
        made.seed_all()
        came = function(ctx)
        ctx.stay(lambda: hand_over(made, came))
    except Dismissed:
        with contextlib.suppress(OSError):
            if ctx is not None:
                ctx.tell_noted()
    except (EOFError, BrokenPipeError, ConnectionResetError):  # nobody is there who would want to know
        os._exit(1)
    except BaseException as error:
        can_cut = ctx is not None and ctx.can_cut
        whole = "".join(traceback.format_exception(error))[-LONGEST_TRACEBACK:]
        with contextlib.suppress(OSError):  # who started it may be gone
            if ctx is not None:
                ctx.tell_noted()
            pipe.send(("failed", {**_told(error, ctx), "traceback": whole}, can_cut))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # what is stuck in a backend's thread does not keep it


def bound_arenas() -> None:
    """Each generation has threads of its own, and by default what they free stays in arenas of theirs: a worker grew
    with changes of membership."""
    _mallopt({_M_ARENA_MAX: ARENAS})


def _end_with(launcher: BaseProcess | None) -> None:
    """Nobody would use what an orphan does, and it has a GPU, memory and cores that the next attempt needs."""
    if launcher is not None:
        launcher.join()
        os._exit(1)


def _gpu(slot: int) -> str:
    """Of this worker; before anything there is used. Raises InvalidInput (NO_DEVICE)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or its sums differ between runs
    # A call that somebody does not answer any more is given up by us, and ends nothing but itself.
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    os.environ["TORCH_NCCL_ENABLE_MONITORING"] = "0"
    if not torch.backends.cuda.is_built():
        raise InvalidInput(
            f"Worker {slot + 1} has no GPU: torch {torch.__version__} is built for the CPU alone.",
            code="NO_DEVICE",
            next_action="Install torch for CUDA, here or by the application's requirements.txt; or leave gpus= out.",
        )
    there = torch.cuda.device_count()
    if slot >= there:
        raise InvalidInput(
            f"Worker {slot + 1} has no GPU: of those it may use torch finds {there}.",
            code="NO_DEVICE",
            next_action="`nvidia-smi` shows whether the driver sees them; fewer workers=, or no gpus=, need fewer.",
        )
    return f"cuda:{slot}"


def keep_memory() -> None:
    """What a step frees is kept for the next one, which takes as much. glibc gives it back to the system, and its pages
    are cleared and mapped again each time: a fifth of a step of a small net."""
    _mallopt({_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: -1})  # the most it takes, and never


def _mallopt(settings: Mapping[int, int]) -> None:
    """Where there is no glibc nothing is done."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in settings.items():
            mallopt(name, value)


def _without_semaphores() -> None:
    """tqdm, which torch's exporter calls, makes one for several processes, that `os._exit` would leave behind."""
    with contextlib.suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())


def _told(error: BaseException, ctx: Context | None) -> dict[str, str]:
    """As the parts of a `JobFailed`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    if isinstance(error, SkyriverError):
        return {
            "message": error.message,
            "code": error.code,
            "where": error.where or _place(own),
            "next_action": error.next_action,
            "kind": "unavailable" if isinstance(error, Unavailable) else "",
        }
    where = _place(own or frames)
    if is_out_of_memory(error):
        batch = ctx.global_batch if ctx is not None else 0
        smaller = f"global_batch={batch // 2} in ctx.steps" if batch > 1 else "a smaller model"
        return {
            "message": f"There was not enough memory for {ctx.batch if ctx is not None else 'the function'}.",
            "code": "OUT_OF_MEMORY",
            "where": where,
            "next_action": f"Write {smaller}, or train where there is more memory.",
        }
    return {
        "message": f"{first_line(error)}.",
        "code": "USER_ERROR",
        "where": where,
        "next_action": lacking(error) or "Correct the function; the log of the job has the traceback.",
    }


def _is_installed(file: str) -> bool:
    """A library's or ours: the line that is told is the function's own."""
    return "site-packages" in file or file.startswith("<") or any(Path(file).is_relative_to(one) for one in _INSTALLED)


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
