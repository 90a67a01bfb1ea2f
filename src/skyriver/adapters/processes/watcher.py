"""The parent of a process that is held to something: `python -I -S watcher.py SETTINGS`.

A job may end while no control plane is there to see it, and must be ended when it runs too long. So a process of its
own stands above it that does nothing else: it starts the process, hands SIGTERM on, holds the time and (where no
control group does) the memory, ends what the process leaves behind, and writes down durably how it ended. When the
watcher itself is killed, the kernel kills the process with it; what that left behind is found by the control plane.

There is one for every job: it is run as a file, by the bare interpreter, and imports nothing that is large.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

RECORDED_SECONDS = 10.0
"""Past that, a start that no run file names was cut off half-way."""
LOOK_SECONDS = 1.0
"""Between two looks at memory, run file and the system's counters."""
HOLD_SECONDS = 0.2
"""The same, where this process alone holds the memory."""
GONE_SECONDS = 2.0
"""For so long at least a kill that the system has counted may be that of this process: to be gone takes it a moment."""
STRAY_SECONDS = 5.0
"""For how long the run file must name another process before this one ends: a control plane may be putting it right."""
LAST_SECONDS = 5.0
"""For what was sent SIGKILL to be gone; what hangs in the kernel is not waited for."""
WRITE_SECONDS = 20.0
"""For how long it is tried to write the ending down, where the disk is full."""
ROOM = 1024
"""Bytes of an ending, taken on the disk before the process starts."""

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


class RunFile:
    """The file by which the cloud knows this process: it names its token, else nobody looks after it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._path = settings["run_file"]
        self._home = settings["home"]
        self._token = settings["token"]
        self._seen = (0, 0)
        self._stray_since = 0.0

    def wait(self, seconds: float) -> bool:
        """Whether it names this process within that time."""
        deadline = time.monotonic() + seconds
        while self._token_in_it() != self._token:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def lost(self) -> bool:
        """Whether another process has this one's name for some time, or the home is gone: then it must end."""
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return not os.path.isdir(self._home)
        except OSError:
            return False
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen != self._seen or self._stray_since:
            self._seen = seen
            self._stray_since = (self._stray_since or time.monotonic()) if self.names_another() else 0.0
        return self._stray_since > 0.0 and time.monotonic() - self._stray_since > STRAY_SECONDS

    def names_another(self) -> bool:
        return self._token_in_it() not in (None, self._token)

    def _token_in_it(self) -> str | None:
        try:
            return str(json.loads(_read(self._path))["token"])
        except (ValueError, KeyError, TypeError):
            return None


