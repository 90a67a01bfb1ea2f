"""The control plane's process: `python -m skyriver.wiring.control HOME`.

The only process that opens the store. It may end at any moment: replicas answer, streams decide and jobs run on, and
the next one adopts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from granian.constants import Interfaces
from granian.server.embed import Server
from pydantic import ValidationError

from skyriver import __version__
from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.flock.leases import FileLeases
from skyriver.adapters.haproxy.access_log import AccessLog
from skyriver.adapters.keyfile.keys import KeyFiles
from skyriver.adapters.keyfile.trusting import TrustFile
from skyriver.adapters.processes.asking import SocketAsker
from skyriver.adapters.processes.identity import identify
from skyriver.adapters.processes.processes import ChildProcesses
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.control.api import Actions, Cloud, Deployment, DeployRequest, create_api
from skyriver.control.cancelling import plan_cancel
from skyriver.control.cloud import ARTIFACT_BYTES, RulesActions
from skyriver.control.doubtful import doubtful
from skyriver.control.jobs import job_kind
from skyriver.control.leader import CONTROL_TTL_US, Leader
from skyriver.control.loop import ControlLoop
from skyriver.control.running import check_jobs, larger_than, plan_run
from skyriver.control.schedules import plan_pause, plan_resume
from skyriver.control.signing import SignedStore, Signer
from skyriver.control.store import Store
from skyriver.core.contract import RulesVersion
from skyriver.core.errors import Conflict, InvalidInput, SkyriverError, StaleWrite
from skyriver.core.misread import misread
from skyriver.core.names import check_name, digest
from skyriver.core.resources import AuditEntry, Put, Resource, Snapshot
from skyriver.core.spec import AppSpec, check_service
from skyriver.data.operations import plan_load
from skyriver.decide.streams.asking import plan_replay
from skyriver.decide.streams.checking import check_decisions, undecided_answers
from skyriver.decide.streams.live import check_cheaper
from skyriver.decide.streams.now import stream_now
from skyriver.decide.streams.operations import plan_erase, plan_tune, plan_verify
from skyriver.decide.streams.rules_release import (
    RulesMove,
    check_standing,
    get_rules,
    list_rules,
    plan_candidate,
    plan_move,
)
from skyriver.features.plan import check_features
from skyriver.observe.demand import unreachable
from skyriver.observe.operations import plan_incident_ack, plan_watch_pause, plan_watch_resume
from skyriver.release.aliases import plan_alias, plan_unalias
from skyriver.release.card import card_of
from skyriver.release.operations import (
    plan_rollback,
    plan_rollout_abort,
    plan_rollout_pause,
    plan_rollout_promote,
    plan_rollout_resume,
    plan_train,
)
from skyriver.release.registered import new_model, plan_delete, plan_take_in
from skyriver.serve.asking import plan_predict
from skyriver.serve.kinds import service_kind
from skyriver.serve.operations import plan_sleep, plan_wake
from skyriver.trust.permissions import FIRST_TENANT, Permission
from skyriver.trust.secretfile import write_secret
from skyriver.trust.tokens import new_token
from skyriver.wiring.advisor import ChildAdvisor
from skyriver.wiring.alerts import AlertFiles
from skyriver.wiring.capacity import VISIBLE, machine_capacity
from skyriver.wiring.database import store_address
from skyriver.wiring.deploy import PlanLine, plan_deploy, plan_removal
from skyriver.wiring.environments import keep_package_settings, mend_environments
from skyriver.wiring.gateway import gateway_of
from skyriver.wiring.home import DEFAULT_PORT, Home
from skyriver.wiring.kinds import KINDS
from skyriver.wiring.metering import meter_of
from skyriver.wiring.nudging import listen, take
from skyriver.wiring.prices import PriceFile
from skyriver.wiring.process import keep_log, write_atomically
from skyriver.wiring.scaler import Scaler
from skyriver.wiring.sinks import unusable_sinks
from skyriver.wiring.sources import check_sources
from skyriver.wiring.supervisor import SupervisorKeeper
from skyriver.wiring.system_watch import SystemWatcher
from skyriver.wiring.watched import CONTROL

SUPERVISOR_CHECK_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 10.0
"""For the first look at what runs; the API is there without it, too."""

log = logging.getLogger("skyriver.control")


class SystemClock:
    def wall(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1_000


def child_environment() -> dict[str, str]:
    """What children see of our environment: nothing secret. Waiting threads of OpenMP sleep instead of spinning: on
    shared cores a training was measured 6 to 11 times faster for it."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", VISIBLE)
    environment = {k: os.environ[k] for k in kept if k in os.environ}
    return environment | {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def deploy(
    snapshot: Snapshot, tenant: str, name: str, request: DeployRequest, *, prune: bool, home: Path | None = None
) -> Deployment:
    """Checks the whole specification, stage by stage, and plans it. `home`: where sinks are looked for."""
    try:
        app = AppSpec.model_validate(request.spec)
    except ValidationError as error:
        raise InvalidInput(
            f"The specification is not understood: {misread(error)}.",
            code="BAD_SPEC",
            next_action="Deploy with `skyriver deploy FILE` of this release, which writes it.",
        ) from error
    check_name(app.name, "an application")
    if app.name != name or app.digest() != request.spec_digest:
        raise InvalidInput(
            "The specification is not the one that was announced.",
            code="SPEC_MISMATCH",
            next_action="Send the SHA-256 of its canonical JSON as spec_digest, and its name in the path.",
        )
    for model in app.models:
        check_service(model.serve, f"The service of {model.name!r}")
    check_features(app)
    warnings = check_decisions(app)
    check_standing(snapshot, tenant, app)
    not_cheaper = check_cheaper(snapshot, tenant, app)
    check_jobs(app, machine_capacity())
    check_sources(app)
    plan = plan_deploy(
        snapshot,
        tenant,
        app,
        {"bundle": request.code, "main": request.main},
        files=request.files,
        environment=request.environment,
        prune=prune,
    )
    lines = [*plan.lines, *(PlanLine("warn", "rule", name, why) for name, why in warnings)]
    lines += [PlanLine("warn", "stream", name, why) for name, why in not_cheaper]
    lines += [PlanLine("warn", "review", name, why) for name, why in undecided_answers(app)]
    told = (*unreachable(snapshot, tenant, app), *larger_than(app, machine_capacity()))
    lines += [PlanLine("warn", "service", name, why) for name, why in told]
    lines += [PlanLine("warn", kind, name, why) for kind, name, why in doubtful(app)]
    if home is not None:
        lines += [PlanLine("warn", "sink", sink, why) for sink, why in unusable_sinks(app, home, tenant)]
    return Deployment([asdict(line) for line in lines], plan.changes, plan.operations)


def remove(snapshot: Snapshot, tenant: str, name: str) -> Deployment:
    plan = plan_removal(snapshot, tenant, name)
    return Deployment([asdict(line) for line in plan.lines], plan.changes, plan.operations)


def add_rules(
    snapshot: Snapshot, stream: Resource, body: Mapping[str, Any], *, actor: str
) -> tuple[list[Put], RulesVersion]:
    return plan_candidate(snapshot, stream, body["rules"], why=body["why"], gain=body["gain"], actor=actor)


def move_rules(
    snapshot: Snapshot, stream: Resource, number: int, to: str, body: Mapping[str, Any], *, actor: str
) -> tuple[list[Put], RulesVersion]:
    return plan_move(snapshot, stream, number, RulesMove(to, **body), actor=actor)


ACTIONS = Actions(
    deploy=deploy,
    remove=remove,
    named={
        "alias": (Permission.MODELS_WRITE, plan_alias),
        "unalias": (Permission.MODELS_WRITE, plan_unalias),
        "cancel": (Permission.JOBS_RUN, plan_cancel),
        "import": (Permission.MODELS_WRITE, plan_take_in),
        "erase": (Permission.STREAMS_ERASE, plan_erase),
        "incident_ack": (Permission.SERVICES_WRITE, plan_incident_ack),
        "load": (Permission.TABLES_WRITE, plan_load),
        "run": (Permission.JOBS_RUN, plan_run),
        "pause": (Permission.JOBS_RUN, plan_pause),
        "predict": (Permission.JOBS_RUN, plan_predict),
        "resume": (Permission.JOBS_RUN, plan_resume),
        "sleep": (Permission.SERVICES_WRITE, plan_sleep),
        "wake": (Permission.SERVICES_WRITE, plan_wake),
        "train": (Permission.JOBS_RUN, plan_train),
        "replay": (Permission.JOBS_RUN, plan_replay),
        "rollback": (Permission.SERVICES_WRITE, plan_rollback),
        "rollout_abort": (Permission.SERVICES_WRITE, plan_rollout_abort),
        "rollout_pause": (Permission.SERVICES_WRITE, plan_rollout_pause),
        "rollout_promote": (Permission.SERVICES_WRITE, plan_rollout_promote),
        "rollout_resume": (Permission.SERVICES_WRITE, plan_rollout_resume),
        "tune": (Permission.JOBS_RUN, plan_tune),
        "watch_pause": (Permission.JOBS_RUN, plan_watch_pause),
        "watch_resume": (Permission.JOBS_RUN, plan_watch_resume),
        "verify": (Permission.JOBS_RUN, plan_verify),
    },
    stream_now=stream_now,
    card=card_of,
    register=new_model,
    delete_model=plan_delete,
    rules=RulesActions(list_rules, get_rules, add_rules, move_rules),
)


def hold_home(home: Home, store: str = "") -> FileLeases:
    """What makes this the only control plane of the home. `store`: the address of the database whose active plane this
    is: another plane of that database is not active any more, and if it is still in the home it was stopped or hangs:
    it is ended. Raises Conflict (ALREADY_RUNNING)."""
    leases = FileLeases(home.leases)
    word = f"control plane of store {digest(store)[:12]}" if store else "control plane"
    before = leases.holder(CONTROL)
    take = leases.take_over if store and before is not None and before.holder == word else leases.acquire
    try:
        take(CONTROL, word, ttl_us=CONTROL_TTL_US)
    except Conflict as error:
        raise Conflict(
            f"A control plane runs already in {home.root}: {error.message}",
            code="ALREADY_RUNNING",
            next_action="End it with `skyriver down`.",
        ) from error
    return leases


def stand_by(home: Home, address: str) -> Leader:
    """Waits until this is the active one of the control planes on the database at `address`. Until then it is in no
    run file, so it ends by itself when the cloud does, or who started it."""
    from skyriver.adapters.postgres.leases import PostgresLeases  # needs a driver that not everybody has

    leader = Leader(PostgresLeases(address), f"process {os.getpid()} on {socket.gethostname()}")
    starter = os.getppid()
    if not leader.wait(lambda: home.stopping.exists() or os.getppid() != starter):
        raise SystemExit("Ended while standing by: the cloud, or what started this control plane, has ended.")
    return leader


def open_store(home: Home, address: str) -> Store:
    if not address:
        return SqliteStore(home.state)
    from skyriver.adapters.postgres.store import PostgresStore  # needs a driver that not everybody has

    return PostgresStore(address)


def ensure_first_token(store: Store, home: Home, fence: int, now: int) -> None:
    """The administrator's token: made once, kept for the command line in a file of mode 0600. Its row is committed
    first, so that a token file always names a token that counts; a lost file is replaced by a new token."""
    rows = store.rows(FIRST_TENANT, "token")
    if rows and home.token.exists():
        return
    text, digest = new_token()
    name = f"admin-{secrets.token_hex(3)}" if rows else "admin"
    token = Resource(FIRST_TENANT, "token", name, spec={"sha256": digest, "role": "admin"}, state="ACTIVE")
    entry = AuditEntry(FIRST_TENANT, "system", Permission.TOKENS_WRITE.value, "create", token.ref)
    store.commit([Put(token, 0)], audit=[entry], fence=fence, actor="system", now=now)
    write_secret(home.token, text.encode())


def main() -> None:
    os.umask(0o077)  # of all that this process makes, and those that it starts
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    home = Home.at(sys.argv[1])
    home.make()
    try:
        address = store_address()
        leader = stand_by(home, address) if address else None
        held = hold_home(home, address)
    except SkyriverError as error:
        log.error("%s", error)  # the run file is the other one's
        raise SystemExit(error.exit_code) from error
    if home.stopping.exists():
        raise SystemExit("`skyriver down` is ending this cloud.")
    _tell(home, {"ready": False})
    try:
        asyncio.run(_run(home, address, leader))
        held.close()
    except StaleWrite as error:
        raise SystemExit(str(error)) from error  # another one is the control plane now, and the run file is its
    except SkyriverError as error:
        _tell(home, {"ready": False, "problem": error.to_problem()})
        raise SystemExit(str(error)) from error
    finally:
        if leader is not None:
            leader.close()


async def _run(home: Home, address: str, leader: Leader | None) -> None:
    clock = SystemClock()
    sockets = home.make_sockets()
    store = open_store(home, address)
    fence = store.acquire(f"control-{os.getpid()}")
    ensure_first_token(store, home, fence, clock.wall())
    signer = Signer(KeyFiles(home.keys), TrustFile(home.trusted), clock)
    signer.begin(store, fence)
    store = SignedStore(store, signer)
    keep_package_settings(home)
    port = int(home.settings().get("port", DEFAULT_PORT))
    gateway = gateway_of(home)
    compute = ChildProcesses(home.root, sockets, environment=child_environment(), fence=fence)
    stopping = asyncio.Event()
    lost: list[SkyriverError] = []
    events = asyncio.get_running_loop()

    def give_up(error: SkyriverError) -> None:
        lost.append(error)
        events.call_soon_threadsafe(stopping.set)

    capacity = machine_capacity()
    kinds = {**KINDS, "job": job_kind(capacity), "service": service_kind(capacity)}
    ready: dict[str, Any] = {}

    unwatched: dict[str, SkyriverError] = {}

    def told(problems: Mapping[str, SkyriverError]) -> None:
        if ready:
            ready["troubles"] = [p.to_problem() for p in (*problems.values(), *unwatched.values())]
            with contextlib.suppress(OSError):  # a full disk, say; the log of it has been tried too
                _tell(home, ready)

    holds = leader.holds if leader is not None else lambda: True
    loop = ControlLoop(
        store=store,
        compute=compute,
        gateway=gateway,
        kinds=kinds,
        clock=clock,
        fence=fence,
        on_lost=give_up,
        on_problems=told,
        holds=holds,
    )
    if leader is not None:
        leader.tell(give_up)

    def told_of(thread: str, problem: SkyriverError | None) -> None:
        unwatched.pop(thread, None)
        unwatched.update({} if problem is None else {thread: problem})
        told(loop.health().problems)

    alerts = AlertFiles(home.root, clock.wall)
    prices = PriceFile(home, clock.wall)
    meter = meter_of(
        home,
        store=store,
        loop=loop,
        clock=clock,
        fence=fence,
        pricing=prices,
        holds=holds,
        on_problem=partial(told_of, "metering"),
    )
    watcher = SystemWatcher(
        home,
        store=store,
        loop=loop,
        clock=clock,
        fence=fence,
        alerts=alerts,
        signer=signer,
        holds=holds,
        on_problem=partial(told_of, "watching"),
    )
    scaler = Scaler(
        home,
        store=store,
        loop=loop,
        clock=clock,
        fence=fence,
        prices=prices,
        capacity=capacity,
        holds=holds,
        on_problem=partial(told_of, "scaling"),
    )
    advisor = ChildAdvisor(home, prices, clock, child_environment())
    cloud = Cloud(
        store=store,
        objects=DirectoryObjects(home.objects),
        compute=compute,
        loop=loop,
        clock=clock,
        fence=fence,
        actions=replace(ACTIONS, deploy=partial(deploy, home=home.root)),
        uploads=home.uploads,
        asker=SocketAsker(),
        requests=AccessLog(home.logs),
        signer=signer,
        alerts=alerts,
        prices=prices,
        advisor=advisor,
        objective=scaler.objective,
        artifact_bytes=int(home.settings().get("artifact_bytes", ARTIFACT_BYTES)),
    )
    for stale in home.uploads.iterdir():
        stale.unlink(missing_ok=True)  # another control plane, stopped and gone on, may be at it
    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, stopping.set)
    nudges = listen(home.nudge_socket)
    if nudges is not None:
        events.add_reader(nudges, take, nudges, loop.wake)
    passes = threading.Thread(target=loop.run, name="reconcile")
    passes.start()  # before the API: what runs is looked after at once
    try:
        api = create_api(cloud)
        await asyncio.to_thread(loop.await_look, LOOK_SECONDS)  # else who asks first is told that nothing runs
        ready |= {"ready": True, "port": port, "troubles": [p.to_problem() for p in loop.health().problems.values()]}
        watcher.start()
        scaler.start()
        meter.start()
        await _serve(api, home, ready, cloud, stopping)
    finally:
        if nudges is not None:
            events.remove_reader(nudges)
            nudges.close()
        loop.stop()
        await asyncio.to_thread(watcher.stop)
        await asyncio.to_thread(scaler.stop)
        await asyncio.to_thread(meter.stop)
        await asyncio.to_thread(advisor.stop)
        await asyncio.to_thread(passes.join)
    store.close()
    if lost:
        raise lost[0]


