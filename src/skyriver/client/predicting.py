"""`skyriver predict`: one answer from named fields, or answers for all rows of a table or of files."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from skyriver.client import show
from skyriver.client.loading import upload_files
from skyriver.client.rows import file_format, read_text
from skyriver.client.screen import Bars, Screen
from skyriver.client.shell import Json, app, connect, parameters_of, wait
from skyriver.core.errors import Conflict, Corrupt, InvalidInput, NotFound, SkyriverError, Unavailable, disk_error
from skyriver.core.names import ModelRef

if TYPE_CHECKING:
    from skyriver.client.api import Client

PIECE = 8 << 20


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="MODEL; with rows of a table or files also MODEL@ALIAS, MODEL:VERSION.")],
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE... | TABLE | FILE...]", help="One row's fields; or what holds many rows."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="One row as a JSON object, @FILE, or - for standard input.")] = None,
    to: Annotated[str, typer.Option(help="A table, or a file (.parquet, .csv, .jsonl) for the answers.")] = "",
    key: Annotated[list[str] | None, typer.Option(help="A column of the files that the answers keep.")] = None,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="The share of rows that may be bad.")] = 0.05,
    cores: Annotated[int, typer.Option(min=1, help="Cores to score on.")] = 1,
    as_json: Json = False,
) -> None:
    """Predict: one row from its fields, or all rows of a table or of files (CSV, Parquet, JSON lines).

    Answers for many rows go into the table --to names (MODEL-predictions), or into a file. Rows that are refused are
    set aside with their number and the reason."""
    screen = Screen(as_json=as_json)
    ref = ModelRef.parse(model)
    fields, sources = _sorted(given or [])
    if sources:
        if data or fields:
            raise _usage("Fields of one row are given, and rows besides.")
        _predict_many(screen, model, sources, to=to, key=key or [], max_bad=max_bad, cores=cores)
        return
    if to or key:
        raise _usage("--to and --key are for the rows of a table or of files.")
    _predict_one(screen, ref, model, _json_argument(data) if data else parameters_of(fields))


def _sorted(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Fields, and what holds rows: what has a = and is no file is a field."""
    sources = [item for item in given if "=" not in item or Path(item).is_file()]
    return [item for item in given if item not in sources], sources


def _usage(why: str) -> InvalidInput:
    return InvalidInput(
        why,
        code="USAGE",
        next_action="Write `skyriver predict MODEL FIELD=VALUE...`, `skyriver predict MODEL TABLE` or"
        " `skyriver predict MODEL FILE... --to FILE`.",
    )


# One row


def _predict_one(screen: Screen, ref: ModelRef, model: str, row: Mapping[str, Any]) -> None:
    if ref.version or ref.alias not in ("", "champion"):
        raise InvalidInput(
            "Named fields are answered by the version that serves.",
            code="NOT_THE_CHAMPION",
            where=model,
            next_action=f"Leave the version out, ask POST /v2/models/{ref.model}/versions/N/infer, or give a file.",
        )
    with connect() as client:
        try:
            answer = client.predict(ref.model, row)
        except Unavailable as error:
            if (known := _without_version(client, ref.model, error)) is None:
                raise
            raise known from error
        except NotFound as error:
            if (undeclared := _undeclared(client, ref.model)) is None:
                raise
            raise undeclared from error
    screen.data(answer, lambda: show.prediction(screen, answer))


def _without_version(client: Client, model: str, error: Unavailable) -> Unavailable | None:
    """The gateway does not know whether there is nothing yet, or nothing now; the service does."""
    if error.code != "NO_CAPACITY":
        return None
    try:
        service = client.get("services", model)
    except SkyriverError:
        return None
    if service["reason"] != "NO_VERSION":
        return None
    return Unavailable(service["message"], code="NO_VERSION", where=error.where, next_action=service["next_action"])


def _undeclared(client: Client, model: str) -> Conflict | None:
    """The gateway does not know of a model that nothing serves; the registry does."""
    try:
        found = client.get("models", model)
    except SkyriverError:
        return None
    if found["reason"] != "UNDECLARED":
        return None
    action = f"{found['next_action']} Rows are scored by `skyriver predict {model}:1 FILE --to FILE`."
    return Conflict(found["message"], code="UNDECLARED", where=f"model/{model}", next_action=action)


