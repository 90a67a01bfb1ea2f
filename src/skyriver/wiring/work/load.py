"""The work of a load: files become rows of a plain table, or history of a stream and rows of its tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.processes.starting import socket_path
from skyriver.core.errors import NotFound, Unavailable
from skyriver.core.names import digest
from skyriver.core.spec import AppSpec, StreamSpec, TableSpec
from skyriver.data.border import Reason
from skyriver.data.files import LoadFile
from skyriver.data.load import load_table, store_dead
from skyriver.data.log import RecordKind
from skyriver.data.operations import rejected_table
from skyriver.data.stream_load import PreparedLoad, prepare_stream_load
from skyriver.data.tables import TableVersion
from skyriver.features.checks import SUMMED
from skyriver.wiring.logs import log_reader
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.materialise import bring_up_to_date
from skyriver.wiring.work.patience import asked_until

WORKER_SECONDS = 60.0
"""For how long the load waits for a worker that is away or starting."""


def work(job: Job) -> dict[str, Any]:
    """Outputs: `counts`, `bad_by_reason`, `examples` of bad rows, `ignored_columns`, and the new `tables`."""
    files = [
        LoadFile(
            job.objects.open_path(f["digest"]), f["name"], f["format"], f.get("label") or "", f.get("reference") or ""
        )
        for f in job.inputs["files"]
    ]
    source = job.app.source(job.target)
    return _load_table(job, source, files) if isinstance(source, TableSpec) else _load_stream(job, source, files)


def _number(job: Job) -> int:
    """Of the load among those of its table: its offset, so that a load that is repeated does nothing twice."""
    return int(job.name.rpartition("-")[2])


def _load_table(job: Job, table: TableSpec, files: list[LoadFile]) -> dict[str, Any]:
    tables = DeltaTables(job.home.tables)
    name, known = job.table(table.name), job.known_version(table.name)
    report = load_table(table, files, tables, name, _number(job), known, job.progress, work_dir=job.work_dir)
    made = {table.name: report.version} if report.version is not None else {}
    if report.bad:
        dead = f"{table.name}.dead"
        made[dead] = tables.latest(job.table(dead))
    return _outputs(report.to_json(), report.duplicates, made)


def _load_stream(job: Job, stream: StreamSpec, files: list[LoadFile]) -> dict[str, Any]:
    latest = time.time_ns() // 1_000 + stream.ahead_us
    prepared = prepare_stream_load(
        stream, files, job.work_dir, summed_fields(job.app, stream), job.progress, latest=latest
    )
    tables = DeltaTables(job.home.tables)
    handed = _hand_over(job, stream, prepared)  # first: what the worker refuses leaves nothing behind
    rejected = store_dead(prepared, tables, job.table(rejected_table(stream.name)), handed.position)
    made = bring_up_to_date(job, stream)
    if rejected is not None:
        made[rejected_table(stream.name)] = rejected
    report = prepared.report.to_json()
    report |= {"labels": report["labels"] - handed.labels, "repeated": handed.repeated}
    report["references"] -= handed.references
    return _outputs(report, report["duplicates"] + handed.duplicates, made)


def summed_fields(app: AppSpec, stream: StreamSpec) -> frozenset[str]:
    """Fields of the stream that some feature sums or averages: their values have to fit its grid."""
    sets = (f for f in app.feature_sets if f.source == stream.name)
    return frozenset(a.column for f in sets for a in f.aggregates() if a.column and a.kind in SUMMED)


def _outputs(report: dict[str, Any], duplicates: int, made: dict[str, TableVersion]) -> dict[str, Any]:
    counts = {
        "rows_read": report["rows_read"],
        "rows_good": report["rows_good"],
        "rows_bad": sum(report["bad"].values()),
        "duplicates": duplicates,
        "labels": report["labels"],
        **({"references": report["references"]} if report.get("references") else {}),
    }
    return {
        "counts": counts,
        "bad_by_reason": report["bad"],
        "examples": report["examples"],
        "ignored_columns": sorted({c for columns in report["ignored"].values() for c in columns}),
        "repeated": report["repeated"],
        "tables": {name: asdict(version) for name, version in made.items()},
    }


def load_id(
    stream: StreamSpec, files: Sequence[Mapping[str, Any]], summed: frozenset[str] = frozenset(), ahead: int = 0
) -> str:
    """Names a load by what it brings: the same files into the same stream are the same load, whichever job brings
    them. So a load that was cut off is finished by loading its files again, block by block as they were.

    Beside the files, what decides on their rows counts: the declaration, the fields that are `summed`, and how many
    rows were `ahead` of the clock, for these are the last in time and fewer later.
    """
    told = [{k: f.get(k) or "" for k in ("digest", "format", "label")} for f in files]
    for file, given in zip(told, files, strict=True):
        if given.get("reference"):
            file["reference"] = given["reference"]
    return digest({"stream": stream.to_json(), "files": told, "summed": sorted(summed), "ahead": ahead})


@dataclass(frozen=True, slots=True)
class _Handed:
    """What the worker made of a load. `duplicates`: events that the stream had already; `labels`, `references`: labels
    and rows of references in blocks that it had; `position` tells this load from every other, and is the same each time
    it is brought."""

    duplicates: int
    labels: int
    references: int
    position: int
    repeated: bool


def _hand_over(job: Job, stream: StreamSpec, prepared: PreparedLoad) -> _Handed:
    """Gives the blocks to the stream's worker, the only writer of its log, in order. A block that was taken before is
    answered as then, with an offset from before this load, so this can be repeated at any point."""
    socket = socket_path(job.home.sockets, f"{job.tenant}.worker.{stream.name}-0")
    ahead = prepared.report.bad.get(Reason.AHEAD_OF_CLOCK, 0)
    load = load_id(stream, job.inputs["files"], summed_fields(job.app, stream), ahead)
    position = -1 - int(load[:15], 16)  # of a load without a good row: it has no place in the log
    begin = _end_of_log(job, stream)
    duplicates = labels = references = known = 0
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://worker", timeout=120) as http:
        for sequence, block in enumerate(prepared.blocks):
            last = sequence == len(prepared.blocks) - 1
            headers = {"x-load": load, "x-sequence": str(sequence), "x-last": str(int(last))}
            answer = _post(http, block, headers)
            position = int(answer["last_offset"])
            if position < begin:
                kinds = pl.read_ipc_stream(block, columns=["_kind"])["_kind"]
                duplicates += int((kinds == RecordKind.EVENT).sum())
                labels += int((kinds == RecordKind.LABEL).sum())
                references += int((kinds == RecordKind.REFERENCE).sum())
                known += 1
            else:
                duplicates += int(answer["duplicates"])
            job.progress("append to the log", sequence + 1, len(prepared.blocks))
    return _Handed(duplicates, labels, references, position, bool(prepared.blocks) and known == len(prepared.blocks))


def _end_of_log(job: Job, stream: StreamSpec) -> int:
    try:
        with log_reader(stream, job.stream_directory(stream.name), job.home.root, job.tenant) as reader:
            return reader.next_offset
    except NotFound:  # the worker makes it
        return 0


def _post(http: httpx.Client, block: Path, headers: dict[str, str]) -> dict[str, Any]:
    body = block.read_bytes()
    return asked_until(
        lambda: http.post("/internal/history", content=body, headers=headers),
        lambda away: Unavailable(
            f"The stream's worker does not answer: {away}.",
            code="WORKER_AWAY",
            next_action="`skyriver ps` shows its state; load again once it is READY: what was taken stays taken.",
        ),
        seconds=WORKER_SECONDS,
        every=0.2,
    )
