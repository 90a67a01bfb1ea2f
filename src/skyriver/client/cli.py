"""The command line: few verbs, nouns with the same verbs everywhere (DESIGN section 8).

Exit codes: 0 ok, 1 internal, 2 usage, 3 not found, 4 not allowed, 5 quota, 6 conflict, 7 unavailable, 100 job failed,
101 not finished, 103 cancelled. What starts and ends the cloud of this machine comes in as a `Machine`
(skyriver.client.shell).
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from skyriver.client import audit as _audit  # noqa: F401
from skyriver.client import costs as _costs  # noqa: F401
from skyriver.client import curves as _curves  # noqa: F401  # its commands
from skyriver.client import deciding as _deciding  # noqa: F401  # its commands
from skyriver.client import erasing as _erasing  # noqa: F401  # its command
from skyriver.client import incidents as _incidents  # noqa: F401
from skyriver.client import jobs as _jobs  # noqa: F401  # its commands
from skyriver.client import keys as _keys  # noqa: F401
from skyriver.client import lineage as _lineage  # noqa: F401
from skyriver.client import lists as _lists  # noqa: F401  # its commands
from skyriver.client import machine as _machine  # noqa: F401  # its commands
from skyriver.client import predicting as _predicting  # noqa: F401  # its command
from skyriver.client import prices as _prices  # noqa: F401
from skyriver.client import requests as _requests  # noqa: F401
from skyriver.client import reviews as _reviews  # noqa: F401
from skyriver.client import rollouts as _rollouts  # noqa: F401
from skyriver.client import rules as _rules  # noqa: F401
from skyriver.client import services as _services  # noqa: F401
from skyriver.client import serving as _serving  # noqa: F401  # its command
from skyriver.client import show
from skyriver.client import sinks as _sinks  # noqa: F401
from skyriver.client import streams as _streams  # noqa: F401
from skyriver.client import tenants as _tenants  # noqa: F401
from skyriver.client import tokens as _tokens  # noqa: F401
from skyriver.client import top as _top  # noqa: F401
from skyriver.client import watches as _watches  # noqa: F401
from skyriver.client.calling import call
from skyriver.client.decision_page import show_decision
from skyriver.client.follow import LogReader, follow
from skyriver.client.loading import GivenFile, load_files, named_files
from skyriver.client.model_story import story, version_told_of
from skyriver.client.parts import explain_part, part_lines, part_named
from skyriver.client.patience import AWAY_SECONDS, Patience
from skyriver.client.registry import version_named
from skyriver.client.rows import read_rows
from skyriver.client.screen import Bars, Screen
from skyriver.client.sending import declared_types, once_ready, send_rows
from skyriver.client.shell import Json, Machine, app, confirm, connect, machine, noun, only, state, taken_up, wait
from skyriver.client.trial_page import trials
from skyriver.core.errors import Conflict, InvalidInput, JobFailed, NotFound, QuotaExceeded, Unavailable
from skyriver.core.names import ModelRef

if TYPE_CHECKING:
    from skyriver.client.api import Client
    from skyriver.client.appfile import Bundle
    from skyriver.core.contract import Deployed
    from skyriver.core.spec import AppSpec


@app.command()
def init(
    example: Annotated[str, typer.Argument(help="risk or diagnosis, or keras_sample.")] = "risk",
    folder: Annotated[Path | None, typer.Argument(help="Where to write it (default: ./EXAMPLE).")] = None,
) -> None:
    """Write an example application into a folder, to start from."""
    source = machine().examples() / example
    known = sorted(p.name for p in machine().examples().iterdir() if p.is_dir() and not p.name.startswith("_"))
    if example not in known:
        raise NotFound(f"There is no example {example!r}.", next_action=f"There are {', '.join(known)}.")
    target = folder or Path(example)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        what = "is not empty" if target.is_dir() else "is not a folder"
        action = f"Name another folder: `skyriver init {example} FOLDER`."
        raise Conflict(f"{target} exists and {what}.", code="EXISTS", next_action=action)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    screen = Screen(as_json=False)
    screen.say(f"Wrote {', '.join(sorted(p.name for p in target.iterdir()))} to {target}/.")
    screen.say(f"Next: [bold]skyriver up[/], then follow {target}/README.md")


@app.command()
def deploy(
    file: Annotated[Path, typer.Argument(help="The application's Python file.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, do nothing.")] = False,
    prune: Annotated[bool, typer.Option(help="Remove what is no longer in the file (never tables).")] = False,
    queue: Annotated[bool, typer.Option("--wait", help="Wait for the deployment before, if it still runs.")] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Choose the versions of its requirements anew.")] = False,
    as_json: Json = False,
) -> None:
    """Show the plan for an application file, ask, and carry it out."""
    from skyriver.client.appfile import pack  # 0.1 s that help need not wait for
    from skyriver.client.requirements import declare

    screen = Screen(as_json=as_json)
    with screen.progress() as bars:
        declared = declare(machine(), state["home"], file, bars.tell, upgrade=upgrade)
    spec, bundle = declared.spec, pack(file)
    with connect() as client, declared.placing():
        body = deploy_request(client, spec, bundle, file, declared.lock)
        plan = client.deploy(spec.name, body, dry_run=True, prune=prune)
        if not as_json:
            show.plan(screen, spec.name, plan["plan"])
        changes = [line for line in plan["plan"] if line["action"] in ("create", "update", "remove")]
        if dry_run and not as_json:
            _try_out(client, screen, spec, changes)
        if dry_run or not changes:
            screen.data(plan, lambda: screen.say("Nothing to do." if not changes else "Dry run: nothing was done."))
            return
        confirmed = ""
        if not yes:
            confirm(f"Carry out {len(changes)} changes?")
            confirmed = plan["plan_digest"]
        with screen.progress() as bars:
            try:
                done = _carry_out(client, bars, spec.name, {**body, "plan_digest": confirmed}, prune=prune, queue=queue)
            except Conflict as error:
                if error.code == "PLAN_CHANGED":
                    show.plan_difference(screen, changes, error.details)
                raise
            ended = [wait(client, operation, bars) for operation in done["operations"]]
            late = _taken_up(client, bars, changes)
            missed = _unreachable(client, spec, body)
        show.warnings(screen, [line for line in missed if line not in plan["plan"]])
        screen.data(done, lambda: show.deployed(screen, spec, changes, ended))
        if late is not None:
            raise late


def _taken_up(client: Client, bars: Bars, changes: Sequence[Mapping[str, Any]]) -> Unavailable | None:
    """Once workers decide with what is declared now; or why that is not waited for any longer, which goes on."""
    late = None
    for line in changes:
        if (line["action"], line["kind"]) == ("update", "stream"):
            try:
                taken_up(client, bars, line["name"])
            except Unavailable as error:
                late = error
    return late


TRY_OUT_S: Final = 60.0
"""For which `deploy --dry-run` waits for replays: others may be before them."""


def _try_out(client: Client, screen: Screen, spec: AppSpec, changes: Sequence[Mapping[str, Any]]) -> None:
    """What services that are declared anew would have done with their own history, where there is one, and where that
    is known soon: the plan is whole without it."""
    until = time.monotonic() + TRY_OUT_S
    for line in changes:
        if (line["action"], line["kind"]) != ("update", "service"):
            continue
        try:
            with screen.progress() as bars:
                declared = spec.model(line["name"]).serve.to_json()
                found = client.advice(
                    line["name"],
                    declared=declared,
                    told=lambda done: bars.tell("replaying", done, 1.0),
                    seconds=max(0.0, until - time.monotonic()),
                )
        except (Unavailable, QuotaExceeded) as error:
            screen.say(f"{line['name']} is not tried on its own history: {error.message}")
            continue
        screen.say(f"{line['name']}, on its own history:")
        trials(screen, line["name"], found)


def _unreachable(client: Client, spec: AppSpec, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Which services cannot answer, or not keep their objective, now that the models were measured: known only once
    their replicas run."""
    if not spec.models:
        return []
    plan = client.deploy(spec.name, body, dry_run=True)
    return [line for line in plan["plan"] if (line["action"], line["kind"]) == ("warn", "service")]


