"""The commands for what runs and ends: runs of models and jobs, jobs, schedules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from skyriver.client import show, version_page
from skyriver.client.screen import Screen
from skyriver.client.shell import Json, act_and_tell, all_of, app, connect, noun, parameters_of, wait
from skyriver.core.errors import InvalidInput, JobFailed, NotFound
from skyriver.core.names import check_artifact
from skyriver.core.units import SECOND, parse_duration

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.core.contract import Resource

job_noun = noun("job", "jobs", "Jobs: each is one piece of a run.", lists=False, gets=False)
_schedules = noun("schedule", "schedules", "Schedules: jobs that begin by the clock.")
noun("task", "tasks", "Tasks: the jobs that applications declare.")

Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.command()
def run(
    name: Annotated[str | None, typer.Argument(help="A model or a declared job (default: the only model).")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="NAME=VALUE for the function.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    timeout: Annotated[str, typer.Option(help='Wait no longer than, e.g. "10m"; it goes on.')] = "",
    as_json: Json = False,
) -> None:
    """Train a model (data, features, fit, compress, gate, rollout), or run a job with all that it needs."""
    screen = Screen(as_json=as_json)
    seconds = parse_duration(timeout, "a time to wait") / SECOND if timeout else None
    with connect() as client:
        target, action = _target(client, name)
        operation = client.act(action, target, params=parameters_of(param or []))
        screen.say(f"{'Training' if action == 'train' else 'Running'} [bold]{target}[/] as {operation}.")
        if detach:
            screen.data({"operation": operation}, lambda: screen.out.print(operation))
            return
        try:
            with screen.progress() as bars:
                done = wait(client, operation, bars, timeout=seconds)
        except JobFailed as error:
            if error.code == "GATE_FAILED" and not as_json:
                version_page.version(screen, client.get("versions", error.where.partition("/")[2]))
            raise
        if action == "train":
            version = next(r for r in done["status"]["created"] if r.startswith("version/")).partition("/")[2]
            found = client.get("versions", version)
            screen.data({"operation": done, "version": found}, lambda: _show_version(screen, found))
        else:
            outputs = done["status"]["result"][target]
            screen.data({"operation": done, "outputs": outputs}, lambda: _show_outputs(screen, outputs))


def _target(client: Client, name: str | None) -> tuple[str, str]:
    """What is run, and the action for it."""
    if name is None:
        models = [(r["name"], "train") for r in client.list("models")]
        tasks = [(r["name"], "run") for r in client.list("tasks")]
        for known in (models, [*models, *tasks]):
            if len(known) == 1:
                return known[0]
        raise InvalidInput(
            f"There are {len(models)} models and {len(tasks)} jobs: {', '.join(n for n, _ in known) or 'none'}.",
            code="WHICH",
            next_action="Name the one to run." if known else "`skyriver deploy APP.py` first.",
        )
    for kinds, action in (("tasks", "run"), ("models", "train")):
        with suppress(NotFound):
            client.get(kinds, name)
            return name, action
    raise NotFound(
        f"There is no model or job {name!r}.",
        next_action=f"`skyriver task list` and `skyriver model list` show what there is."
        f"{_near(name, [r['name'] for kinds in ('tasks', 'models') for r in client.list(kinds)])}",
    )


def _near(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3)
    return f" Near to it: {', '.join(close)}." if close else ""


def _show_version(screen: Screen, found: Resource) -> None:
    version_page.version(screen, found)
    if found["message"]:
        screen.say(escape(found["message"]))


def _show_outputs(screen: Screen, outputs: Any) -> None:
    for one in outputs if isinstance(outputs, list) else [outputs]:
        if one.get("result") is not None:
            screen.out.print(escape(json.dumps(one["result"])))
        for name, kept in one.get("artifacts", {}).items():
            screen.say(f"  artifact {escape(name)}, {kept['bytes']:,} bytes")


@job_noun.command("list")
def job_list(
    everything: Annotated[bool, typer.Option("--all", help="Those too by which streams write their tables.")] = False,
    as_json: Json = False,
) -> None:
    """The jobs there are, newest first."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        every, damaged = all_of(client.list("jobs"))
    found = [job for job in every if everything or not _of_a_stream(job)]
    found.sort(key=lambda job: (-job["created_at"], show.in_order(job["name"])))
    screen.data(found, lambda: show.resources(screen, "jobs", found, as_given=True))
    if damaged is not None:
        raise damaged


def _of_a_stream(job: Resource) -> bool:
    """Nobody asked for it: the stream brings its table up to date from time to time."""
    return job["spec"]["kind"] == "materialise" and job["parent"].startswith("stream/")


