"""What a user can ask of tables: loading files, and bringing a stream's table up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from skyriver.core.errors import InvalidInput
from skyriver.core.jobs import new_job, new_operation, next_number
from skyriver.core.resources import Resource, Snapshot, need
from skyriver.core.spec import StreamSpec

PARTS = ("labels", "decisions", "dead")


def tables_of_stream(stream: StreamSpec) -> tuple[str, ...]:
    """The tables that a stream owns: its events, and a table for each other kind of record (DESIGN 6.9), then one for
    each of its references."""
    references = (reference_table(stream.name, r.name) for r in stream.references)
    return (stream.name, *(f"{stream.name}.{part}" for part in PARTS), *references)


def reference_table(stream: str, reference: str) -> str:
    """The table of the rows of a reference."""
    return f"{stream}.{reference}"


def rejected_table(stream: str) -> str:
    """The table of rows that loads into a stream refused; what the stream itself refused is in its `.dead`."""
    return f"{stream}.rejected"


FORMATS = ("parquet", "csv", "jsonl")


def check_uploaded(files: Sequence[object]) -> None:
    """Files as a request names them: {"digest", "name", "format"}. Raises InvalidInput (BAD_FILE, UNKNOWN_FORMAT)."""
    for file in files:
        if not isinstance(file, dict) or not isinstance(file.get("digest"), str):
            raise InvalidInput(f"{file!r} names no uploaded file.", code="BAD_FILE", next_action="Give its digest.")
        if file.get("format") not in FORMATS:
            raise InvalidInput(
                f"{file.get('name')!r} has the format {file.get('format')!r}.",
                code="UNKNOWN_FORMAT",
                where=str(file.get("name", "")),
                next_action=f"Give files that end in .{', .'.join(FORMATS)}.",
            )


def plan_load(
    snapshot: Snapshot, tenant: str, target: str, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> list[Resource]:
    """Load uploaded files into a table. `inputs["files"]`: [{"digest", "name", "format", "label"?}, ...]."""
    table = need(snapshot.find(tenant, "table", target), "table", target)
    app = need(snapshot.find(tenant, *table.parent.split("/", 1)), "app", table.parent)
    files = inputs.get("files")
    if not isinstance(files, list) or not files:
        raise InvalidInput(
            "A load needs at least one file.", code="NO_FILES", next_action="Upload one and name it in `files`."
        )
    check_uploaded(files)
    number = next_number(snapshot, tenant, "job", f"{target}-load")
    name = f"{target}-load-{number}"
    job = new_job(
        snapshot,
        app,
        kind="load",
        target=target,
        name=name,
        lane=f"table/{target}",
        params=params,
        inputs={"files": files},
        tables=(target,),
        parent=f"operation/{name}",
    )
    return [new_operation(snapshot, tenant, name, action="load", target=target, jobs=[name]), job]