def _carry_out(client: Client, bars: Bars, app: str, body: Mapping[str, Any], *, prune: bool, queue: bool) -> Deployed:
    """Deploys; with `queue` after the deployment before it, however that ended."""
    while True:
        try:
            return client.deploy(app, body, prune=prune)
        except Conflict as error:
            if error.code != "DEPLOY_RUNNING" or not queue:
                raise
            running = str(error.details[0]["operation"])
        with suppress(JobFailed):
            wait(client, running, bars)


def deploy_request(client: Client, spec: AppSpec, bundle: Bundle, file: Path, lock: bytes = b"") -> dict[str, Any]:
    """What `Client.deploy` sends; the bundle, and the lock of its requirements, are uploaded."""
    return {
        "spec": spec.to_json(),
        "spec_digest": spec.digest(),
        "code": client.upload_bytes(bundle.data),
        "main": bundle.main,
        "files": {m.onnx: _file_digest(bundle.files, m.onnx, file) for m in spec.models if m.onnx},
        "environment": client.upload_bytes(lock) if lock else "",
    }


def _file_digest(files: Mapping[str, str], name: str, app_file: Path) -> str:
    if name not in files:
        if not name.endswith(".onnx") and (app_file.resolve().parent / name).is_file():
            raise InvalidInput(
                f"{app_file.name} declares onnx={name!r}, which is no .onnx file.",
                code="NO_MODEL_FILE",
                where=str(app_file),
                next_action=f"`skyriver model import NAME {shlex.quote(name)}`, in its folder, tells how it becomes"
                " one; or return the model from a function of @app.train.",
            )
        near = get_close_matches(name, [known for known in files if known.endswith(".onnx")], n=1)
        raise InvalidInput(
            f"{app_file.name} declares onnx={name!r}, and there is no such file in its folder,"
            f" {app_file.resolve().parent}.{f' Is {near[0]!r} meant?' if near else ''}",
            code="NO_MODEL_FILE",
            where=str(app_file),
            next_action="Put the .onnx file into the application's folder and name it relative to that folder.",
        )
    return files[name]


