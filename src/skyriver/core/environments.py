"""Users' environments: what a `requirements.txt` may say, its lock, and who uses which (docs/decisions/0010).

A requirement names a package and the versions of it that will do. From where packages come is the machine's own
configuration: a line that names a place (a URL, a path, an index) is refused, here and again where the environment
is built, for the cloud fetches nothing that a tenant points it to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import ENDED
from skyriver.core.names import digest
from skyriver.core.resources import Resource, Snapshot

REQUIREMENTS = "requirements.txt"
KIND = "environment"
LOCK_LIMIT = 8 * 1024**2
"""Bytes; a lock of 300 packages has 1 MB, most of it hashes of wheels for other machines."""

_HEAD = re.compile(r"# skyriver lock 1: python (\d+\.\d+), ([a-z0-9_.-]+)")
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(rf"({_NAME})\s*(\[[^\]]*\])?\s*(.*)")
_LOCKED = re.compile(rf"({_NAME})==([A-Za-z0-9.!+_-]+)((?:\s+--hash=sha256:[0-9a-f]{{64}})+|\s+--installed)")
_FROM_OUTSIDE = frozenset({"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "VIRTUAL_ENV"})
_SOURCES = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host")


_EXTRAS = {"keras": "keras", "optuna": "search", "sklearn": "sklearn", "torch": "torch", "xgboost": "xgboost"}
"""Modules that users import, and which of Skyriver's extras brings each."""


def lacking(error: BaseException) -> str:
    """What to do where a user's code asked for a package that is not there; nothing of any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    return to_bring(module, _EXTRAS.get(module, ""))


def to_bring(module: str, extra: str = "") -> str:
    """What to do where a package is not there that an `extra` of Skyriver brings, if any does."""
    wanted = f"a {REQUIREMENTS} beside the application's file that names what brings {module}"
    if extra:
        return f"`pip install 'skyriver[{extra}]'` where this runs, or {wanted}; then deploy it again."
    return f"Write {wanted}, and deploy it again."


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement as it was written."""

    name: str
    """Canonical."""
    text: str
    line: int
    """Where it begins, from 1."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of a lock: exactly this version, and only a file with one of these SHA-256; without any it is
    the one that is installed with Skyriver, which nobody fetches."""

    name: str
    version: str
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """All packages of an environment, for one version of Python on one kind of machine; its digest names the
    environment. Packages that Skyriver brings are in it too, as `NAME==VERSION --installed`."""

    python: str
    platform: str
    packages: tuple[Locked, ...]

    def to_bytes(self) -> bytes:
        lines = [f"# skyriver lock 1: python {self.python}, {self.platform}"]
        for package in self.packages:
            hashes = "".join(f" \\\n    --hash=sha256:{h}" for h in package.hashes) or " --installed"
            lines.append(f"{package.name}=={package.version}{hashes}")
        return ("\n".join(lines) + "\n").encode()

    @property
    def digest(self) -> str:
        return digest(self.to_bytes())


def canonical(name: str) -> str:
    """The one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that they go on in, without comments; numbered from 1."""
    number, parts = 0, ""
    for count, line in enumerate(text.splitlines(), 1):
        number = number or count
        parts += re.sub(r"(^|\s)#.*", "", line).removesuffix("\\")
        if line.endswith("\\"):
            continue
        if parts.strip():
            yield number, " ".join(parts.split())
        number, parts = 0, ""
    if parts.strip():
        yield number, " ".join(parts.split())