@job_noun.command("cancel")
def job_cancel(name: Name, as_json: Json = False) -> None:
    """End a job, or a run with all its jobs."""
    screen = Screen(as_json=as_json)
    with connect() as client, screen.progress() as bars:
        operation = client.act("cancel", name)
        try:
            done = wait(client, operation, bars)
        except JobFailed as error:
            if error.code != "CANCELLED":
                raise
            done = client.get("operations", operation)
    screen.data(done, lambda: screen.say(f"{name} is cancelled."))


@job_noun.command("history")
def job_history(name: Name, as_json: Json = False) -> None:
    """The runs of a declared job, or the attempts of one job or of all jobs of a run."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        kinds, found = _job_task_or_run(client, name)
        if kinds == "tasks":
            runs = [
                r for r in client.list("operations") if r["spec"]["target"] == name and r["spec"]["action"] == "run"
            ]
            screen.data(runs, lambda: show.resources(screen, "operations", runs))
            return
        jobs = [found] if kinds == "jobs" else _jobs_of(client, name)
    attempts = [
        attempt if kinds == "jobs" else {"job": job["name"], **attempt}
        for job in jobs
        for attempt in job["status"].get("attempts", [])
    ]
    screen.data(attempts, lambda: _show_attempts(screen, name, attempts))


def _job_task_or_run(client: Client, name: str) -> tuple[str, Resource]:
    for kinds in ("jobs", "tasks", "operations"):
        with suppress(NotFound):
            return kinds, client.get(kinds, name)
    raise NotFound(
        f"There is no job or run {name!r}.",
        next_action="`skyriver job list` shows the jobs that ran, `skyriver task list` those that are declared."
        f"{_near(name, [r['name'] for kinds in ('jobs', 'tasks', 'operations') for r in client.list(kinds)])}",
    )


def _show_attempts(screen: Screen, name: str, attempts: Sequence[Mapping[str, Any]]) -> None:
    if not attempts:
        screen.say(f"No attempt of {name} has failed.")
        return
    rows = [
        (
            *((a["job"],) if "job" in a else ()),
            a["attempt"],
            a["reason"],
            "" if a["exit_code"] is None else a["exit_code"],
            f"{(a['ended'] - a['started']) / SECOND:.1f} s",
            f"{a['peak_mb']:.0f} MB" if a["peak_mb"] else "",
            a["message"],
        )
        for a in attempts
    ]
    first = ("JOB",) if "job" in attempts[0] else ()
    screen.table("", (*first, "ATTEMPT", "REASON", "EXIT", "RAN", "MEMORY", "MESSAGE"), rows)


@job_noun.command("artifacts")
def job_artifacts(
    name: Name,
    download: Annotated[Path | None, typer.Option(help="Write them into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """What a job, or the jobs of a run, saved."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        found = [
            {"job": job["name"], "name": artifact, **kept}
            for job in _jobs_of(client, name)
            for artifact, kept in _artifacts(job).items()
        ]
        several = len({item["job"] for item in found}) > 1
        for item in found if download is not None else ():
            assert download is not None
            folder = download / item["job"] if several else download
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / check_artifact(item["name"])  # as the job's process told it: it must not lead out of here
            file.write_bytes(client.object(item["digest"]))
            item["file"] = str(file)
    screen.data(found, lambda: _show_artifacts(screen, name, found))


def _jobs_of(client: Client, name: str) -> list[Resource]:
    try:
        names = client.get("operations", name)["spec"]["jobs"]
    except NotFound:
        names = [name]
    return [client.get("jobs", job) for job in names]


def _artifacts(job: Resource) -> dict[str, dict[str, Any]]:
    """Those of a training are told by their digests alone."""
    known = job["status"].get("outputs", {}).get("artifacts", {})
    return {name: kept if isinstance(kept, dict) else {"digest": kept, "bytes": None} for name, kept in known.items()}


def _show_artifacts(screen: Screen, name: str, found: Sequence[Mapping[str, Any]]) -> None:
    if not found:
        screen.say(f"{name} has saved nothing.")
        return
    last = "FILE" if "file" in found[0] else "SHA-256"
    if all(a["bytes"] is None for a in found):
        screen.table("", ("JOB", "NAME", last), [(a["job"], a["name"], a.get("file", a["digest"])) for a in found])
        return
    rows = [
        (a["job"], a["name"], "" if a["bytes"] is None else f"{a['bytes']:,}", a.get("file", a["digest"]))
        for a in found
    ]
    screen.table("", ("JOB", "NAME", "BYTES", last), rows)


@_schedules.command("pause")
def schedule_pause(name: Name, as_json: Json = False) -> None:
    """Begin nothing more by the clock; what runs goes on."""
    act_and_tell("schedule", name, "pause", as_json=as_json)


@_schedules.command("resume")
def schedule_resume(name: Name, as_json: Json = False) -> None:
    """Go on with the next time."""
    act_and_tell("schedule", name, "resume", as_json=as_json)