@app.command()
def send(
    stream: Annotated[str, typer.Argument(help="The stream's name.")],
    file: Annotated[Path, typer.Argument(help="Events: JSON lines, CSV or Parquet; - for JSON lines on stdin.")],
    labels: Annotated[bool, typer.Option("--labels", help="The file holds labels, not events.")] = False,
    reference: Annotated[str, typer.Option(help="The file holds rows of this reference, not events.")] = "",
    rate: Annotated[float, typer.Option(min=0, help="Events a second; 0 is as fast as it goes.")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Events a request.")] = 100,
    as_json: Json = False,
) -> None:
    """Send events to a stream and count its decisions."""
    screen = Screen(as_json=as_json)
    if labels and reference:
        raise InvalidInput(
            "A file holds labels, or rows of a reference.",
            code="BAD_PARAMETER",
            next_action="Give --labels or --reference, one of the two.",
        )
    with connect() as client, screen.progress() as bars:
        rows = read_rows(file, declared_types(client, stream, reference) if file.suffix == ".csv" else None)
        told = lambda done: bars.tell("sent", done, len(rows))  # noqa: E731
        result = send_rows(client, stream, rows, labels=labels, reference=reference, rate=rate, batch=batch, told=told)
    screen.data(result.to_json(), lambda: show.sent(screen, result))
    if result.rejected:
        raise typer.Exit(2)


@app.command()
def rollback(
    service: Annotated[str, typer.Argument(help="The service, named like its model; NAME:VERSION or NAME@ALIAS.")],
    as_json: Json = False,
) -> None:
    """Go back to the version that served before."""
    screen = Screen(as_json=as_json)
    ModelRef.parse(service)
    with connect() as client:
        ref = ModelRef.parse(version_named(client, service))
        operation = client.act("rollback", ref.model, params={"version": ref.version} if ref.version else {})
        with screen.progress() as bars:
            done = wait(client, operation, bars)
        champion = client.get("models", ref.model)["status"]["aliases"]["champion"]
    screen.data({"operation": done, "version": champion}, lambda: screen.say(f"{ref.model}:{champion} serves again."))


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="Any name, or kind/name; supervisor, control, gateway; or decision.")],
    event: Annotated[str, typer.Argument(help="With decision: the id of its event.")] = "",
    stream: Annotated[str, typer.Option("--stream", help="With decision, where there are several streams.")] = "",
    recompute: Annotated[
        bool, typer.Option("--recompute", help="With decision: compute it again from the log, and compare.")
    ] = False,
    counters: Annotated[bool, typer.Option("--verbose", "-v", help="With what a service's replicas count.")] = False,
    as_json: Json = False,
) -> None:
    """Why something is as it is: state, reason, what to do, the last lines of its log; or why an event got its
    decision: `skyriver explain decision ID`."""
    screen = Screen(as_json=as_json)
    if (name == "decision") != bool(event):
        raise InvalidInput(
            f"{name} {event} is not understood." if event else "Of which event is the decision asked for?",
            code="USAGE",
            next_action="Write `skyriver explain NAME`, or `skyriver explain decision ID` with the id of an event.",
        )
    if event:
        with connect() as client:
            source = stream or only(client, "streams", "stream: --stream NAME")
            decision = once_ready(client, source, lambda: client.decision(source, event))
            if recompute:
                with screen.progress() as bars:
                    offset = {"offset": decision["event_offset"]}
                    done = wait(client, client.act("replay", source, params=offset), bars)
                decision["recomputed"] = done["status"]["result"]["replay"]
        screen.data(decision, lambda: show_decision(screen, source, decision))
        if recompute and not decision["recomputed"]["equal"]:
            raise typer.Exit(1)
        return
    if part := part_named(name):
        told = explain_part(part)
        screen.data([told], lambda: show.part(screen, told))
        return
    with connect() as client:
        items = client.explain(version_named(client, name))
        sentences = [] if as_json else list(_story(client, items))
    screen.data(items, lambda: show.explained(screen, items, sentences, counters=counters))