async def _serve(api: FastAPI, home: Home, ready: Mapping[str, Any], cloud: Cloud, stopping: asyncio.Event) -> None:
    """Until `stopping`."""
    server = _server(api, home.control_socket)
    serving = asyncio.create_task(server.serve())
    _tell(home, ready)
    log.info("control plane ready")
    gc.collect()
    gc.freeze()  # rows and code live long: to look through all of them cost a pass or a list 0.1 s now and then
    await asyncio.to_thread(mend_environments, cloud.store, home, cloud.fence, cloud.clock.wall())
    await _keep_supervisor(home, stopping)
    api.state.watch.close()
    server.stop()  # type: ignore[no-untyped-call]  # of Granian
    await serving


async def _keep_supervisor(home: Home, stopping: asyncio.Event) -> None:
    """Until `stopping`: there is a supervisor, and a file that this process prints into."""
    keeper = SupervisorKeeper(home)
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), SUPERVISOR_CHECK_SECONDS)
            return
        await asyncio.to_thread(keeper.look)
        keep_log(home.logs / "control.log")


def _server(app: Any, path: Path) -> Server:
    """Granian inside this process: one process, one loop. By the umask the socket is this user's alone."""
    path.unlink(missing_ok=True)
    return Server(app, uds=path, interface=Interfaces.ASGI, log_enabled=False, websockets=False)


def _tell(home: Home, status: Mapping[str, Any]) -> None:
    """The run file: who the control plane is, and whether it is ready or why it is not."""
    identity = identify(os.getpid())
    known = asdict(identity) if identity else {}
    write_atomically(home.control_run, json.dumps({**known, "version": __version__, **status}).encode())


if __name__ == "__main__":
    main()
