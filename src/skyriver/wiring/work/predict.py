"""The work of scoring many rows: a table or files through a version of a model, into a table or a file.

The same code answers as in a replica (`serve.runner`, the rules of `serve.fields`). What is scored is kept piece by
piece in a folder of the job's that outlives an attempt; where the answers go is written once, at the end.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import polars as pl

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.core.errors import InvalidInput, NotFound, disk_error
from skyriver.core.spec import FieldSpec
from skyriver.data.border_frame import clean_frame
from skyriver.data.files import LoadFile, Piece, SourceFile, open_source
from skyriver.data.tables import TableVersion
from skyriver.serve.frames import FrameScorer, Scored, fields_of
from skyriver.serve.runner import Runner
from skyriver.serve.scoring import PartFrames, ScoringFolder, Tally, Task, mark_of, rows_of_piece, score_all
from skyriver.wiring.work.job import Job


def work(job: Job) -> dict[str, Any]:
    """Outputs: `counts`, `bad_by_reason`, `examples` of refused rows, and the new `tables`, or the file as one of
    `artifacts`."""
    _tidy(job)
    folder = ScoringFolder(job.home.predictions / job.tenant / job.name)
    if (done := folder.outcome()) is not None:
        return done
    began = time.monotonic()
    try:
        outputs = _Predicting(job, folder).run()
        outputs["seconds"] = round(time.monotonic() - began, 3)
        folder.close(outputs)
    except OSError as error:
        raise disk_error(error, "The answers cannot be kept", str(folder.path)) from error
    return outputs


def _tidy(job: Job) -> None:
    for name in job.inputs["ended"]:
        shutil.rmtree(job.home.predictions / job.tenant / name, ignore_errors=True)
    for digest in job.inputs["gone"]:
        job.objects.delete(digest)


class _Predicting:
    def __init__(self, job: Job, folder: ScoringFolder) -> None:
        self._job, self._folder = job, folder
        self._version = job.inputs["version"]
        runner = Runner(job.model_files.get(self._version["artifact"], self._version.get("proof")))
        declared = self._version["fields"]
        given = fields_of(runner.signature) if declared is None else map(FieldSpec.model_validate, declared)
        self._fields = tuple(given)
        self._scorer = FrameScorer(runner, self._fields)
        self._tables = DeltaTables(job.home.tables)
        self._ignored: set[str] = set()

    def run(self) -> dict[str, Any]:
        job, params = self._job, self._job.params
        rows = rows_of_piece(len(self._fields) + len(params["key"]))
        source = self._source() | {"artifact": self._version["artifact"], "rows": rows, "key": params["key"]}
        anew = self._folder.open({**source, "offset": self._offset()})
        if anew:
            print("what is to be scored has changed since the attempt before: it begins anew", file=sys.stderr)
        table = source.get("table")
        if params["format"] == "csv":
            self._refuse_lists()
        tasks = self._of_files(rows) if table is None else self._of_table(table, rows)
        total = self._expected() if table is None else int(table["rows"])
        tally = score_all(tasks, self._folder, params["cores"], job.progress, total)
        tally.check(params["max_bad"])
        kept = self._as_file(tally) if params["format"] else self._as_table(tally)
        bad = tally.bad.total()
        return {
            "model": self._version["model"],
            "version": self._version["version"],
            "to": params["to"],
            "counts": {"rows_read": tally.rows, "rows_scored": tally.rows - bad, "rows_bad": bad},
            "resumed": tally.resumed,
            "began_anew": anew or self._folder.others(tally),
            "bad_by_reason": dict(tally.bad),
            "examples": tally.examples,
            "ignored_columns": sorted(self._ignored),
            **kept,
        }

    # What is scored

    def _source(self) -> dict[str, Any]:
        """A table is read as it was at the first attempt."""
        table = self._job.inputs.get("table")
        if table is None:
            return {"files": self._job.inputs["files"]}
        name = self._job.table(table["name"])
        known = (self._folder.known() or {}).get("table")
        try:
            found = self._tables.describe(name, known["version"]) if known else self._tables.latest(name)
        except NotFound as error:
            raise InvalidInput(
                f"{table['name']} holds no rows yet.",
                code="NO_DATA",
                where=f"table/{table['name']}",
                next_action=f"`skyriver table load {table['name']} FILE` loads some.",
            ) from error
        return {"table": {**table, "version": found.version, "rows": found.rows}}

    def _of_table(self, table: dict[str, Any], rows: int) -> Iterator[Task]:
        names = list(dict.fromkeys((table["id"], *(field.name for field in self._fields))))
        frames = self._tables.scan(self._job.table(table["name"]), table["version"], names)
        first = 1
        for frame in _exact(frames, rows):
            piece = Piece(first, len(frame), partial(clean_frame, frame, self._fields, first_row=first))
            score = partial(self._score, piece, frame.select(table["id"]))
            yield Task(table["name"], 0, first, len(frame), score, mark_of(frame))
            first += len(frame)

    def _of_files(self, rows: int) -> Iterator[Task]:
        for number, file in enumerate(self._files()):
            source = open_source(file.path, file.name, file.format)
            fields = (*self._fields, *self._keys(source))
            for piece in source.pieces(fields, frozenset(), rows):
                yield Task(file.name, number, piece.first, piece.rows, partial(self._score, piece, None, file.name))
            self._ignored.update(source.ignored(fields))

    def _files(self) -> list[LoadFile]:
        return [
            LoadFile(self._job.objects.open_path(f["digest"]), f["name"], f["format"])
            for f in self._job.inputs["files"]
        ]

    def _keys(self, source: SourceFile) -> Iterator[FieldSpec]:
        """Fields for the key columns that are no inputs."""
        names = {field.name for field in self._fields}
        for name in self._job.params["key"][2:]:
            if name not in names:
                yield FieldSpec(name=name, type=source.type_of(name), nullable=True)

    def _expected(self) -> int:
        """Rows, where all files tell how many they have; else 0."""
        files = self._files()
        if any(file.format != "parquet" for file in files):
            return 0
        return sum(pl.scan_parquet(file.path, glob=False).select(pl.len()).collect().item() for file in files)

    def _score(self, piece: Piece, ids: pl.DataFrame | None, file: str = "") -> tuple[pl.DataFrame, Scored]:
        clean = piece.clean()
        scored = self._scorer.score(clean)
        if ids is not None:
            return ids[(scored.rows - piece.first).to_numpy()], scored
        keys = self._job.params["key"][2:]
        own = clean.good[clean.rows.search_sorted(scored.rows).to_numpy()].select(keys) if keys else pl.DataFrame()
        told = [pl.repeat(file, len(scored.rows), dtype=pl.String, eager=True).alias("file"), scored.rows.alias("row")]
        return pl.DataFrame([*told, *own.get_columns()]), scored

    # Where the answers go

    def _frames(self, tally: Tally) -> PartFrames:
        return PartFrames(tally.parts, model=self._version["model"], version=self._version["version"])

    def _offset(self) -> int:
        """Of the table's version to come, chosen by the first attempt: what an attempt appended is not appended again.
        Nobody else appends meanwhile, for jobs of one table run one after the other."""
        known = self._folder.known()
        if known is not None:
            return int(known["offset"])
        if self._job.params["format"]:
            return 0
        offset = 0
        for name in (self._job.params["to"], f"{self._job.params['to']}.dead"):
            with suppress(NotFound):
                offset = max(offset, self._tables.latest(self._job.table(name)).offset + 1)
        return offset

    def _as_table(self, tally: Tally) -> dict[str, Any]:
        job, to = self._job, self._job.params["to"]
        known = self._folder.known()
        assert known is not None
        offset = int(known["offset"])
        made: dict[str, TableVersion] = {}
        if tally.dead:
            made[f"{to}.dead"] = self._append(f"{to}.dead", PartFrames(tally.dead, _offset=offset), offset)
        job.progress("write", 0, 0)
        made[to] = self._append(to, self._frames(tally), offset)
        return {"tables": {name: asdict(version) for name, version in made.items()}, "artifacts": {}}

    def _append(self, name: str, frames: Sequence[pl.DataFrame], offset: int) -> TableVersion:
        return self._tables.append(self._job.table(name), frames, offset=offset, known=self._job.known_version(name))

    def _as_file(self, tally: Tally) -> dict[str, Any]:
        to, kind = self._job.params["to"], self._job.params["format"]
        self._job.progress("write", 0, 0)
        artifacts = {to: self._keep(self._frames(tally).scan(), kind)}
        if tally.dead:
            dead = f"{to.removesuffix(f'.{kind}')}.dead.{kind}"
            artifacts[dead] = self._keep(PartFrames(tally.dead).scan(), kind)
        return {"tables": {}, "artifacts": artifacts}

    def _keep(self, rows: pl.LazyFrame, kind: str) -> dict[str, Any]:
        path = self._folder.path / f"answers.{kind}"
        if kind != "parquet":
            rows = rows.with_columns(pl.col(pl.Float32).cast(pl.Float64))  # in the digits that /predict writes
        match kind:
            case "parquet":
                rows.sink_parquet(path, compression="zstd", maintain_order=True)
            case "csv":
                rows.sink_csv(path, maintain_order=True)
            case _:
                rows.sink_ndjson(path, maintain_order=True)
        kept = {"digest": self._job.objects.put_file(path), "bytes": path.stat().st_size}
        path.unlink()
        return kept

    def _refuse_lists(self) -> None:
        lists = [name for name, kind in self._scorer.empty().schema.items() if isinstance(kind, pl.List)]
        if lists:
            raise InvalidInput(
                f"{lists[0]} is a list in each row, which CSV has no form for.",
                code="LISTS_IN_CSV",
                where=self._job.params["to"],
                next_action="Write .parquet or .jsonl.",
            )


def _exact(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of `rows`, the last one aside, however a table keeps them now."""
    waiting: list[pl.DataFrame] = []
    held = 0
    for frame in frames:
        while len(frame):
            part = frame[: rows - held]
            frame = frame[len(part) :]
            waiting.append(part)
            held += len(part)
            if held == rows:
                yield pl.concat(waiting)
                waiting, held = [], 0
    if waiting:
        yield pl.concat(waiting)
