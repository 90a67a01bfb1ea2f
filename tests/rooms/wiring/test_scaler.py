"""The thread that scales: when it looks, what it remembers, and its end when another control plane has taken over."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import skyriver as sr
from skyriver.adapters.haproxy.access_log import FILE
from skyriver.control.pricing import OwnedMachines
from skyriver.control.schedule.history import HEAD, MINUTES, SIZE
from skyriver.core.errors import Conflict
from skyriver.core.jobs import Capacity
from skyriver.core.resources import Put, Resource
from skyriver.core.units import SECOND
from skyriver.wiring.histories import FOLDER, read_history
from skyriver.wiring.home import Home
from skyriver.wiring.scaler import Scaler
from skyriver.wiring.simulation import Simulation

REPLICA = "t.replica.price-1-1"


class Cloud(Simulation):
    def __init__(self, folder: Path, serve: sr.Service) -> None:
        super().__init__()
        spec = {"model": "price", "serve": serve.to_json(), "versions": {"1": {"weight": 100}}}
        version = {"model": "price", "version": 1, "artifact": "a" * 64}
        self.commit(
            [
                Put(Resource("t", "version", "price:1", spec=version, state="APPROVED"), 0),
                Put(Resource("t", "service", "price", spec=spec, state="PENDING"), 0),
            ]
        )
        self.home = Home.at(str(folder))
        self.holds = True
        self.scaler = self.another()

    def another(self) -> Scaler:
        return Scaler(
            self.home,
            store=self.store,
            loop=self.loop,
            clock=self.clock,
            fence=self.fence,
            prices=OwnedMachines(),
            capacity=Capacity(8.0, 16_000),
            holds=lambda: self.holds,
        )

    def look(self, seconds: float = 1.0) -> None:
        """After some time in which the replica answered nothing."""
        self.clock.advance(int(seconds * SECOND))
        self.compute.report(
            REPLICA, ready=True, told_at=self.clock.wall(), active_at=self.clock.wall(), requests=5, run_us=50_000
        )
        self.settle()
        self.scaler._due.clear()  # its turn: the thread's clock is not ours
        self.scaler.look()
        self.settle()

    def decided(self) -> int:
        row = self.loop.snapshot().find("t", "scaling", "price")
        return int(row.spec["replicas"]) if row is not None else 0


def test_it_decides_from_the_second_look_on_and_remembers(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    cloud.look()
    assert cloud.decided() == 0
    cloud.look()
    assert cloud.decided() == 1
    cloud.scaler._remember()
    told = json.loads((tmp_path / "scaling.json").read_bytes())
    assert told["1.0"]["measured"]["t/price"]["starts"]
    cloud.scaler = cloud.another()
    cloud.look()
    cloud.look()
    assert cloud.decided() == 1


def test_what_the_gateway_answered_for_want_of_a_replica_counts_in_the_objective(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), latency="50ms", hold="3s"))
    cloud.home.make()
    line = {"accepted": 1, "id": "a", "tenant": "t", "of": "t/model/price", "asks": "", "method": "POST"}
    line |= {"status": 503, "code": "NO_CAPACITY", "server": "<NOSRV>", "end": "--"}
    line |= {"time": "1", "receive_ms": 1, "queue_ms": -1, "connect_ms": -1, "answer_ms": -1, "total_ms": 1}
    path = cloud.home.logs / FILE
    path.touch()
    for told in ("", json.dumps(line, separators=(",", ":")) + "\n"):
        path.write_text(40 * told)
        cloud.scaler._sleepers_due = 0.0
        cloud.look()
    service = cloud.store.get("t", "service", "price")
    found = cloud.scaler.objective(cloud.loop.snapshot(), service)
    assert found is not None
    assert (found["state"], found["judged"], found["missed"]) == ("missed", 40, 40)


@pytest.mark.parametrize("replicas", [(0, 1), (0, 4)])
def test_it_decides_on_sleep_too_and_remembers_when_somebody_asked(tmp_path: Path, replicas: tuple[int, int]) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=replicas, latency="50ms", hold="3s" if replicas[1] > 1 else ""))
    for _ in range(3):
        cloud.scaler._sleepers_due = 0.0
        cloud.look()
    row = cloud.store.get("t", "scaling", "price")
    assert row.spec["sleep"]["rule"] == "break-even"
    assert ("choices" in row.status) == (replicas[1] > 1)
    assert dict(row.status["sleep"])["sleep"].startswith("After 5 minutes without a request: ")
    cloud.scaler._remember()
    told = json.loads((tmp_path / "scaling.json").read_bytes())["sleeping"]["t/price"]
    assert told["last"] > 0
    cloud.scaler = cloud.another()
    revision = row.revision
    cloud.look()
    assert cloud.scaler._sleepers._of["t/price"].habits.last >= told["last"]
    assert cloud.store.get("t", "scaling", "price").revision == revision


@pytest.mark.parametrize(
    "memory",
    [
        b'{"sleeping": 3}',
        b'{"sleeping": {"t/price": []}}',
        b"",
        b"[]",
        b"{",
        b'{"1.0": 3}',
        b'{"1.0": {"measured": {"t/price": {}}}}',
    ],
)
def test_what_cannot_be_read_is_learnt_anew(tmp_path: Path, memory: bytes) -> None:
    (tmp_path / "scaling.json").write_bytes(memory)
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    cloud.look()
    cloud.look()
    assert cloud.decided() == 1


def test_a_service_that_is_elastic_no_more_is_forgotten(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    cloud.look()
    cloud.look()
    service = cloud.store.get("t", "service", "price")
    spec = {**service.spec, "serve": sr.Service(replicas=1).to_json()}
    changed = Resource("t", "service", "price", spec=spec, state=service.state, status=service.status)
    cloud.commit([Put(changed, service.revision)])
    cloud.look()
    assert cloud.decided() == 0
    assert not cloud.scaler._scalings


def test_it_ends_when_another_control_plane_has_taken_over(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    cloud.look()
    cloud.store.acquire("another")
    with pytest.raises(Conflict) as found:
        cloud.look()
    assert found.value.code == "FENCED"


def test_one_that_holds_the_lease_no_more_leaves_all_as_it_is_when_it_stops(tmp_path: Path) -> None:
    """The file and the histories are whose who took over."""
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    cloud.look()
    cloud.look()
    new = tmp_path / FOLDER / "t" / "new"
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_bytes(b"")
    memory = tmp_path / "scaling.json"
    memory.write_bytes(b'{"of": "the other"}')
    cloud.holds = False
    cloud.scaler.start()
    cloud.scaler.stop()
    assert (memory.read_bytes(), new.exists()) == (b'{"of": "the other"}', True)
    cloud.scaler = cloud.another()
    cloud.look()
    cloud.look()
    cloud.holds = True
    cloud.scaler.start()
    cloud.scaler.stop()
    told = json.loads(memory.read_bytes())["1.0"]["learnt"]["t/price"]
    assert told["wall"] == cloud.clock.wall() / 1e6
    assert new.exists()


def test_what_is_recent_is_remembered_only_after_the_last_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not beside one that takes longer than anybody waits for it."""
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    begun, over = threading.Event(), threading.Event()

    def look() -> None:
        begun.set()
        over.wait(60)

    monkeypatch.setattr(cloud.scaler, "look", look)
    join = cloud.scaler._thread.join
    monkeypatch.setattr(cloud.scaler._thread, "join", lambda _: join(0.0))
    cloud.scaler._fixed.remember = lambda: {"t/price": {}}  # type: ignore[method-assign]
    cloud.scaler.start()
    assert begun.wait(60)
    cloud.scaler.stop()
    assert not (tmp_path / "scaling.json").exists()
    over.set()
    join(60)
    assert (tmp_path / "scaling.json").exists()