def _json_argument(text: str) -> dict[str, Any]:
    source = sys.stdin.read() if text == "-" else read_text(Path(text[1:])) if text.startswith("@") else text
    action = "Give an object of named fields, as in '{\"amount\": 9.5}'."
    try:
        found = json.loads(source, parse_constant=_no_number)
    except ValueError as error:
        raise InvalidInput(f"--data is not JSON: {error}.", code="BAD_JSON", next_action=action) from error
    if not isinstance(found, dict):
        raise InvalidInput("--data is JSON, but not an object.", code="BAD_JSON", next_action=action)
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it has no {text}; write null for a value that is missing")


# Many rows


def _predict_many(
    screen: Screen, model: str, sources: Sequence[str], *, to: str, key: Sequence[str], max_bad: float, cores: int
) -> None:
    place = Path(to)
    params: dict[str, Any] = {"to": place.name, "key": list(key), "max_bad": max_bad, "cores": cores}
    if place.suffix and not place.parent.is_dir():
        raise InvalidInput(f"There is no folder {place.parent}.", code="NO_FOLDER", next_action="Make it first.")
    with connect() as client, screen.progress() as bars:
        inputs = _inputs(client, sources, bars)
        operation = client.act("predict", model, params=params, inputs=inputs)
        done = wait(client, operation, bars)
        report: dict[str, Any] = {"job": operation, **done["status"]["result"]["predict"]}
        report["files"] = _download(client, report["artifacts"], place.parent, bars)
    screen.data(report, lambda: _show(screen, report))


def _inputs(client: Client, sources: Sequence[str], bars: Bars) -> dict[str, Any]:
    """A single word that is no file's name is a table's."""
    if len(sources) == 1 and not Path(sources[0]).suffix and not Path(sources[0]).exists():
        _check_table(client, sources[0])
        return {"table": sources[0]}
    paths = [Path(source) for source in sources]
    formats = [file_format(path) for path in paths]
    uploaded = zip(paths, formats, upload_files(client, paths, bars), strict=True)
    return {"files": [{"digest": d, "name": path.name, "format": kind} for path, kind, d in uploaded]}


def _check_table(client: Client, name: str) -> None:
    """Whoever forgot a field's value did not mean a table."""
    try:
        client.get("tables", name)
    except NotFound as error:
        raise NotFound(
            error.message,
            code=error.code,
            where=error.where,
            next_action=f"`skyriver table list` shows what there is; a field of one row is written {name}=VALUE.",
        ) from error


def _download(client: Client, artifacts: Mapping[str, Any], folder: Path, bars: Bars) -> list[str]:
    files = []
    for name, kept in sorted(artifacts.items(), key=lambda item: ".dead." in item[0]):
        path = folder / name
        _fetch(client, kept["digest"], path, lambda done, total, name=name: bars.tell(name, done, total))  # type: ignore[misc]
        bars.done(name)
        files.append(str(path))
    return files


def _fetch(client: Client, digest: str, path: Path, told: Callable[[int, int], None]) -> None:
    """An object of any size as a file, which appears once it is whole."""
    temporary, found = path.with_name(f".{path.name}.part"), hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            done, total = 0, 1
            while done < total:
                piece, total = client.object_part(digest, done, PIECE)
                file.write(piece)
                found.update(piece)
                done += len(piece)
                told(done, total)
        if found.hexdigest() != digest:
            raise Corrupt("The file changed on its way here.", where=str(path), next_action="Fetch it once more.")
        temporary.replace(path)
    except OSError as error:
        raise disk_error(error, "The answers cannot be written", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _show(screen: Screen, report: Mapping[str, Any]) -> None:
    counts = report["counts"]
    head = f"{report['model']}:{report['version']}"
    screen.out.print(f"{head} scored [bold]{counts['rows_scored']:,}[/] rows in {report['seconds']:.1f} s.")
    for reason, count in report["bad_by_reason"].items():
        screen.out.print(f"  set aside: {count:,} x {reason}")
    for bad in report["examples"][: show.EXAMPLES]:
        screen.say(f"    {escape(bad['file'])}, row {bad['row']}: {escape(bad['message'])}")
    if report["ignored_columns"]:
        screen.say(f"  columns that the model does not take: {', '.join(report['ignored_columns'])}")
    if report["resumed"]:
        screen.out.print(f"  {report['resumed']:,} rows were scored by an attempt before, and not again")
    if report["began_anew"]:
        screen.out.print("  what was to be scored changed since an attempt before: what had changed was scored anew")
    for file in report["files"]:
        screen.out.print(f"  {'answers' if Path(file).name == report['to'] else 'refused rows'}  {escape(file)}")
    for name, version in report["tables"].items():
        what = "refused rows" if name == f"{report['to']}.dead" else "answers"
        screen.out.print(f"  {what}  table {name}, version {version['version']}, {version['rows']:,} rows in all")
