"""The work of erasing a subject from a stream: found, erased from log and tables, looked for once more, told.

What is to be done lies in a file of the stream's directory (`decide.log.erasing.ErasingWork`) from the time it is
known until it is done: a job that is killed and begun again goes on with the same surrogates. With the file goes the
secret that they were made with.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl

from skyriver.adapters.delta.tables import DeltaTables
from skyriver.adapters.processes.starting import socket_path
from skyriver.core.errors import InvalidInput, JobFailed, NotFound, Unavailable
from skyriver.core.spec import AppSpec, FeatureSetSpec
from skyriver.data.folders import make_folder, replace_file, sync_folder
from skyriver.data.log import Record, RecordKind, WholeReader
from skyriver.data.operations import rejected_table, tables_of_stream
from skyriver.data.tables import Rewritten
from skyriver.decide.log.erasing import (
    SECRET_BYTES,
    Erasing,
    ErasingWork,
    kept_of,
    read_work,
    references_about,
)
from skyriver.decide.log.predicted import changed_predictions, naming
from skyriver.decide.log.records import Id, decode_control
from skyriver.features.plan import plan_features
from skyriver.wiring.dispatcher import erase_in_file
from skyriver.wiring.erasing import FOLDER
from skyriver.wiring.logs import log_reader
from skyriver.wiring.tier import open_tier
from skyriver.wiring.work.job import Job
from skyriver.wiring.work.patience import asked_until

AWAY_S = 120.0
"""For how long a worker that is away is waited for."""
UPLOAD_S = 60.0
EVERY_S = 0.1
TOLD_EVERY = 20_000


def work(job: Job) -> dict[str, Any]:
    """Outputs: the proof, and the tables' new versions."""
    return _Erasure(job).run()


