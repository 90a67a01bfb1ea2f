"""Streams beside their peers: the same twelve features of the same payments, on one core each; then the flagship.

    python bench/streams.py [--quick] [--part NAME ...] [--volume GB] [--realtime]

Prints one JSON document; progress goes to stderr. --part: only that (kernel, decisions, peers, keys, flagship,
volume, day). --quick leaves volume and day out.
Exit code 1: a goal does not hold.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _kernel
import _payments
import polars as pl
from _decisions import measure_decisions, measure_keys
from _document import Document, Goal
from _flagship import measure_flagship
from _peers import ALWAYS, BYTEWAX_RECOVERY, DUCKDB, FLINK_SQL, IN_FULL, Files, measure_peer, rate
from _processes import Failed, workplace
from _stream_worker import cores
from _volume import RETENTION_GB, SLACK_GB, measure_day, measure_volume

GOALS = (
    Goal("events_per_second_core", ">=", 130_000, "events/s"),
    Goal("kernel_events_per_second_core", ">=", 5_000_000, "events/s"),
    Goal("ratio_to_flink_sql", ">=", 5, ""),
    Goal("ratio_to_bytewax_recovery", ">=", 4, ""),
    Goal("cost_growth_10k_to_10m_keys", "<=", 20, "%"),
    Goal("replay_equal", ">=", 1, "0 or 1"),
    Goal("decided_equal_to_duckdb", ">=", 1, "0 or 1"),
    Goal("flagship_p99_ms_process", "<=", 5, "ms"),
    Goal("flagship_p99_ms_disk", "<=", 15, "ms"),
    Goal("flagship_cpu_share", "<=", 0.25, "of a core"),
    Goal("flagship_rss_growth_percent", "<=", 2, "%"),
    Goal("volume_gigabytes", ">=", 50, "GB"),
    Goal("volume_disk_gigabytes", "<=", RETENTION_GB + SLACK_GB, "GB"),
    Goal("volume_not_decided", "<=", 0, "events"),
    Goal("day_events", ">=", 86_400_000, "events"),
)
KEYS = (10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    days: int = 183
    """Of the handbook's payments; the first 37 fill the windows."""
    customers: int = 5_000
    """And twice as many terminals."""
    live: int = 2_000_000
    """Events sent one batch after another, at most."""
    live_disk: int = 300_000
    peers: int = 1_000_000
    """Events that peers are timed on."""
    sample_days: int = 60
    keys: tuple[int, ...] = KEYS
    kernel_key_events: int = 15_000_000
    """In 45 days: in 30 of them all of 10 million keys are met."""
    keys_live: int = 2_100_000
    keys_rounds: int = 21
    """In so many, of which the first is not counted."""
    process_seconds: float = 300.0
    disk_seconds: float = 300.0
    nothing_seconds: float = 30.0
    volume_gb: float = 51.0
    day_events: int = 86_400_000
    full: bool = True
    realtime: bool = False
    """Whether the flagship and its controls go before all other work of the machine."""