def _story(client: Client, items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of the last change of a model that is among them."""
    found = {item["kind"]: item for item in items}
    serving = version_told_of(found["model"]) if "model" in found else ""
    if serving:
        version = client.get("versions", serving)
        brought = (version["spec"]["model"], version["spec"]["version"])
        rollouts = [r for r in client.list("rollouts") if (r["spec"]["model"], r["spec"]["to"]) == brought]
        last = max(rollouts, key=lambda r: int(r["created_at"]), default=None)
        yield from story(found["model"], version, last, found.get("watch"))


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="A job, stream, service, replica; or supervisor, control, gateway.")],
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Lines from the end.")] = 100,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is printed; Ctrl-C ends.")] = False,
    as_json: Json = False,
) -> None:
    """What the processes of something printed."""
    screen = Screen(as_json=as_json)
    if part := part_named(name):
        show.log_lines(screen, part_lines(part, tail, following=following))
        return
    with connect() as client:
        say = lambda text: print(text, file=sys.stderr)  # noqa: E731
        patience = Patience(say, AWAY_SECONDS if following else 0.0)  # one look fails at once, as other commands do
        reader = LogReader(client, name, patience)
        last = reader.last(tail)
        show.log_lines(screen, last)
        if not last and tail and not following:
            print(f"{name} has printed nothing.", file=sys.stderr)
        if following:
            for lines in follow(client, name, reader, patience):
                show.log_lines(screen, lines)


@app.command()
def demo(
    scale: Annotated[str, typer.Option(help="small, or full (183 days).")] = "small",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cloud running.")] = False,
    seed: Annotated[int, typer.Option(help="Of the simulated data.")] = 0,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Of the gateway (else a free one).")] = None,
    as_json: Json = False,
) -> None:
    """The whole road on data it makes: raw events to live decisions."""
    if scale not in ("small", "full"):
        raise InvalidInput(f"--scale {scale} is not known.", code="BAD_SCALE", next_action="Use small or full.")
    from skyriver.client.demo import Options, run_demo  # weight that help need not wait for

    run_demo(machine(), Options(state["home"], scale=scale, keep=keep, seed=seed, port=port, as_json=as_json))


_apps = noun("app", "apps", "Applications.")
noun("environment", "environments", "Packages that applications brought with them.")
_tables = noun("table", "tables", "Tables.")


@_apps.command("delete")
def app_delete(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove an application with its streams, models and services; tables stay."""
    screen = Screen(as_json=as_json)
    with connect() as client:
        plan = client.remove(name, dry_run=True)
        if not as_json:
            show.plan(screen, name, plan["plan"])
        if dry_run:
            screen.data(plan, lambda: screen.say("Dry run: nothing was done."))
            return
        if not yes:
            confirm(f"Remove the application {name}?")
        done = client.remove(name)
    screen.data(done, lambda: screen.say("Done."))


@_tables.command("load")
def table_load(
    name: Annotated[str, typer.Argument(help="The table, or the stream that owns it.")],
    files: Annotated[list[Path] | None, typer.Argument(help="CSV, Parquet or JSON lines, in any order.")] = None,
    labels: Annotated[list[str] | None, typer.Option("--labels", help="LABEL=FILE: a file of labels.")] = None,
    references: Annotated[
        list[str] | None, typer.Option("--reference", help="REFERENCE=FILE: a file of rows of a reference.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Load files: cleaned, de-duplicated, in order of time; bad rows set aside with their reason."""
    screen = Screen(as_json=as_json)
    wanted = [GivenFile(path) for path in files or []]
    wanted += [GivenFile(path, label=label) for label, path in named_files("--labels", "label", labels)]
    wanted += [GivenFile(path, reference=name) for name, path in named_files("--reference", "reference", references)]
    with connect() as client, screen.progress() as bars:
        report = load_files(client, name, wanted, bars)
    screen.data(report, lambda: show.loaded(screen, name, report))


def main(this: Machine, arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    state["machine"] = this
    return call(app, sys.argv[1:] if arguments is None else arguments)
