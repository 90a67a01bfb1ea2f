"""What a user can ask of the jobs that an application declares: that one runs, with those that it needs.

What is declared is a `task`; each time it runs there is an operation with the `job`s of that run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from skyriver.core.errors import InvalidInput, QuotaExceeded
from skyriver.core.jobs import Capacity, asks_for, never_fits, new_job, new_operation, next_number
from skyriver.core.names import canonical_json
from skyriver.core.resources import GPU, Limits, Resource, Snapshot, need
from skyriver.core.spec import AppSpec, JobSpec
from skyriver.core.units import SECOND

PARAMS_LIMIT = 100_000
SHOWN = 80
"""Characters of a value that a message shows."""
_TYPES = {bool: "a bool", int: "an int", float: "a float", str: "a text", list: "a list", dict: "an object"}


def plan_run(
    snapshot: Snapshot,
    tenant: str,
    target: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    parent: str = "",
    slot: str = "",
) -> list[Resource]:
    """Run a job that an application declares, and before it those that it needs."""
    task = need(snapshot.find(tenant, "task", target), "task", target)
    app = need(snapshot.find(tenant, *task.parent.split("/", 1)), "app", task.parent)
    declared = {spec["name"]: JobSpec.model_validate(spec) for spec in app.spec["spec"].get("jobs", ())}
    if target not in declared:
        raise InvalidInput(
            f"The application does not declare {target} any more.",
            code="NOT_DECLARED",
            next_action=f"`skyriver deploy APP.py --prune` forgets it, or declare {target} again.",
        )
    order = _with_needed(declared, target)
    _check_params(order, params, inputs)
    run = f"{target}-run-{next_number(snapshot, tenant, 'operation', f'{target}-run')}"
    jobs: dict[str, list[Resource]] = {}
    for spec in order:
        name = run if len(order) == 1 else f"{run}-{spec.name}"
        needs = [job.name for needed in spec.needs for job in jobs[needed]]
        chosen = _known(params, spec)
        jobs[spec.name] = [
            _job(snapshot, app, spec, name if index is None else f"{name}-{index}", index, chosen, needs, run, slot)
            for index in (range(spec.array) if spec.array else (None,))
        ]
    made = [job for group in jobs.values() for job in group]
    operation = new_operation(
        snapshot, tenant, run, action="run", target=target, jobs=[j.name for j in made], parent=parent
    )
    return [operation, *made]


def check_jobs(app: AppSpec, capacity: Capacity) -> None:
    """Raises QuotaExceeded (NEVER_FITS) for a job that asks for more than the machine gives all jobs together, and for
    a training on GPUs of which there is none."""
    for spec in app.jobs:
        asked = asks_for({"cpus": spec.cpus, "memory_mb": spec.memory_mb, "accelerators": {GPU: spec.gpus}})
        if not capacity.fits(asked):
            raise _never_fits(f"The job {spec.name}", spec.function, asked, capacity)
    for model in app.models:
        if model.train is not None and model.train.gpus > capacity.gpus:
            asked = asks_for({"accelerators": {GPU: model.train.gpus}}, workers=1)
            raise _never_fits(f"The training of {model.name}", model.train.function, asked, capacity)


def _never_fits(who: str, where: str, asked: Capacity, capacity: Capacity) -> QuotaExceeded:
    told, action = never_fits(asked, capacity)
    return QuotaExceeded(f"{who} {told}", code="NEVER_FITS", where=where, next_action=action)


def larger_than(app: AppSpec, capacity: Capacity) -> Iterator[tuple[str, str]]:
    """(service, why) of those of which one replica declares more than the machine has: it runs all the same, and takes
    what is shared."""
    for model in app.models:
        asked = Capacity(model.serve.cpus, model.serve.memory_mb)
        if not capacity.fits(asked):
            yield (
                model.name,
                f"one replica declares {asked}, and this machine has {capacity}: services that follow the load get no"
                " replica more beside it, and it is billed; declare what a replica uses (cpus=, memory_mb=)",
            )


def _with_needed(declared: Mapping[str, JobSpec], target: str) -> list[JobSpec]:
    """The job and all that it needs, in the order of the file: that has each after those that it needs."""
    wanted, front = {target}, [target]
    while front:
        new = set(declared[front.pop()].needs) - wanted
        wanted |= new
        front += sorted(new)
    return [spec for name, spec in declared.items() if name in wanted]


def _check_params(order: list[JobSpec], params: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """A parameter goes to each job of the run that declares it, and is of the type that its value has there."""
    target = order[-1].name
    if inputs:
        raise InvalidInput(
            "A job takes no inputs but those of jobs that it needs.",
            code="BAD_INPUT",
            next_action="Ask for the job without `inputs`; what it is to know are its `params`.",
        )
    if len(canonical_json(dict(params))) > PARAMS_LIMIT:
        raise InvalidInput(
            f"The parameters have over {PARAMS_LIMIT:,} bytes.",
            code="TOO_LARGE",
            next_action="Put the data into a table or a file that the job reads.",
        )
    known = sorted({name for spec in order for name in spec.params})
    for name in sorted(params.keys() - set(known)):
        close = get_close_matches(name, known, n=1)
        raise InvalidInput(
            f"{target} has no parameter {name!r}.{f' Is {close[0]!r} meant?' if close else ''}",
            code="UNKNOWN_PARAMETER",
            where=name,
            next_action=f"There are {', '.join(known)}." if known else "Declare it: @app.job(params={...}).",
        )
    for spec in order:
        for name, value in _known(params, spec).items():
            if not _is_like(spec.params[name], value):
                raise InvalidInput(
                    f"The parameter {name} of {spec.name} is {_type(spec.params[name])}; "
                    f"{json.dumps(value)[:SHOWN]} is {_type(value)}.",
                    code="BAD_PARAMETER",
                    where=name,
                    next_action=f"Give a value like {json.dumps(spec.params[name])[:SHOWN]}.",
                )


def _is_like(declared: object, value: object) -> bool:
    """Where null is declared nothing is said of the type; a whole number is good for a float."""
    return declared is None or type(value) is type(declared) or (type(declared) is float and type(value) is int)


def _type(value: object) -> str:
    return _TYPES.get(type(value), "null")


def _known(params: Mapping[str, Any], spec: JobSpec) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name in spec.params}


def _job(
    snapshot: Snapshot,
    app: Resource,
    spec: JobSpec,
    name: str,
    index: int | None,
    params: Mapping[str, Any],
    needs: list[str],
    run: str,
    slot: str,
) -> Resource:
    return new_job(
        snapshot,
        app,
        kind="call",
        target=spec.name,
        name=name,
        lane=f"job/{name}",
        params=params,
        needs=needs,
        parent=f"operation/{run}",
        title=spec.name,
        index=index,
        limits=Limits(spec.cpus, spec.memory_mb, {GPU: spec.gpus} if spec.gpus else {}, spec.timeout_us / SECOND),
        retries=spec.retries,
        repeatable=spec.repeatable,
        priority=spec.priority,
        slot=slot,
        runs_code=True,
    )