def read_requirements(data: bytes, where: str) -> tuple[Requirement, ...]:
    """What a requirements file asks for. Raises InvalidInput naming the line and the rule."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "The file is not text in UTF-8.", code="BAD_REQUIREMENT", where=where, next_action="Write it as plain text."
        ) from error
    return tuple(_requirement(line, f"{where}:{number}", number) for number, line in logical_lines(text))


def _requirement(line: str, where: str, number: int) -> Requirement:
    if line.startswith("-"):
        raise _refused_option(line.split("=")[0].split()[0], where)
    found = _REQUIREMENT.fullmatch(line)
    rest = found[3] if found else ""
    if "://" in line or rest.startswith("@") or line.startswith(("/", ".", "~")) or line.endswith((".whl", ".tar.gz")):
        raise InvalidInput(
            f"{_without_secrets(line)!r} names a place, not a package of the index.",
            code="REQUIREMENT_FROM_A_PLACE",
            where=where,
            next_action="Write NAME==VERSION; files of your own belong beside the application's file, packages of your"
            " own into the index that this machine is configured for.",
        )
    if found is None:
        raise InvalidInput(
            f"{line!r} is no requirement.",
            code="BAD_REQUIREMENT",
            where=where,
            next_action="Write one package a line, as in NAME==VERSION.",
        )
    return Requirement(canonical(found[1]), line, number)


def _refused_option(option: str, where: str) -> InvalidInput:
    """The line itself is not told again: it may hold a password."""
    if option in _SOURCES:
        what = f"{option} says from where packages come."
        action = "Take the line out and configure uv or pip on this machine, where credentials may be written too."
    elif option in ("-e", "--editable"):
        what = f"{option} names a folder of this machine."
        action = "Put the module beside the application's file: it is packed with it."
    elif option in ("-r", "--requirement", "-c", "--constraint"):
        what = f"{option} names another file."
        action = f"Write its lines into {REQUIREMENTS} itself."
    else:
        what = f"{option} is an option, not a requirement."
        action = "Take the line out; options are set in the configuration of uv or pip on this machine."
    return InvalidInput(what, code="OPTION_IN_REQUIREMENTS", where=where, next_action=action)


def _without_secrets(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://", text)


def parse_lock(data: bytes) -> Lock:
    """Raises InvalidInput (BAD_LOCK): nothing but names, versions and hashes may stand in a lock."""
    action = "`skyriver deploy APP.py` makes it anew."
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("The lock is not text.", code="BAD_LOCK", next_action=action) from error
    head = _HEAD.fullmatch(text.partition("\n")[0])
    if head is None or len(data) > LOCK_LIMIT:
        raise InvalidInput("This is no lock of an environment.", code="BAD_LOCK", next_action=action)
    packages = []
    for number, line in logical_lines(text):
        found = _LOCKED.fullmatch(line)
        if found is None:
            raise InvalidInput(
                f"Line {number} of the lock is no NAME==VERSION with its hashes.", code="BAD_LOCK", next_action=action
            )
        hashes = tuple(part.rpartition(":")[2] for part in found[3].split() if part != "--installed")
        packages.append(Locked(canonical(found[1]), found[2], hashes))
    return Lock(head[1], head[2], tuple(packages))


def apart(variables: Mapping[str, str]) -> dict[str, str]:
    """A process's variables without those that would bring it packages from outside its environment."""
    kept = {k: v for k, v in variables.items() if k not in _FROM_OUTSIDE}
    return kept | {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}


# Who uses an environment, and which jobs may run in it.


def environment_name(lock_digest: str) -> str:
    """The resource's name of the environment with this lock."""
    return lock_digest[:16]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a job's environment is there: `go`, `wait` or `refuse`, and what to tell of it."""

    verdict: Literal["go", "wait", "refuse"]
    reason: str = ""
    message: str = ""
    next_action: str = ""


def readiness(snapshot: Snapshot, job: Resource) -> Readiness:
    """Whether the environment that a job names is ready for it."""
    wanted = str(job.spec.get("environment", ""))
    if not wanted:
        return Readiness("go")
    name = environment_name(wanted)
    found = snapshot.find(job.tenant, KIND, name)
    if found is None:
        message = "Its environment is not there any more."
        return Readiness("refuse", "ENVIRONMENT_FAILED", message, "`skyriver deploy APP.py`, then start the job again.")
    if found.state == "READY":
        return Readiness("go")
    if found.state == "FAILED":
        message = f"Its environment could not be built: {found.message}"
        return Readiness("refuse", "ENVIRONMENT_FAILED", message, found.next_action)
    message = "The packages of its requirements.txt are being installed."
    return Readiness("wait", "BUILDING_ENVIRONMENT", message, f"`skyriver explain environment/{name}` shows how far.")


def users(snapshot: Snapshot, environment: Resource) -> Iterator[str]:
    """Who names it, as kind/name: applications, and jobs that have not ended."""
    lock = str(environment.spec["lock"])
    for kind in ("app", "job"):  # applications are few: for most environments the jobs are not walked
        for found in snapshot.all(environment.tenant, kind):
            if found.spec.get("environment") == lock and found.state not in ENDED:
                yield found.ref
