"""The README and the guides do what they say: what they tell to type is typed, in order, into one shell a guide.

- ```LANGUAGE file=NAME: the block is written to NAME in the shell's folder.
- ```console: lines after `$ ` (and `> `, which go on) are commands. Each must end with 0, unless `$ echo $?` comes
  next: then what it shows is the exit code. The other lines are what the command before them prints: each must be
  there, in this order; `...` stands for anything. Numbers, ages and times are not compared, but in ```console exact.

The guides are read in one order on one cloud, as a person would: the first one makes the data that others go on with.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from broker_servers import program
from cloud_process import warm
from free_ports import free_port
from wheels import from_folder, write_wheel

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
FIRST = "first-application"
ORDER = (
    "scaling",  # while the machine has room for a second replica: what the others declare and do takes cores
    "streams",
    "release",
    "environments",
    "jobs",
    "operations",
    "incidents",
    "cost",
    "python-client",
    "serving",
    "gateway",
    "rollouts",
    "signing",
    "registry",
    "watching",
    "tracking",
    "data",
    "features",
    "training-data",
    "search",
    "keras",
    "training",
    "lists",
    "sources",
    "acting",
    "erasing",
    "reviewing",
    "transfer",
)
COMMAND_SECONDS = 300.0
"""Many times what the longest one takes on a machine that does nothing else."""
NAMED_PORTS = ("21883", "21080")
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d(?:[\d.,:]*\d)?(?:e[+-]?\d+)?(?:x|%| (?:s|min|h|d|ms|MB)\b)?")
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@dataclass
class Command:
    text: str
    printed: list[str] = field(default_factory=list)
    exact: bool = False


@dataclass(frozen=True)
class SavedFile:
    name: str
    text: str


def steps_of(document: str) -> list[Command | SavedFile]:
    """What a reader of the document does, in order."""
    steps: list[Command | SavedFile] = []
    for language, rest, body in _FENCE.findall(document):
        words = rest.split()
        named = next((w.removeprefix("file=") for w in words if w.startswith("file=")), "")
        if named:
            steps.append(SavedFile(named, body))
        elif language == "console":
            steps += _commands(body, exact="exact" in words)
    return steps


def _commands(body: str, *, exact: bool) -> list[Command]:
    found: list[Command] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], exact=exact))
        elif line.startswith("> "):
            found[-1].text += "\n" + line[2:]
        elif line.strip():
            found[-1].printed.append(line)
    return found


def alike(text: str, *, exact: bool) -> str:
    """A line as it is compared: spaces count as one and, unless `exact`, all numbers and ages are the same."""
    plain = " ".join(text.split())
    return plain if exact else _NUMBER.sub("#", plain)


def missing_line(printed: list[str], output: str, *, exact: bool) -> str | None:
    """The first of the lines `printed` that is not in `output`, in order."""
    lines = iter([alike(line, exact=exact) for line in output.splitlines()])
    for line in printed:
        if line.strip() == "...":
            continue
        wanted = ".*".join(re.escape(part) for part in alike(line, exact=exact).split("..."))
        if not any(re.fullmatch(wanted, found) for found in lines):
            return line
    return None


class Shell:
    """One bash that reads a guide's commands; what they print comes back with their exit codes."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        self._mark = f"--done-{os.urandom(8).hex()}-"

    def run(self, command: str) -> tuple[int, str]:
        assert self._process.stdin is not None
        script = f"{{ {command}\n}} </dev/null\n__code=$?; printf '\\n%s%s\\n' '{self._mark}' $__code; (exit $__code)\n"
        self._process.stdin.write(script.encode())
        self._process.stdin.flush()
        output = self._read(command)
        text, _, rest = output.rpartition(self._mark)
        return int(rest.split("\n")[0]), text.removesuffix("\n")  # what was in the background may print after it

    def _read(self, command: str) -> str:
        assert self._process.stdout is not None
        found = b""
        deadline = time.monotonic() + COMMAND_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not re.search(re.escape(self._mark.encode()) + rb"\d+\n", found):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"after {COMMAND_SECONDS:.0f} s still running: {command}\n{found.decode()}")
                piece = os.read(self._process.stdout.fileno(), 65_536)
                assert piece, f"the shell ended: {command}\n{found.decode(errors='replace')}"
                found += piece
        return found.decode(errors="replace")

    @property
    def folder(self) -> Path:
        return Path(f"/proc/{self._process.pid}/cwd").resolve()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=300)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@dataclass(frozen=True)
class Desk:
    """Where a reader sits: a folder, and an environment with a cloud's home and port of its own."""

    folder: Path
    environment: dict[str, str]
    ports: dict[str, str]
    """What stands for ports that guides name: another test of the run may have those."""


