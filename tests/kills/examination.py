"""What was lost, what was done twice, what was left behind."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud_process import Cloud

from kills.changes import Operator
from kills.journal import Journal
from kills.load import Background, Sender, same_decision
from kills.victims import below, read_json
from skyriver.adapters.segments.log import SegmentReader
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.client.api import Client
from skyriver.core.errors import SkyriverError
from skyriver.core.names import digest
from skyriver.data.log import RecordKind
from skyriver.decide.log.blocks import decisions_of, events_of
from skyriver.decide.log.records import decode_label

ORPHAN_SECONDS = 12.0
"""A process whose start was cut off before anybody knew of it waits ten seconds for its run file, and ends."""
SETTLING_SECONDS = 240.0
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


class Doubles(Background):
    """Looks for two living processes of one name, where more than one does the work."""

    def __init__(self, cloud: Cloud, journal: Journal) -> None:
        super().__init__(journal, 0.2)
        self.looked = 0
        self.shared: set[Path] = set()
        """Every file of shared memory that one of them ever had."""
        self._cloud = cloud
        self._since: dict[tuple[str, int], float] = {}
        self._told: set[tuple[str, int]] = set()

    def turn(self) -> None:
        self.looked += 1
        by_name: dict[str, list[int]] = {}
        for pid, command in self._cloud.living().items():
            if self.looked % 10 == 0:
                self.shared |= _shared_memory(pid)
            if name := process_name(command):
                by_name.setdefault(name, []).append(pid)
        seen: dict[tuple[str, int], float] = {}
        for name, pids in by_name.items():
            for pid in self._strangers(name, pids):
                seen[name, pid] = self._since.get((name, pid), time.monotonic())
        self._since = seen
        for (name, pid), since in seen.items():
            if (name, pid) not in self._told and self._works(name, pid, time.monotonic() - since):
                self._told.add((name, pid))
                self.journal.twice.append(f"two living processes are {name}: {by_name[name]}, unknown is {pid}")

    def _strangers(self, name: str, pids: Sequence[int]) -> Iterable[int]:
        """Those that are neither the recorded one nor started by it."""
        if len(pids) < 2:
            return ()
        recorded = int(self._file(name, "run").get("pid", 0))
        return set(pids) - {recorded, *below(recorded)} if recorded in pids else ()

    def _works(self, name: str, pid: int, seconds: float) -> bool:
        """Whether it does what the recorded one does: it reports, or stays although nobody knows of it."""
        return seconds > ORPHAN_SECONDS or (seconds > 0 and self._file(name, "status").get("pid") == pid)

    def _file(self, name: str, part: str) -> Mapping[str, Any]:
        run = self._cloud.home / "run"
        return read_json(run / (f"{name}.json" if "." not in name else f"{name}.{part}.json"))


def _shared_memory(pid: int) -> set[Path]:
    with contextlib.suppress(OSError):
        words = (line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
        return {Path(w[5].removesuffix(" (deleted)")) for w in words if len(w) > 5 and w[5].startswith("/dev/shm/")}
    return set()


def process_name(command: str) -> str:
    """Of one of ours: `control`, `default.worker.orders-0`; "" for others."""
    words = command.split()
    if "-m" not in words[:-2]:
        return ""
    module, last = words[words.index("-m") + 1], words[-1]
    if not module.startswith("skyriver.wiring."):
        return ""
    return Path(last).name.removesuffix(".config.json") if last.endswith(".json") else module.rpartition(".")[2]


class Examination:
    """Of a cloud that still runs (`settle`, `running`), then of what it left on disk (`ended`)."""

    def __init__(self, cloud: Cloud, journal: Journal, senders: Sequence[Sender], operator: Operator) -> None:
        self._cloud = cloud
        self._journal = journal
        self._answers = {order: decision for s in senders for order, decision in s.answers.items()}
        self._labels = {order: value for s in senders for order, value in s.labels.items()}
        self._operator = operator
        self.checked: Counter[str] = Counter()
        self.unsettled: list[str] = []

    def settle(self) -> None:
        """Until everything is READY and every operation is at its end; what is not is kept in `unsettled`."""
        deadline = time.monotonic() + SETTLING_SECONDS
        while time.monotonic() < deadline:
            try:
                self.unsettled = self._open()
            except (OSError, SkyriverError) as error:
                self.unsettled = [f"the cloud does not answer: {error}"]
            if not self.unsettled:
                return
            time.sleep(0.2)

    def _open(self) -> list[str]:
        with self._client() as client:
            rows = [r for kinds in ("streams", "services", "replicas", "workers") for r in client.list(kinds)]
            wrong = [f"{r['kind']} {r['name']} is {r['state']} {r['reason']}" for r in rows if r["state"] != "READY"]
            running = [r for kinds in ("operations", "jobs") for r in client.list(kinds) if r["state"] not in ENDED]
            return wrong + [f"{r['kind']} {r['name']} is {r['state']}" for r in running]

    def _client(self) -> Client:
        return Client(f"http://127.0.0.1:{self._cloud.port}", self._cloud.token)

    def running(self) -> None:
        with self._client() as client:
            self._decisions_are_the_first(client)
            operations = {r["name"]: r for r in client.list("operations")}
            versions, rollouts = list(client.list("versions")), list(client.list("rollouts"))
            jobs = {r["name"]: r for r in client.list("jobs")}
            history = client.get("models", "comes_back")["status"].get("history", [])
            self._verify(client)
        self.operations_are_there(operations)
        self.made_once(versions, rollouts, history)
        self._started_once(jobs)

    def _decisions_are_the_first(self, client: Client) -> None:
        for order, decision in list(self._answers.items())[:: max(1, len(self._answers) // 1_000)]:
            try:
                found = client.decision("orders", order)
            except SkyriverError as error:
                self._journal.lost.append(f"the decision on {order}: {error}")
                continue
            self.checked["decisions_asked_for"] += 1
            if not same_decision(decision, found):
                self._journal.decided_twice.append(f"order {order}: {decision}, then {found}")

    def _verify(self, client: Client) -> None:
        report = client.wait(client.act("verify", "orders"), timeout=SETTLING_SECONDS)["status"]["result"]["verify"]
        self.checked["features_compared"] = int(report["compared"])
        if report["decided_twice"]:
            self._journal.decided_twice.append(f"stream verify: {report}")
        if report["different"] or report["undecided"]:
            self._journal.wrong.append(f"stream verify: {report}")

    def operations_are_there(self, operations: Mapping[str, Mapping[str, Any]]) -> None:
        changes = self._operator.changes
        self.checked["changes_acknowledged"] = sum(c.acknowledged for c in changes)
        self.checked["changes_without_an_answer"] = sum(not c.acknowledged for c in changes)
        self.checked["changes_refused"] = self._operator.refused
        acknowledged = [c for c in changes if c.operation]
        for change in acknowledged:
            if change.operation not in operations:
                self._journal.lost.append(f"{change.action} {change.operation} was acknowledged and is not there")
        repeated = [name for name, times in Counter(c.operation for c in acknowledged).items() if times > 1]
        self._journal.twice.extend(f"the operation {name} was answered to two requests" for name in repeated)
        self.checked["operations"] = len(acknowledged)
        self.checked["operations_failed"] = sum(
            operations[c.operation]["state"] == "FAILED" for c in acknowledged if c.operation in operations
        )
        for action in ("train", "rollback", "load"):
            made = sum(o["spec"]["action"] == action for o in operations.values())
            self._count(f"operations of {action}", action, made)

    def _count(self, what: str, action: str, found: int, before: int = 1) -> None:
        """As many as were acknowledged, and at most those of which no answer came besides."""
        before = 0 if action == "rollback" else before  # one load and one training prepared the cloud
        asked = [c for c in self._operator.changes if c.action == action]
        least = before + sum(c.acknowledged for c in asked)
        if found < least:
            self._journal.lost.append(f"{what}: {found} of {least} that were acknowledged")
        if found > before + len(asked):
            self._journal.twice.append(f"{what}: {found}, and {before + len(asked)} were asked for")

    def made_once(
        self, versions: Sequence[Mapping[str, Any]], rollouts: Sequence[Mapping[str, Any]], history: Sequence[Any]
    ) -> None:
        by_job = Counter(v["spec"]["job"] for v in versions)
        self._journal.twice.extend(f"the job {job} made {n} versions" for job, n in by_job.items() if n > 1)
        by_parent = Counter(r["parent"] for r in rollouts)
        self._journal.twice.extend(f"{parent} had {n} rollouts" for parent, n in by_parent.items() if n > 1)
        done = sorted((int(r["name"].rpartition("-")[2]), r) for r in rollouts if r["state"] == "DONE")
        wanted = [(r["spec"]["to"], r["spec"]["cause"]) for _, r in done][-100:]
        if [(h["version"], h["cause"]) for h in history] != wanted:
            self._journal.twice.append(f"the model's history is {history}, its rollouts were {wanted}")
        self.checked["versions"], self.checked["rollouts"] = len(versions), len(rollouts)

    def _started_once(self, jobs: Mapping[str, Mapping[str, Any]]) -> None:
        """A job's process tells its log when its work begins; twice means that two did, or one after the other."""
        for name, job in jobs.items():
            path = self._cloud.home / "logs" / "jobs" / f"default.job.{name}.log"
            with contextlib.suppress(OSError):
                begun = sum(line.startswith(f"job {name}: ") for line in path.read_text(errors="replace").splitlines())
                self.checked["job_logs"] += 1
                attempts = max(1, int(job["attempts"]))
                if begun > attempts:
                    self._journal.twice.append(f"the job {name} began {begun} times in {attempts} attempts")

    def ended(self, shared: Iterable[Path]) -> None:
        """After `down`, on what is on disk, with the product's own readers; `shared` memory must be gone."""
        self._log_has_all()
        store = SqliteStore(self._cloud.home / "state.db")
        try:
            head = store.verify_audit()
            rows: list[dict[str, Any]] = []
            while page := store.audit("default", after=rows[-1]["seq"] if rows else 0, limit=1_000):
                rows += page
        finally:
            store.close()
        self.checked["audit_rows"] = head.seq
        for action in ("deploy", "train", "rollback", "load"):
            self._count(f"audit rows of {action}", action, sum(r["action"] == action for r in rows))
        group = f"skyriver-{digest(str(self._cloud.home).encode())[:12]}"
        files = [*self._cloud.sockets(), *(p for p in shared if p.exists()), *Path("/sys/fs/cgroup").rglob(group)]
        if left := [*self._cloud.living().values(), *map(str, files)]:
            self._journal.wrong.append(f"left behind by down: {left}")

    def _log_has_all(self) -> None:
        events: Counter[int] = Counter()
        decisions: dict[int, list[Any]] = {}
        labels: set[tuple[int, float]] = set()
        for record in SegmentReader(self._cloud.home / "streams" / "default" / "orders" / "log").read():
            for _, values in events_of(record):
                events[int(values[0])] += 1  # type: ignore[arg-type]
            for decision in decisions_of(record):
                decisions.setdefault(int(decision.id), []).append(decision)
            if record.kind is RecordKind.LABEL:
                label = decode_label(record.payload)
                labels.add((int(label.subject_id), label.value))
        self.compare(events, decisions)
        missing = [order for order, value in self._labels.items() if (order, float(value)) not in labels]
        self._journal.lost.extend(f"the label of {order} is not in the log" for order in missing)
        self.checked["events"], self.checked["labels"] = len(self._answers), len(self._labels)

    def compare(self, events: Counter[int], decisions: Mapping[int, Sequence[Any]]) -> None:
        for order, answer in self._answers.items():
            found = decisions.get(order, ())
            if not events[order] or not found:
                self._journal.lost.append(f"order {order}: {events[order]} events, {len(found)} decisions in the log")
            elif (answer["event_offset"], answer["decision"], answer["score"]) != (
                found[0].event_offset,
                found[0].decision,
                found[0].score,
            ):
                self._journal.decided_twice.append(f"order {order}: answered {answer}, the log has {found[0]}")
        for order, times in events.items():
            if times > 1 or len(decisions.get(order, ())) > 1:
                self._journal.decided_twice.append(f"order {order} is in the log {times} times")
