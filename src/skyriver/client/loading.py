"""Loading files into a table: which ones, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyriver.client.rows import file_format
from skyriver.client.shell import wait
from skyriver.core.errors import InvalidInput

if TYPE_CHECKING:
    from skyriver.client.api import Client


def named_files(option: str, what: str, given: Sequence[str] | None) -> Iterator[tuple[str, Path]]:
    """What stands before and behind the = of an option's values."""
    for item in given or []:
        name, sep, path = item.partition("=")
        if not sep:
            raise InvalidInput(
                f"{option} {item} is not {what.upper()}=FILE.",
                code="BAD_PARAMETER",
                next_action=f"Name the {what}, as in {option} {what.upper()}=FILE.csv.",
            )
        yield name, Path(path)


@dataclass(frozen=True)
class GivenFile:
    """A file of a load: what it holds the labels or the rows of ("": rows of the table itself)."""

    path: Path
    label: str = ""
    reference: str = ""


def load_files(client: Client, table: str, files: Sequence[GivenFile], bars: Any) -> dict[str, Any]:
    """Uploads files and loads them as one; returns the load's report."""
    inputs = []
    for file, digest in zip(files, upload_files(client, [file.path for file in files], bars), strict=True):
        path = file.path
        told = {"digest": digest, "name": path.name, "format": file_format(path), "label": file.label}
        inputs.append({**told, "reference": file.reference} if file.reference else told)
    done = wait(client, client.act("load", table, inputs={"files": inputs}), bars)
    report: dict[str, Any] = done["status"]["result"]["load"]
    return report


def upload_files(client: Client, paths: Sequence[Path], bars: Any) -> Iterator[str]:
    """Their digests, each once it is there."""
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"There is no file {path}.", code="NO_FILE", next_action="Check its path.")
        name = f"upload {path.name}"
        digest = client.upload(path, lambda done, total, name=name: bars.tell(name, done, total))  # type: ignore[misc]
        bars.done(name)
        yield digest