class Ending:
    """The file in which the end is told. Its room on the disk is taken before there is anything to tell."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._new = path + ".new"
        try:
            descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(descriptor, 0, ROOM)
            os.close(descriptor)
        except OSError as error:
            _say(f"no room to write down how it ends: {error}")

    def write(self, document: dict[str, Any]) -> bool:
        """Whether it is durable; tried for a while, unless told to end (SIGTERM)."""
        deadline = time.monotonic() + WRITE_SECONDS
        data = json.dumps(document).encode().ljust(ROOM)
        while True:
            try:
                self._write(data)
                return True
            except OSError as error:
                told = signal.sigtimedwait((signal.SIGTERM, signal.SIGINT), 0.25)
                if told is not None or time.monotonic() > deadline:
                    _say(f"how it ended cannot be written down: {error}")
                    return False

    def _write(self, data: bytes) -> None:
        descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(self._new, self._path)
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Watch:
    """One process, from its start to the end of all that it started."""

    def __init__(self, settings: dict[str, Any], run_file: RunFile) -> None:
        self._settings = settings
        self._run_file = run_file
        self._memory = int(settings["memory_bytes"])
        self._grace = float(settings["grace_s"])
        self._group_counter = settings["oom_counter"]
        self._oom_counter = self._group_counter or "/proc/vmstat"
        self._oom_kills = self._newer_kills = _counter(self._oom_counter)
        self._counted_at = time.monotonic()
        self._holds = self._memory > 0 and not self._group_counter
        self._every = HOLD_SECONDS if self._holds else LOOK_SECONDS
        self._child = 0
        self._peak = 0
        self._kill_at = float("inf")
        self._killed = False
        self.exit_code: int | None = None
        self.problem = ""
        self.stray = False
        self.timed_out = False
        self.out_of_memory = False

    def run(self) -> None:
        seconds = float(self._settings["seconds"])
        time_out = time.monotonic() + seconds if seconds > 0 else float("inf")
        self.problem = self._start()
        look = time.monotonic() + self._every
        while not self._reap():
            now = time.monotonic()
            if now >= look:
                self._look()
                look = now + self._every
            if now >= time_out:
                self.timed_out = True
                time_out = float("inf")
                _say(f"it ran for {seconds:g} s, which is its limit: it is ended")
                self._ask()
            if now >= self._kill_at:
                self._kill()
                self._kill_at = now + 1.0
            rest = min(look, time_out, self._kill_at) - time.monotonic()
            told = signal.sigtimedwait(_SIGNALS, max(0.0, rest))
            if told is not None and told.si_signo != signal.SIGCHLD:
                self._ask()
        self._clear()

    def told(self) -> dict[str, Any]:
        return {
            "token": self._settings["token"],
            "exit_code": self.exit_code,
            "out_of_memory": self.out_of_memory,
            "timed_out": self.timed_out,
            "peak_mb": round(self._peak / 1e6, 1),
            "problem": self.problem,
        }

    def _start(self) -> str:
        """Starts the process; why it could not be, if so."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(reading)
                _become(self._settings, parent)
            except BaseException as error:
                os.write(writing, str(error).encode()[:500])
            finally:
                os._exit(127)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            return pipe.read().decode(errors="replace")

    def _reap(self) -> bool:
        """Whether the process has ended; collects what else did."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == self._child:
                self._peak = max(self._peak, used.ru_maxrss * 1024)
                self.exit_code = os.waitstatus_to_exitcode(status)
                self._see_oom()
                return True
            if pid == 0:
                return False

    def _see_oom(self) -> None:
        """A kernel that kills for want of memory counts it: in the group, else for the whole system."""
        kills = _counter(self._oom_counter)
        if self._group_counter and kills and self.exit_code != 0:
            self.out_of_memory = True
            self._peak = max(self._peak, self._memory)
            _say(f"it wanted more memory than its limit of {self._memory / 1e6:.0f} MB: it was ended")
        elif not self._group_counter:
            self.out_of_memory |= kills > self._oom_kills and self.exit_code == -signal.SIGKILL and not self._killed

    def _look(self) -> None:
        pids = [pid for pid, _ in _family(os.getpid())]
        held = sum(_resident(pid) for pid in pids)
        if self._holds and held > self._memory:
            held = sum(_own(pid) for pid in pids)  # slower, and right where processes share their pages
            if held > self._memory:
                self.out_of_memory = True
                _say(f"it holds {held / 1e6:.0f} MB of memory, its limit is {self._memory / 1e6:.0f} MB: it is ended")
                self._kill()
        self._peak = max(self._peak, held)
        kills = _counter(self._oom_counter)
        if self._group_counter and kills:
            self._kill()  # version 1 kills one of them, and the others would wait for it
        if (now := time.monotonic()) - self._counted_at > GONE_SECONDS:
            self._oom_kills, self._newer_kills, self._counted_at = self._newer_kills, kills, now
        if not self.stray and self._run_file.lost():
            self.stray = True
            _say("the cloud does not know this process any more: it is ended")
            self._ask()

    def _ask(self) -> None:
        if self._kill_at == float("inf"):
            self._kill_at = time.monotonic() + self._grace
            os.kill(self._child, signal.SIGTERM)  # not collected yet, so the number is its own

    def _kill(self) -> None:
        self._killed = True
        for pid, parent in list(_family(os.getpid())):
            _kill_child(pid, parent)

    def _clear(self) -> None:
        """Nothing of what it started stays. Who lost its parent hangs under this process, wherever it had gone."""
        deadline = time.monotonic() + LAST_SECONDS
        while time.monotonic() < deadline:
            self._kill()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            signal.sigtimedwait((signal.SIGCHLD,), 0.05)
        try:
            for group in self._settings["groups"]:
                os.rmdir(group)
        except OSError:
            pass  # the control plane tries again


def _become(settings: dict[str, Any], parent: int) -> None:
    """In the child: turns into the process. Returns only by an error."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)
    for group in settings["groups"]:
        _write(f"{group}/cgroup.procs", "0")
    if settings["oom_score"]:
        _write("/proc/self/oom_score_adj", str(settings["oom_score"]))
    if settings["data_bytes"]:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = settings["data_bytes"] if hard == resource.RLIM_INFINITY else min(settings["data_bytes"], hard)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, wanted))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    command = settings["command"]
    os.execv(command[0], command)


def _family(pid: int) -> Iterator[tuple[int, int]]:
    """Every descendant of `pid`, with its parent."""
    parents = [pid]
    for parent in parents:  # grows while it is walked
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            for child in map(int, _read(f"/proc/{parent}/task/{thread}/children").split()):
                parents.append(child)
                yield child, parent


def _kill_child(pid: int, parent: int) -> None:
    """SIGKILL, if the number still is that child's: through a descriptor, so that it cannot pass to another one."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        text = _read(f"/proc/{pid}/stat")
        if text and int(text[text.rindex(")") + 2 :].split()[1]) in (parent, os.getpid()):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _resident(pid: int) -> int:
    """Bytes of memory that are not a file's."""
    fields = _read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _own(pid: int) -> int:
    """The same, with pages that several processes hold counted in parts."""
    lines = [line.split() for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()]
    return sum(int(line[1]) for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:")) * 1024


def _counter(path: str) -> int:
    """How many processes were killed for want of memory; all of the kernel's counters write it alike."""
    for line in _read(path).splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _say(message: str) -> None:
    try:
        os.write(2, f"skyriver: {message}\n".encode())
    except OSError:
        pass  # a full disk


def _end_alike(exit_code: int | None) -> int:
    """Ends as the process did, for a parent that finds no ending written down."""
    if exit_code is None or exit_code >= 0:
        return 1 if exit_code is None else exit_code
    _prctl(_PR_SET_DUMPABLE, 0)  # the core file, if there is one, is the process's
    if -exit_code != signal.SIGKILL:
        signal.signal(-exit_code, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (-exit_code,))  # no other: one that came meanwhile would be the end told
    os.kill(os.getpid(), -exit_code)
    return 128 - exit_code


def main(path: str) -> int:
    settings = json.loads(_read(path))
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    run_file = RunFile(settings)
    if not run_file.wait(RECORDED_SECONDS):
        _say("no run file names this process: its start was cut off. Ending.")
        return 1
    ending = Ending(settings["ending_file"])
    watch = Watch(settings, run_file)
    watch.run()
    if not run_file.names_another():  # else the file of the ending is another process's too
        ending.write(watch.told())
    return _end_alike(watch.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
