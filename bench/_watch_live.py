"""Some of the faults of `watch.py` in a real cloud under load: its processes, its gateway, its clock.

A model with three replicas, 50 requests a second. Each fault is made, waited for until
there is an incident about it, and ended; then the next one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from _document import Document
from _processes import Failed, cloud_home, free_port, processes_of, run
from _serving_scenes import sending
from _serving_systems import SKYRIVER, System, product, product_environment
from _shop_model import BODY, Asked, shop_model

APP = """\
import skyriver as sr

app = sr.App("shop")
app.model("shop", onnx="shop.onnx", serve=sr.Service(replicas=3, latency="{latency}"))
"""
RATE = 50
DEADLINE_S = 90.0
Incident = dict[str, Any]


class Cloud:
    def __init__(self, home: Path) -> None:
        self.home = home
        told = product(home, "up", "--port", str(free_port()))
        self.port = int(str(told["url"]).rpartition(":")[2])
        self.token = str(told["token"])

    def deploy(self, base: float = 0.5, place: int = 0, latency: str = "1s") -> None:
        folder = self.home.parent / "app"
        folder.mkdir(exist_ok=True)
        (folder / "shop.onnx").write_bytes(shop_model(base, place))
        (folder / "app.py").write_text(APP.format(latency=latency))
        command = [SKYRIVER, "--home", str(self.home), "deploy", str(folder / "app.py"), "-y"]
        run(command, timeout=120, env=product_environment()).check()

    def open(self) -> list[Incident]:
        found: Any = product(self.home, "incident", "list")
        return list(found)

    def champion(self) -> int:
        found: Any = product(self.home, "model", "get", "shop")
        return int(found["status"]["aliases"]["champion"])

    def pids(self, module: str, name: str = "") -> list[int]:
        found = processes_of(self.home, module)
        return [pid for pid in found if name in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")]


def measure_live(document: Document) -> None:
    with cloud_home() as home:
        home.parent.mkdir(exist_ok=True)
        cloud = Cloud(home)
        cloud.deploy()
        system = System("skyriver", "", cloud.port, list, token=cloud.token)
        with sending(home.parent, system, Asked(), BODY, RATE, 3_600) as load:  # type: ignore[arg-type]
            time.sleep(60.0)
            if before := cloud.open():
                raise Failed(f"before anything was done: {before[0]['message']}")
            for name, make, ends, root, kind in SCENES:
                _scene(document, cloud, name, make, ends, root, kind)
            load.stop()
        document.measured("live_told", sum(row["right"] for row in document.rows if row.get("live")))


def _scene(
    document: Document,
    cloud: Cloud,
    name: str,
    make: Callable[[Cloud], Iterator[None]],
    ends: Callable[[Cloud], bool],
    root: str,
    kind: str,
) -> None:
    """`make` does something again with each `next`."""
    known, begun, doing = {row["name"] for row in cloud.open()}, time.monotonic(), make(cloud)
    found: Incident | None = None
    while found is None and time.monotonic() - begun < DEADLINE_S:
        with suppress(StopIteration):
            next(doing)
        time.sleep(2.0)
        found = next((row for row in cloud.open() if row["name"] not in known and _about(row, root)), None)
    noticed = time.monotonic() - begun
    cause = found["status"]["causes"][0] if found is not None and found["status"]["causes"] else {}
    mended = time.monotonic()
    while not ends(cloud) and time.monotonic() - mended < DEADLINE_S:
        time.sleep(2.0)
    document.row(
        "skyriver",
        f"live: {name}",
        live=True,
        noticed_s=round(noticed, 1) if found is not None else None,
        right=found is not None and cause.get("kind", "") == kind,
        said=f"{cause.get('subject', '')} / {cause.get('kind', '')}",
        told=found["message"] if found is not None else "",
        mended=ends(cloud),
    )
    while cloud.open() and time.monotonic() - mended < 3 * DEADLINE_S:  # what is wrong is over before the next begins
        time.sleep(5.0)


def _about(row: Incident, root: str) -> bool:
    return any(root in condition["subject"] for condition in row["status"]["conditions"])


def _kill(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _one_replica_ends(cloud: Cloud) -> Iterator[None]:
    while True:
        _kill(cloud.pids("skyriver.wiring.replica", "-1."), signal.SIGKILL)
        yield


def _new_version_fails(cloud: Cloud) -> Iterator[None]:
    cloud.deploy(base=0.6, place=7)
    yield


def _gateway_ends(cloud: Cloud) -> Iterator[None]:
    while True:
        told: Any = product(cloud.home, "ps")
        _kill([p["pid"] for p in told["parts"] if p["name"] == "gateway" and p["pid"]], signal.SIGKILL)
        yield


def _ready(cloud: Cloud) -> bool:
    told: Any = product(cloud.home, "ps")
    return all(row["state"] == "READY" for row in [*told["services"], *told["parts"]])


def _rolled_back(cloud: Cloud) -> bool:
    """As the incident's next action says."""
    if cloud.champion() == 1:
        return True
    run([SKYRIVER, "--home", str(cloud.home), "rollback", "shop"], timeout=60, env=product_environment())
    return False


SCENES = (
    ("a replica ends again and again", _one_replica_ends, _ready, "replica/shop-", "death"),
    ("a new version refuses all it is asked", _new_version_fails, _rolled_back, "version/shop:2", "rollout"),
    ("the gateway ends again and again", _gateway_ends, _ready, "cloud:gateway", "death"),
)
