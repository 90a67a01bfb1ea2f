"""The routes by which MLflow's clients keep files of runs and logged models here, and get them and those of versions.

A file is an object, and its path a name in the row it belongs to. What serves comes back checked: the model file of a
version is given only if its record is the one that was signed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from skyriver.control.mlflow import records, room, shown, trainings
from skyriver.control.mlflow.experiments import READ
from skyriver.control.mlflow.protocol import ARTIFACTS, ASKED, Asked, Board, add_route
from skyriver.control.mlflow.records import put
from skyriver.control.mlflow.sources import MLMODEL, Place, mlmodel, place_of
from skyriver.control.routes import caller
from skyriver.control.uploads import take_upload
from skyriver.core.errors import Conflict, NotFound
from skyriver.core.resources import Resource, Snapshot
from skyriver.trust.permissions import Permission

_BYTES = "application/octet-stream"


def add_artifacts(board: Board) -> None:
    cloud = board.cloud

    def listed(asked: Asked = ASKED) -> JSONResponse:
        path = asked.text("path", "").strip("/")
        if not path or path.split("/")[0] == "experiments":
            return JSONResponse({"files": []})
        place = place_of(board.snapshot(), asked.who.tenant, path)
        return JSONResponse({"files": shown.listed(_sizes(place), place.path)})

    def of_run(asked: Asked) -> dict[str, Any]:
        ident, under = asked.text("run_id", "") or asked.text("run_uuid"), asked.text("path", "").strip("/")
        place = place_of(board.snapshot(), asked.who.tenant, f"runs/{ident}/{under}")
        files = shown.listed(_sizes(place), place.path)
        told = [{**file, "path": f"{under}/{file['path']}" if under else file["path"]} for file in files]
        return {"root_uri": f"mlflow-artifacts:/runs/{ident}", "files": told}

    def download(asked: Asked = ASKED) -> Response:
        place = place_of(board.snapshot(), asked.who.tenant, asked.text("path"))
        file = place.files.get(place.path)
        if file is None:
            raise NotFound(
                f"There is no file {place.path!r:.120} of {place.row.name}.",
                where="path",
                next_action="`list_artifacts` shows those there are.",
            )
        if place.is_version and cloud.signer is not None:
            cloud.signer.check(place.row)
        if place.is_version and place.path == MLMODEL:
            return Response(mlmodel(place.row), media_type="text/plain")
        return FileResponse(cloud.objects.open_path(str(file["digest"])), media_type=_BYTES)

    async def upload(request: Request, path: str) -> JSONResponse:
        who, most = caller(request), cloud.artifact_bytes

        def begin() -> int:
            snapshot = board.snapshot()
            _writable(snapshot, who.tenant, path)
            if (left := most - room.uploaded(snapshot, who.tenant)) <= 0:
                raise room.too_many_bytes(most)
            return left

        left = await run_in_threadpool(begin)  # before a body is taken
        digest, size = await take_upload(cloud, _bounded(request.stream(), left, most))

        def write() -> None:
            def plan(snapshot: Snapshot) -> list[Any]:
                place = _writable(snapshot, who.tenant, path)
                known = records.files_of(place.row).get(place.path, {}).get("digest")
                written = put(records.with_file(place.row, place.path, digest, size))
                if known == digest:
                    return [written]  # sent again, after its answer was lost
                return [written, room.with_upload(snapshot, who.tenant, size, most)]

            board.write(Asked(who, {}), Permission.OBJECTS_WRITE, "upload", f"object/{digest}", plan)

        await run_in_threadpool(write)
        return JSONResponse({})

    def delete(asked: Asked = ASKED) -> JSONResponse:
        path = asked.text("path")

        def plan(snapshot: Snapshot) -> list[Any]:
            place = _writable(snapshot, asked.who.tenant, path)
            return [put(_without(place))]

        board.write(asked, Permission.OBJECTS_WRITE, "delete_artifact", path[:300], plan)
        return JSONResponse({})

    one = f"{ARTIFACTS}/{{path:path}}"
    add_route(board.routes, "GET", ARTIFACTS, READ, "nothing", listed)
    add_route(board.routes, "GET", one, Permission.OBJECTS_READ, "nothing", download)
    add_route(board.routes, "PUT", one, Permission.OBJECTS_WRITE, "audited", upload)
    add_route(board.routes, "DELETE", one, Permission.OBJECTS_WRITE, "audited", delete)
    board.add("GET", "artifacts/list", READ, "nothing", of_run)


async def _bounded(chunks: AsyncIterator[bytes], left: int, most: int) -> AsyncIterator[bytes]:
    """Raises QuotaExceeded (TOO_MANY_BYTES) past `left` bytes."""
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise room.too_many_bytes(most)
        yield chunk


def _sizes(place: Place) -> dict[str, int]:
    return {path: int(file["bytes"]) for path, file in place.files.items()}


def _writable(snapshot: Snapshot, tenant: str, path: str) -> Place:
    """Raises as `place_of`, and Conflict (READ_ONLY, DELETED)."""
    place = place_of(snapshot, tenant, path)
    if place.is_version:
        raise Conflict(
            f"{place.row.name} is a version, and signed: its files stay as they are.",
            code="READ_ONLY",
            where="path",
            next_action="Log the model anew and make another version of it.",
        )
    trainings.check_not_ours(snapshot, tenant, place.row.name)
    records.check_active(place.row)
    records.check_path(place.path)
    return place


def _without(place: Place) -> Resource:
    """A file, or all that is in a folder. Raises NotFound."""
    files = records.files_of(place.row)
    kept = {path: file for path, file in files.items() if path != place.path and not path.startswith(f"{place.path}/")}
    if len(kept) == len(files):
        raise NotFound(
            f"There is no file {place.path!r:.120} of {place.row.name}.",
            where="path",
            next_action="`list_artifacts` shows those there are.",
        )
    return records.updated(place.row, files=kept)