def test_histories_of_services_that_are_gone_are_forgotten_by_looks(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    gone = tmp_path / FOLDER / "t" / "gone"
    gone.parent.mkdir(parents=True, exist_ok=True)
    gone.write_bytes(b"")
    cloud.look()
    assert gone.exists()
    cloud.scaler._remembered = -1e9
    cloud.look()
    assert not gone.exists()


def test_somebody_who_was_quicker_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=(1, 4), hold="3s"))
    cloud.look()
    refused = []

    def commit(*_: object, **__: object) -> None:
        refused.append(1)
        raise Conflict("It was changed.", next_action="Read it again.")

    with monkeypatch.context() as patched:
        patched.setattr(cloud.scaler._store, "commit", commit)
        cloud.clock.advance(SECOND)
        cloud.scaler._due.clear()
        cloud.scaler.look()
    assert refused == [1]


@pytest.mark.parametrize("replicas", [1, (0, 1), (1, 3)], ids=str)
def test_of_each_service_that_has_replicas_its_demand_is_kept(tmp_path: Path, replicas: int | tuple[int, int]) -> None:
    cloud = Cloud(tmp_path, sr.Service(replicas=replicas, latency="50ms"))
    for _ in range(30):
        cloud.scaler._sleepers_due = 0.0
        cloud.look(5.0)
    kept = read_history(tmp_path, "t", "price", cloud.clock.wall() / SECOND)
    assert kept
    assert (tmp_path / FOLDER / "t" / "price").stat().st_size <= HEAD + MINUTES * SIZE
    assert [minute.number for minute in kept] == list(range(kept[0].number, kept[-1].number + 1))
    assert all(came == 0.0 for came in kept[-1].work)  # it says each time that it answered five


def test_a_cloud_without_elastic_services_loads_no_numpy(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import skyriver as sr
from test_scaler import Cloud
cloud = Cloud(Path({str(tmp_path)!r}), sr.Service(replicas=(0, 1)))
before = "numpy" in sys.modules
cloud.scaler.look()
print(before == ("numpy" in sys.modules), cloud.scaler._scalings)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["True", "{}"], done.stderr