def walk(document: Path, desk: Desk) -> None:
    """Does what the document says, in a shell that starts in the folder. It finds the command that is there loaded."""
    text = document.read_text()
    for named, own in desk.ports.items():
        text = text.replace(named, own)
    steps = steps_of(text)
    shell = Shell(desk.folder, desk.environment | {"PATH": f"{warm().folder}:{desk.environment['PATH']}"})
    try:
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if isinstance(step, SavedFile):
                (shell.folder / step.name).write_text(step.text)
                continue
            code, output = shell.run(step.text)
            told = f"{document.name}: $ {step.text}\nended with {code} and printed:\n{output}"
            if not (isinstance(following, Command) and following.text == "echo $?"):
                assert code == 0, told
            exact = step.exact or step.text == "echo $?"
            absent = missing_line(step.printed, output, exact=exact)
            assert absent is None, f"{told}\nand this is not there, or not in this place: {absent}"
    finally:
        shell.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, kernels: Path) -> Iterator[Desk]:
    if not (shutil.which("bash") and shutil.which("curl")):
        pytest.skip("the guides' commands need bash and curl")
    folder = tmp_path_factory.mktemp("desk")
    port, serve_port, hook_port = (free_port(beside=beside) for beside in (1, 0, 0))  # the one after it is for HTTPS
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SKYRIVER_", "XDG_", "PYTEST"))}
    environment = keep | {
        "HOME": str(folder),  # so that the cloud's home is the default one, as in the guides
        "SKYRIVER_PORT": str(port),
        "SERVE_PORT": str(serve_port),
        "HOOK_PORT": str(hook_port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "120",
        **from_folder(folder / "packages"),
    }
    cache = folder / ".local" / "share" / "skyriver" / "cache"
    for place in (*reversed(cache.parents[:3]), cache):
        place.mkdir(mode=0o700)
    (cache / "kernels").symlink_to(kernels)  # the examples' features are those of other tests too
    write_wheel(folder / "packages", "humanize", "4.0", "intcomma = str\n")  # what the guide names, without a network
    yield Desk(folder, environment, {named: str(free_port()) for named in NAMED_PORTS})
    subprocess.run(["skyriver", "down"], env=environment, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def after_the_first(desk: Desk) -> Desk:
    walk(GUIDES / f"{FIRST}.md", desk)
    return desk


def test_the_first_application(after_the_first: Desk) -> None:
    assert (after_the_first.folder / "risk" / "risk.py").is_file()


@pytest.mark.parametrize("guide", ORDER)
def test_a_guide(guide: str, after_the_first: Desk) -> None:
    if guide == "sources":
        program("mosquitto", "apt install mosquitto")
    walk(GUIDES / f"{guide}.md", after_the_first)


def test_every_guide_is_walked_and_linked() -> None:
    assert {p.stem for p in GUIDES.glob("*.md")} == {FIRST, *ORDER}
    readme = (ROOT / "README.md").read_text()
    for guide in (FIRST, *ORDER):
        assert f"(docs/guides/{guide}.md)" in readme


@pytest.mark.parametrize("guide", ["acting", "lists", "streams"])
def test_a_guide_asks_where_the_home_of_the_cloud_is(guide: str) -> None:
    steps = steps_of((GUIDES / f"{guide}.md").read_text())
    naming = [line for s in steps for line in s.text.splitlines() if ".local/share/skyriver" in line]
    assert naming
    assert all("SKYRIVER_HOME" in line for line in naming), naming


@pytest.mark.parametrize("document", [ROOT / "README.md", *sorted(GUIDES.glob("*.md"))], ids=lambda p: p.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for target in _LINK.findall(document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readmes_commands_are_the_first_guides() -> None:
    """They are run there."""
    guide = iter([s.text for s in steps_of((GUIDES / f"{FIRST}.md").read_text()) if isinstance(s, Command)])
    mine = [s.text for s in steps_of((ROOT / "README.md").read_text()) if isinstance(s, Command)]
    assert len(mine) >= 8
    for command in mine:
        assert command in guide, f"{command!r} is not in the first guide, or not in this order"


def test_the_readmes_application_is_the_example() -> None:
    excerpt = next(
        body for language, _, body in _FENCE.findall((ROOT / "README.md").read_text()) if language == "python"
    )
    example = iter([line.strip() for line in (ROOT / "examples" / "risk" / "risk.py").read_text().splitlines()])
    for line in (line.strip() for line in excerpt.splitlines()):
        assert line in ("", "...") or line in example, f"{line!r} is not in the example, or not in this order"


@pytest.mark.parametrize(
    ("printed", "output", "exact", "found"),
    [
        (["fraud:1 APPROVED"], "x\nfraud:7   APPROVED \n", False, True),
        (["fraud:1 APPROVED"], "fraud:7 APPROVED", True, False),
        (["a", "b"], "b\na", False, False),
        (["pid 12, up 3 s"], "pid 9, up 2 min", False, True),
        (["token ... once"], "token sky_1 shown once", False, True),
        (["score = 0.5"], "score = 1e-05", False, True),
    ],
)
def test_how_output_is_compared(printed: list[str], output: str, exact: bool, found: bool) -> None:
    assert (missing_line(printed, output, exact=exact) is None) is found


def test_a_shell_tells_codes_and_keeps_its_state(tmp_path: Path) -> None:
    environment: dict[str, Any] = {"PATH": os.environ["PATH"]}
    shell = Shell(tmp_path, environment)
    try:
        assert shell.run("mkdir inside; cd inside; export X=one") == (0, "")
        assert shell.run("echo $X; false") == (1, "one\n")
        assert shell.run("echo $?") == (0, "1\n")
        assert shell.run("cat") == (0, ""), "nothing waits for input"
        assert shell.folder == tmp_path / "inside"
    finally:
        shell.close()