QUICK = Sizes(
    live=300_000,
    live_disk=100_000,
    peers=200_000,
    keys=(KEYS[0], KEYS[-1]),
    keys_live=1_050_000,
    process_seconds=100.0,
    disk_seconds=40.0,
    nothing_seconds=10.0,
    full=False,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What the parts share."""

    document: Document
    sizes: Sizes
    folder: Path
    payments: pl.DataFrame
    model: bytes

    @property
    def kernels(self) -> Path:
        return self.folder / "kernels"


def prepare(document: Document, sizes: Sizes, folder: Path) -> Bench:
    payments = _payments.handbook(sizes.days, customers=sizes.customers, terminals=2 * sizes.customers)
    model = _payments.train(_payments.declare(), payments[:300_000], folder / "kernels")
    return Bench(document, sizes, folder, payments, model)


def measure_kernel(bench: Bench) -> None:
    app = _payments.declare()
    document = bench.document
    for size in (1_024, 16_384):
        found = _kernel.measure(app, bench.payments, bench.kernels, size)
        document.row("skyriver", f"kernel alone, handbook's payments, {size} records a batch", **_figures(found))
    rates = {}
    for keys in bench.sizes.keys:
        payments = _payments.spread(keys, bench.sizes.kernel_key_events, days=45)
        found = _kernel.measure(app, payments, bench.kernels, 16_384)
        document.row("skyriver", f"kernel alone, {keys} customers and as many terminals", **_figures(found))
        rates[keys] = found.rate
    growth = 100 * (rates[min(rates)] / rates[max(rates)] - 1)
    document.measured(
        "kernel_events_per_second_core",
        round(rates[min(rates)]),
        note=f"from {min(rates)} to {max(rates)} keys an event costs {growth:.0f}% more",
    )


def _figures(found: _kernel.KernelFigures) -> dict[str, Any]:
    return {
        "events": found.events,
        "events_per_cpu_second": round(found.rate),
        "active_keys": found.keys,
        "bytes_a_key": round(found.bytes_a_key),
    }


def measure_peers(bench: Bench) -> None:
    """Each beside DuckDB's features of a sample that fills all windows."""
    sample = _payments.handbook(bench.sizes.sample_days, customers=300, terminals=600)
    files = Files.write(bench.folder / "peers", sample, bench.payments[: bench.sizes.peers], bench.model)
    reference = measure_peer(bench.document, DUCKDB, files, None)
    for peer in (*ALWAYS, *(IN_FULL if bench.sizes.full else ())):
        measure_peer(bench.document, peer, files, reference)


def compare(bench: Bench) -> None:
    ours = bench.document.value("events_per_second_core")
    if ours is None:
        raise Failed("events_per_second_core was not measured")
    for name, peer in (("ratio_to_flink_sql", FLINK_SQL), ("ratio_to_bytewax_recovery", BYTEWAX_RECOVERY)):
        try:
            value = ours / rate(bench.document, peer)
        except Failed as error:
            bench.document.missed(name, str(error))
        else:
            bench.document.measured(name, round(value, 2), note="by CPU seconds; ours with scoring and decisions")


RATIOS = ("ratio_to_flink_sql", "ratio_to_bytewax_recovery")
DECISIONS = ("events_per_second_core", "replay_equal", "decided_equal_to_duckdb")
FLAGSHIP = (
    "flagship_p99_ms_process",
    "flagship_p99_ms_disk",
    "flagship_cpu_share",
    "flagship_rss_growth_percent",
)
PARTS: dict[str, tuple[tuple[str, ...], Callable[[Bench], None]]] = {
    "kernel": (("kernel_events_per_second_core",), measure_kernel),
    "decisions": (DECISIONS, measure_decisions),
    "peers": ((), measure_peers),
    "keys": (("cost_growth_10k_to_10m_keys",), measure_keys),
    "flagship": (FLAGSHIP, measure_flagship),
    "volume": (("volume_gigabytes", "volume_disk_gigabytes", "volume_not_decided"), measure_volume),
    "day": (("day_events",), measure_day),
}


def measure(document: Document, sizes: Sizes, parts: list[str]) -> None:
    with workplace() as folder:
        bench = prepare(document, sizes, folder)
        for name, (goals, work) in PARTS.items():
            if name in parts:
                document.part(goals, lambda work=work: work(bench))
            else:
                for goal in goals:
                    document.missed(goal, f"this run leaves out {name}", wanted=False)
        if "peers" in parts and "decisions" in parts:
            document.part(RATIOS, lambda: compare(bench))
        else:
            for goal in RATIOS:
                document.missed(goal, "this run leaves out one side of it", wanted=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="at most ten minutes in all, once the peers are installed")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="only this (may be given several times)")
    parser.add_argument("--volume", type=float, metavar="GB", help="that much through the log (51; --quick: none)")
    parser.add_argument(
        "--realtime", action="store_true", help="the flagship and its controls go before all other work of the machine"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started here is ended
    document = Document("streams", GOALS)
    document.row("all", "how they ran", flagship_in_realtime=given.realtime, cores=cores())
    sizes = replace(QUICK if given.quick else Sizes(), realtime=given.realtime)
    parts = given.part or [name for name in PARTS if not given.quick or name not in ("volume", "day")]
    if given.volume:
        sizes = replace(sizes, volume_gb=given.volume)
        parts = list(dict.fromkeys([*parts, "volume"]))
    document.part((), lambda: measure(document, sizes, parts))
    return 0 if document.print() else 1


if __name__ == "__main__":
    sys.exit(main())