class _Erasure:
    def __init__(self, job: Job, path: Path | None = None) -> None:
        """`path`: what an erasure left that did not get to its end, in place of the job's own."""
        self._job = job
        self._stream = job.app.stream(job.target)
        self._directory = job.stream_directory(job.target)
        self._path = path or self._directory / FOLDER / job.name
        self._proof = self._directory / FOLDER / f"{job.name}.proof"
        """Kept: which erasures there were, without who it was."""
        self._tables = DeltaTables(job.home.tables)

    def run(self) -> dict[str, Any]:
        if self._proof.exists():  # it was done, and its end was not seen
            return dict(json.loads(self._proof.read_bytes()))
        plan = read_work(self._path.read_bytes()) if self._path.exists() else self._plan(*self._subject())
        if self._job.params.get("dry_run"):
            found = self._count(plan.erasing(self._stream), plan.end)
            self._forget(plan.said)
            return {"dry_run": True, **self._told(plan, found)}
        plan = self._take_up(plan)
        replace_file(self._path, msgspec.msgpack.encode(plan))
        proof = self._erase(plan)
        replace_file(self._proof, json.dumps(proof).encode())
        self._destroy(plan)
        return proof

    def _take_up(self, plan: ErasingWork) -> ErasingWork:
        """What erasures left that failed or were cancelled is ended first; of the same subject it is gone on with."""
        make_folder(self._path.parent)
        for path in sorted(self._path.parent.iterdir()):
            if path.suffix or path == self._path:
                continue
            left = read_work(path.read_bytes())
            other = _Erasure(self._job, path)
            if (left.subject, left.value) == (plan.subject, plan.value) and not self._path.exists():
                self._forget(left.said)
                self._path, plan = path, msgspec.structs.replace(left, said=plan.said)
            else:
                other._erase(left)
                other._destroy(left)
        return plan

    def _erase(self, plan: ErasingWork) -> dict[str, Any]:
        """The proof, with the new versions of the tables."""
        found = self._found(plan)
        erased = self._erase_from_log()
        by = plan.erasing(self._stream)
        by.ids.update(erased["ids"])
        made = self._erase_from_tables(by)
        acts = self._erase_from_dispatcher(sorted(by.ids, key=str))
        files = self._delete_files(by)
        left = self._count(plan.erasing(self._stream), erased["end"])
        if any(left["log"].values()) or any(left["tables"].values()):
            raise JobFailed(
                "Something of the subject is still there after it was erased.",
                code="NOT_ERASED",
                next_action="Erase it again: it goes on from here. The log of this job says where it is.",
            )
        proof = {**self._told(plan, found), "left": left, "copies": erased["copies"], **files, "acts": acts}
        proof["until"] = self._until(plan)
        proof["tables"] = {name: asdict(version) for name, version in made.items()}
        return proof

    # Finding

    def _plan(self, field: str, value: int | str) -> ErasingWork:
        features = [spec for spec in self._job.app.feature_sets if spec.source == self._stream.name]
        counted = _counted_by(self._job.app, self._stream.name)
        kept = kept_of(self._stream, features, counted, field)
        by = Erasing(self._stream, field, value, kept, os.urandom(SECRET_BYTES))
        with self._reader() as reader:
            end = reader.sync()
            for record in self._records(reader, end, "looking for it"):
                by.find(record)
                if record.kind is RecordKind.CONTROL:  # what decides, or has decided, need not be declared any more
                    told = decode_control(record.payload)
                    counted |= {str(own.get("by", "")) for own in (*told.budgets, *told.counters)}
                    if (
                        told.features is not None
                        and (spec := FeatureSetSpec.model_validate(told.features)) not in features
                    ):
                        features.append(spec)
            given_up = reader.first_offset
        by.kept = kept_of(self._stream, features, counted, field)
        by.references = references_about(self._stream, features, field)
        events = self._stream.name
        if given_up and (version := self._version(events)) is not None:
            for frame in self._tables.scan(self._job.table(events), version):
                by.find_rows(frame)
        return ErasingWork(
            field,
            value,
            sorted(by.kept.fields),
            by.kept.linked,
            by.secret,
            sorted(by.references),
            end,
            sorted(by.ids, key=str),
            sorted(by.offsets),
            self._job.inputs["subject"]["digest"],
        )

    def _forget(self, said: str) -> None:
        if said:
            self._job.objects.delete(said)

    def _said(self) -> bytes:
        """It is uploaded behind the request. Raises NotFound."""
        deadline = time.monotonic() + UPLOAD_S
        while True:
            try:
                return self._job.objects.get(self._job.inputs["subject"]["digest"])
            except NotFound:
                if time.monotonic() > deadline:
                    raise
                time.sleep(EVERY_S)

    def _subject(self) -> tuple[str, int | str]:
        """Raises InvalidInput (NO_SUBJECT, UNKNOWN_FIELD, BAD_SUBJECT)."""
        try:
            said = json.loads(self._said())
            field, text, _ = said["field"] or self._stream.key, str(said["value"]), said["beside"]
        except (NotFound, ValueError, KeyError, TypeError) as error:  # some other object, which is not ours to delete
            raise InvalidInput(
                "It is not said who is to be erased.",
                code="NO_SUBJECT",
                next_action="Ask for it again: `skyriver erase STREAM KEY`.",
            ) from error
        try:
            return field, self._value(field, text)
        except InvalidInput:  # it will not be asked for again
            self._forget(self._job.inputs["subject"]["digest"])
            raise

    def _value(self, field: str, text: str) -> int | str:
        spec = next((own for own in self._stream.fields if own.name == field), None)
        if spec is None or spec.type not in ("int", "text"):
            fits = ", ".join(own.name for own in self._stream.fields if own.type in ("int", "text"))
            raise InvalidInput(
                f"{self._stream.name} has no field {field!r} that names somebody.",
                code="UNKNOWN_FIELD",
                next_action=f"It has {fits}.",
            )
        if spec.type == "text":
            return text
        try:
            return int(text)
        except ValueError as error:
            raise InvalidInput(
                f"{field} of {self._stream.name} is a whole number.",
                code="BAD_SUBJECT",
                where=field,
                next_action="Ask for it again with the number, or with --field for another field.",
            ) from error

    def _records(self, reader: WholeReader, end: int, stage: str) -> Iterator[Record]:
        first, told = reader.first_offset, -TOLD_EVERY
        for record in reader.read(first, end=end):
            if record.offset - told >= TOLD_EVERY:
                told = record.offset
                self._job.progress(stage, record.offset - first, end - first)
            yield record

    def _found(self, plan: ErasingWork) -> dict[str, Any]:
        """Counted once: a job that goes on would find less."""
        path = self._path.with_suffix(".found")
        if not path.exists():
            replace_file(path, json.dumps(self._count(plan.erasing(self._stream), plan.end)).encode())
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found

    def _count(self, by: Erasing, end: int) -> dict[str, Any]:
        """What there is of it: rows of the log by their kind, of tables by their names."""
        log: Counter[str] = Counter()
        with self._reader() as reader:
            for record in self._records(reader, end, "counting what is in the log"):
                by.rows = 0
                by.find(record)
                by.changed(record)
                log[record.kind.name.lower()] += by.rows
        tables: dict[str, int] = {}
        for name, changed in self._rewritings(by):
            version = self._version(name)
            by.rows = 0
            for frame in self._tables.scan(self._job.table(name), version) if version is not None else ():
                changed(frame)
            tables[name] = by.rows
        return {"log": {kind: count for kind, count in log.items() if count}, "tables": tables}

    # Erasing

    def _erase_from_log(self) -> dict[str, Any]:
        """By the stream's worker, which alone may write it (see `skyriver.wiring.erasing.Erased`)."""
        while True:
            erased = self._ask("worker", f"{self._stream.name}-0", f"/internal/erase/{self._path.name}")
            self._job.progress("writing the log once more", erased["parts"], erased["of"])
            if erased["state"] == "done":
                return erased
            time.sleep(EVERY_S)

    def _erase_from_dispatcher(self, ids: list[Id]) -> int:
        """Deliveries and cases: how many there were. Where nothing is declared any more no process has the file."""
        file = self._directory / "dispatch" / "state.sqlite"
        if not file.exists():
            return 0
        if self._job.inputs.get("dispatcher", True):
            acts = int(self._ask("dispatcher", self._stream.name, "/internal/erase", {"ids": ids})["erased"])
        else:
            acts = erase_in_file(file, self._stream, self._job.tenant, ids)
        path = self._path.with_suffix(".acts")  # a job that goes on would find none
        acts += int(path.read_text()) if path.exists() else 0
        replace_file(path, str(acts).encode())
        return acts

    def _ask(self, kind: str, name: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One of the stream's processes, which may be away for a while. Raises what it answers, and Unavailable."""
        socket = socket_path(self._job.home.sockets, f"{self._job.tenant}.{kind}.{name}")

        def send() -> httpx.Response:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=AWAY_S) as http:
                return http.post(f"http://{kind}{path}", json=body)

        def away(failed: httpx.TransportError) -> Unavailable:
            return Unavailable(
                f"The stream's {kind} does not answer: {failed}.",
                code="PROCESS_AWAY",
                next_action="`skyriver ps` shows its state; the erasure goes on by itself once it is READY.",
            )

        return asked_until(send, away, seconds=AWAY_S, every=EVERY_S)

    def _erase_from_tables(self, by: Erasing) -> dict[str, Any]:
        made = {}
        for name, changed in self._rewritings(by):
            if self._version(name) is not None:
                known = self._job.known_version(name)
                made[name] = self._tables.rewrite(self._job.table(name), changed, known=known)
        return made

    def _rewritings(self, by: Erasing) -> Iterator[tuple[str, Rewritten]]:
        events, labels, decisions, dead, *references = tables_of_stream(self._stream)
        yield events, by.changed_events
        yield labels, lambda frame: by.changed_ids(frame, "subject")
        yield decisions, by.changed_decisions
        yield dead, by.changed_refused
        yield rejected_table(self._stream.name), by.changed_refused
        for index, name in enumerate(references):
            yield name, _of_reference(by, index)
        for name, columns in self._predictions("tables").items():
            if naming(by, columns):
                yield name, partial(changed_predictions, by, columns=columns)
            yield f"{name}.dead", by.changed_refused

    def _version(self, name: str) -> int | None:
        try:
            return self._tables.latest(self._job.table(name)).version
        except NotFound:
            return None

    def _delete_files(self, by: Erasing) -> dict[str, int]:
        """Files that were loaded into the stream, whose rows are in its log; rows of replays, which name subjects, and
        files of predictions that do; what was predicted of, which nobody reads again, and what is left of doing so."""
        answers = [f["digest"] for f in self._predictions("files").values() if naming(by, f["columns"])]
        given = {kind: self._job.inputs.get(kind, ()) for kind in ("files", "replays")}
        given["predictions"] = [*answers, *self._predictions("uploads")]
        for digests in given.values():
            for digest in digests:
                self._job.objects.delete(digest)
        for name in self._predictions("jobs"):
            shutil.rmtree(self._job.home.predictions / self._job.tenant / name, ignore_errors=True)
        return {kind: len(digests) for kind, digests in given.items()}

    def _predictions(self, of: str) -> Any:
        """What `serve.predicted` found; empty for a job of a release that did not look."""
        return self._job.inputs.get("predictions", {}).get(of, {})

    def _unreached(self, by: Erasing) -> list[str]:
        """Predictions that do not say of whom they are, or not by what names the subject."""
        tables = [f"table {name}" for name, columns in self._predictions("tables").items() if not naming(by, columns)]
        files = [
            f"file {name}"
            for name, file in self._predictions("files").items()
            if not naming(by, file["columns"]) and self._job.objects.has(file["digest"])
        ]
        return tables + files

    def _destroy(self, plan: ErasingWork) -> None:
        """The secret, and who it was."""
        self._forget(plan.said)
        for beside in (".found", ".acts"):
            self._path.with_suffix(beside).unlink(missing_ok=True)
        with self._path.open("r+b") as file:
            file.write(bytes(self._path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        self._path.unlink()
        sync_folder(self._path.parent)

    # Telling

    def _told(self, plan: ErasingWork, found: dict[str, Any]) -> dict[str, Any]:
        return {
            "stream": self._stream.name,
            "field": plan.subject,
            "events": len(plan.offsets),
            "found": found,
            "kept": [name for name in plan.fields if name != self._stream.time],
            "linked": plan.linked,
            "versions": self._job.inputs.get("versions", []),
            "unreached": self._unreached(plan.erasing(self._stream)),
        }

    def _until(self, plan: ErasingWork) -> str | None:
        """When the last of its events has left all windows, by the time of the stream's events."""
        features = [spec for spec in self._job.app.feature_sets if spec.source == self._stream.name]
        reach = max((plan_features(spec, self._stream).reach for spec in features), default=0)
        last = plan.offsets[-1] if plan.offsets else None
        if last is None:
            return None
        with self._reader() as reader:
            if last < reader.first_offset:
                return None
            record = next(iter(reader.read(last)))
        at = (record.time + reach) / 1e6
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="minutes") if at < 4e9 else None

    def _reader(self) -> Any:
        job = self._job
        return log_reader(self._stream, self._directory, job.home.root, job.tenant, open_tier(job.home))


def _counted_by(app: AppSpec, stream: str) -> set[str]:
    """The fields by whose values budgets and counters of its decisions count."""
    own = [decide for decide in app.decides if decide.stream == stream]
    return {*(b.by for decide in own for b in decide.budgets), *(c.by for decide in own for c in decide.counters)}


def _of_reference(by: Erasing, index: int) -> Callable[[pl.DataFrame], pl.DataFrame | None]:
    return lambda frame: by.changed_references(index, frame)
