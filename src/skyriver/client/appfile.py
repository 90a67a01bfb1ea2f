"""The user's application file: executed where the user is, and packed for the jobs (DESIGN section 2)."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import io
import re
import sys
import tarfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

import skyriver
from skyriver.core import spec as specs
from skyriver.core.app import App
from skyriver.core.environments import REQUIREMENTS
from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.misread import wrong
from skyriver.core.ranges import SERVICE, field_of, hint

BUNDLED = frozenset({".py", ".onnx", ".txt", ".toml", ".yaml", ".yml", ".json", ".sql"})
BUNDLE_LIMIT = 256 * 1024**2
MODULE_NAME = "skyriver_application"
_UNEXPECTED = re.compile(r"(?P<function>[\w.]+)\(\) got an unexpected keyword argument '(?P<argument>\w+)'")
_CALLED = re.compile(r"(?P<function>[\w.]+)\(\) (?:missing|takes|got multiple)")


@dataclass(frozen=True, slots=True)
class Bundle:
    """The application's folder as one tar archive: same content, same bytes. `main` is the application file's name."""

    data: bytes
    main: str
    files: dict[str, str]
    """SHA-256 of every file, by its path in the folder."""


def load_app(path: Path) -> App:
    """Executes the file and returns the one App in it.

    Raises InvalidInput with the line of the file where it went wrong.
    """
    if not path.is_file():
        raise InvalidInput(
            f"There is no file {path}.",
            code="NO_APP_FILE",
            next_action="Give the application's file; `skyriver init` writes an example.",
        )
    if path.suffix != ".py":
        raise InvalidInput(
            f"{path} is not a Python file.", code="NO_APP_FILE", next_action="Give the application's file, APP.py."
        )
    module = _execute(path)
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    if len(apps) != 1:
        raise InvalidInput(
            f"The file declares {len(apps) or 'no'} application{'s' if apps else ''}.",
            code="NO_APP",
            where=str(path),
            next_action='Write `app = sr.App("name")` once, at the top level.',
        )
    return next(iter(apps.values()))


def place(error: SkyriverError, places: Mapping[str, str]) -> None:
    """Adds the line of the file to what the cloud says of a declaration. `places`: those of `App.places`."""
    for of in dict.fromkeys([error.where, *(str(detail.get("where", "")) for detail in error.details)]):
        if of in places:
            told = f"{places[of]}: {of}"
            error.where = told if error.where == of else error.where
            error.message = error.message.replace(f"  - {of}: ", f"  - {told}: ")
            error.details = tuple({**d, "where": told} if d.get("where") == of else d for d in error.details)


def _execute(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module  # annotations of its classes are resolved through it
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)  # files beside it can be imported
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise InvalidInput(
            f"The file has a syntax error: {error.msg}{f', in `{text}`' if text else ''}.",
            code="SYNTAX_ERROR",
            where=f"{error.filename}:{error.lineno}",
            next_action="Correct this line and deploy again; nothing was done.",
        ) from error
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"The file imports {error.name}, and there is no such module.",
            code="MISSING_MODULE",
            where=_place(error, path),
            next_action=f"Name its package in {REQUIREMENTS} beside {path.name}; a module of your own belongs there"
            " too.",
        ) from error
    except SkyriverError as error:
        error.where = ": ".join(filter(None, (_place(error, path), error.where)))
        raise
    except ValidationError as error:
        raise _misdeclared(error, _place(error, path)) from None
    except Exception as error:
        raise InvalidInput(
            f"Executing the file failed: {type(error).__name__}: {error}.",
            code="APP_FILE_FAILED",
            where=_place(error, path),
            next_action=_arguments(error) or "Correct this line and deploy again; nothing was done.",
        ) from error
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(folder)
    return module


def _misdeclared(error: ValidationError, where: str) -> InvalidInput:
    """Of a part of a specification that is declared as it is, sr.Service for one: its names are those of the call."""
    kind = getattr(specs, error.title, None)
    name = error.title.removesuffix("Spec")
    known = list(kind.model_fields) if kind is not None and hasattr(skyriver, name) else []
    all_found = error.errors()
    # A name that there is not, before the one that is missing: it is the same one, misspelt.
    found = next((each for each in all_found if each["type"] == "extra_forbidden"), all_found[0])
    why = wrong({**found, "loc": found["loc"][:1]}, known)
    action = f"sr.{name} takes {', '.join(known)}." if known else "Correct this line and deploy again."
    if name == "Service":
        action = hint(SERVICE, field_of(found), found.get("input")) or action
    return InvalidInput(
        f"sr.{name}: {why}." if known else f"The declaration is not understood: {why}.",
        code=f"BAD_{name.upper()}" if known else "BAD_DECLARATION",
        where=where,
        next_action=action,
    )


def _arguments(error: Exception) -> str:
    """Of a call of ours with an argument that it has not, too many or too few: which it has."""
    text = str(error) if isinstance(error, TypeError) else ""
    found = _UNEXPECTED.search(text) or _CALLED.search(text)
    if found is None:
        return ""
    called: object = skyriver
    for name in found["function"].removesuffix(".__init__").split("."):
        called = getattr(called, {"total": "sum"}.get(name, name), None)
    if not callable(called):
        return ""
    known = [
        name for name, p in inspect.signature(called).parameters.items() if name != "self" and p.kind != p.VAR_KEYWORD
    ]
    near = get_close_matches(found.groupdict().get("argument", ""), known, n=1)
    return f"{f'Did you mean {near[0]}=? ' if near else ''}There are {', '.join(known)}."


def _place(error: BaseException, path: Path) -> str:
    """The last line of the traceback that is in the user's folder."""
    frames = traceback.extract_tb(error.__traceback__)
    folder = path.parent.absolute()
    files = [f for f in frames if not f.filename.startswith("<")]  # "<string>": where dataclasses have their __init__
    own = [f for f in files if Path(f.filename).absolute().is_relative_to(folder)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else str(path)


def pack(path: Path) -> Bundle:
    """The folder of the application file: sources, models, settings; no data, no hidden files, no environments,
    no cloud's home.

    Raises InvalidInput (BUNDLE_TOO_LARGE) naming the largest file.
    """
    folder = path.parent.absolute()
    # A cloud whose home is in this folder goes on writing there, and has its keys there.
    homes = {marker.parent for marker in folder.rglob("cloud.json") if (marker.parent / "run").is_dir()}
    if not homes.isdisjoint(path.absolute().parents):
        raise InvalidInput(
            f"{path} is in the home of a cloud.",
            code="APP_IN_HOME",
            where=str(folder),
            next_action="Keep the application in a folder of its own.",
        )
    found = sorted(p for p in folder.rglob("*") if _belongs(p, folder) and homes.isdisjoint(p.parents))
    sizes = {p: p.stat().st_size for p in found}
    if sum(sizes.values()) > BUNDLE_LIMIT:
        largest = max(found, key=lambda p: sizes[p])
        raise InvalidInput(
            f"The folder {folder} has {sum(sizes.values()) / 1e6:.0f} MB of sources, the largest is {largest.name}.",
            code="BUNDLE_TOO_LARGE",
            next_action=f"Keep the application in a folder of its own, of at most {BUNDLE_LIMIT // 10**6} MB.",
        )
    buffer = io.BytesIO()
    digests = {}
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in found:
            data = file.read_bytes()
            entry = tarfile.TarInfo(str(file.relative_to(folder)))
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
            digests[entry.name] = hashlib.sha256(data).hexdigest()
    return Bundle(buffer.getvalue(), path.name, digests)


def _belongs(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith(".") or part in ("__pycache__", "node_modules") for part in parts)
    return path.suffix in BUNDLED and not hidden and path.is_file() and not path.is_symlink()


def unpack(data: bytes, folder: Path) -> None:
    """Writes a bundle's files below `folder`; nothing can be written outside of it."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="data")
