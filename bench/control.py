"""The control plane when there is much of everything: 10,000 jobs and 1,000 services in one store.

    python bench/control.py [--quick]

The real store (SQLite), loop and kinds, the API in this process, and in-memory processes and gateway: a thousand
replicas do not fit on the machines that this is run on. Beside each figure stands the bare operation in the same run.
Prints one JSON document; progress goes to stderr. Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from _document import Document, Goal, tell

from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.control.api import Cloud, create_api
from skyriver.core.resources import Put, Resource
from skyriver.trust.tokens import new_token
from skyriver.wiring.control import ACTIONS
from skyriver.wiring.simulation import Simulation

JOBS, SERVICES = 10_000, 1_000
UNDER_WAY = 20
"""Of the jobs; the others have ended."""
PAGE = 1_000
GOALS = (
    Goal("reconcile_idle_ms_10000_jobs", "<=", 100, "ms"),
    Goal("reconcile_change_ms_10000_jobs", "<=", 200, "ms"),
    Goal("list_ms_10000_jobs", "<=", 200, "ms"),
    Goal("memory_growth_percent", "<=", 2, "%"),
)


def rows() -> Iterator[Resource]:
    """What a store holds after some months: most jobs have ended, each service has served a few versions."""
    yield Resource("t", "app", "shop", spec={"spec": {}, "code": {}}, state="DEPLOYED")
    for number in range(JOBS):
        name = f"model-{number % SERVICES}-run-{number:05}"
        ended = number < JOBS - UNDER_WAY
        progress = {"stage": "fit", "done": 100, "total": 100}
        yield Resource(
            "t",
            "job",
            name,
            spec={
                "kind": "train",
                "app": {},
                "code": {},
                "target": f"model-{number % SERVICES}",
                "lane": f"model/{name}",
            }
            | {"params": {"trees": 100}, "inputs": {}, "needs": [], "tables": []},
            status={"progress": progress, "stages": {"read": 1.5, "fit": 20.25}, "outputs": {"artifact": "a" * 64}},
            state="SUCCEEDED" if ended else "PENDING",
            parent="app/shop",
        )
    for number in range(SERVICES):
        model = f"model-{number:04}"
        yield Resource("t", "model", model, spec={"model": {}}, status={"aliases": {"champion": 1}}, state="DECLARED")
        yield Resource(
            "t", "version", f"{model}:1", spec=version(model), status={"settled": "good"}, state="APPROVED",
            parent=f"job/{model}",
        )  # fmt: skip
        yield Resource(
            "t", "rollout", f"{model}-1", spec={"model": model, "to": 1}, state="DONE", parent=f"version/{model}:1"
        )
        yield Resource(
            "t",
            "service",
            model,
            spec={"model": model, "serve": {"replicas": 1}, "versions": {"1": {"weight": 100}}},
            state="PENDING",
            parent="app/shop",
        )


def version(model: str) -> dict[str, Any]:
    return {"model": model, "version": 1, "artifact": "a" * 64, "fields": None, "metrics": {"auc": 0.9}}


def filled(folder: Path) -> Simulation:
    """A simulated cloud over a real store, settled: every service is READY."""
    cloud = Simulation(store=SqliteStore(folder / "state.db"))
    cloud.store.commit([Put(r, 0) for r in rows()], audit=(), fence=cloud.fence, actor="bench", now=1)
    tell(f"{JOBS:,} jobs and {SERVICES:,} services are in the store")
    for _ in range(100):
        cloud.clock.advance(100_000)
        changed = cloud.loop.run_pass()
        for name, process in cloud.compute.running.items():
            if not process.report:
                cloud.compute.report(name, ready=True)
                changed = True
        if not changed:
            break
    gc.collect()
    gc.freeze()  # as the control plane does once it is ready
    states = {r.state for r in cloud.store.rows("t", "service")}
    if states != {"READY"}:
        raise RuntimeError(f"the services did not get READY: {states}")
    return cloud


def timed(work: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each run."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append((time.perf_counter() - begin) * 1e3)
    return found


def figures(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"p50_ms": round(cuts[49], 2), "p95_ms": round(cuts[94], 2), "runs": len(values)}


def measure_passes(document: Document, cloud: Simulation, times: int) -> None:
    def idle() -> None:
        cloud.clock.advance(100_000)
        if cloud.loop.run_pass():
            raise RuntimeError("something changed")

    idle()
    found = timed(idle, times)
    document.row("skyriver", "one pass, nothing changed", **figures(found))
    document.measured("reconcile_idle_ms_10000_jobs", figures(found)["p50_ms"])
    bare = timed(lambda: [r for r in cloud.loop.snapshot().rows.in_order() if r.state == "READY"], times)
    document.row("bare walk over all rows", "the same rows", **figures(bare))

    names = sorted(name for name in cloud.compute.running if ".replica." in name)

    def kill(number: list[int] = [0]) -> None:  # noqa: B006  # counts the calls
        name = names[number[0] % len(names)]
        number[0] += 1
        cloud.compute.kill(name)
        cloud.settle()
        cloud.compute.report(name, ready=True)
        cloud.settle()

    found = timed(kill, max(times // 10, 5))
    passes = 4
    per_pass = [f / passes for f in found]
    document.row("skyriver", "one pass, one replica died or came back", **figures(per_pass))
    document.measured("reconcile_change_ms_10000_jobs", figures(per_pass)["p50_ms"])


def measure_lists(document: Document, cloud: Simulation, folder: Path, times: int) -> None:
    text, sha = new_token()
    token = Resource("t", "token", "bench", spec={"sha256": sha, "role": "admin"}, state="ACTIVE")
    cloud.commit([Put(token, 0)])
    api = create_api(
        Cloud(
            store=cloud.store,
            objects=MemoryObjects(),
            compute=cloud.compute,
            loop=cloud.loop,
            clock=cloud.clock,
            fence=cloud.fence,
            actions=ACTIONS,
            uploads=folder,
        )
    )
    headers = {"Authorization": f"Bearer {text}"}

    async def pages() -> list[float]:
        found = []
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(api), base_url="http://bench", headers=headers
        ) as http:
            for _ in range(times):
                cursor: str | None = None
                count, more = 0, True
                while more:
                    begin = time.perf_counter()
                    at = {"cursor": cursor} if cursor else {}
                    answer = await http.get("/api/v1/tenants/t/jobs", params={"limit": PAGE, **at})
                    found.append((time.perf_counter() - begin) * 1e3)
                    answer.raise_for_status()
                    count, cursor = count + len(answer.json()["items"]), answer.json()["next"]
                    more = cursor is not None
                if count != JOBS:
                    raise RuntimeError(f"{count} jobs were listed")
        return found

    found = asyncio.run(pages())
    document.row("skyriver", f"GET jobs, one page of {PAGE}", **figures(found))
    document.measured("list_ms_10000_jobs", figures(found)["p95_ms"], note=f"a page of {PAGE:,} of {JOBS:,} jobs, p95")
    whole = timed(lambda: cloud.store.rows("t", "job"), max(times, 5))
    document.row("skyriver", f"all {JOBS} jobs from the store", **figures(whole))
    bodies = [json.dumps({"spec": dict(r.spec), "status": dict(r.status)}) for r in cloud.store.rows("t", "job")]
    bare = timed(lambda: [json.loads(b) for b in bodies], max(times, 5))
    document.row("bare json.loads", f"the bodies of {JOBS} jobs", **figures(bare))


def measure_memory(document: Document, cloud: Simulation, passes: int) -> None:
    """Resident memory after the first tenth of the passes, and at the end; a replica dies every hundred passes."""
    names = sorted(name for name in cloud.compute.running if ".replica." in name)
    first = 0.0
    for number in range(passes):
        cloud.clock.advance(100_000)
        if number % 100 == 50:
            cloud.compute.kill(names[number // 100 % len(names)])
        elif number % 100 == 60:
            cloud.compute.report(names[number // 100 % len(names)], ready=True)
        cloud.loop.run_pass()
        if number == passes // 10:
            gc.collect()
            first = resident()
    gc.collect()
    grown = 100 * (resident() - first) / first
    document.row("skyriver", f"{passes} passes", first_mb=round(first, 1), last_mb=round(resident(), 1))
    document.measured("memory_growth_percent", round(grown, 2), note=f"over {passes:,} passes")


def resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmRSS")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, the same goals")
    quick = parser.parse_args().quick
    document = Document("control", GOALS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cloud = filled(folder)
        document.row("skyriver", "rows in the store", rows=len(cloud.store.rows()))
        passes = ("reconcile_idle_ms_10000_jobs", "reconcile_change_ms_10000_jobs")
        document.part(passes, lambda: measure_passes(document, cloud, 50 if quick else 300))
        document.part(("list_ms_10000_jobs",), lambda: measure_lists(document, cloud, folder, 3 if quick else 20))
        document.part(("memory_growth_percent",), lambda: measure_memory(document, cloud, 1_000 if quick else 10_000))
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
