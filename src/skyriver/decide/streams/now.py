"""What a stream is and does now, for people and programs: its rows and the last word of its worker, joined. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from skyriver.core.contract import (
    DispatcherNow,
    FeatureChangeNow,
    PartitionNow,
    Quantiles,
    RulesVersion,
    StreamNow,
    TableNow,
)
from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.spec import StreamSpec
from skyriver.data.operations import rejected_table, tables_of_stream
from skyriver.decide.streams.rules_release import list_rules


def stream_now(snapshot: Snapshot, stream: Resource) -> StreamNow:
    spec = StreamSpec.model_validate(stream.spec["stream"])
    names = (*tables_of_stream(spec), rejected_table(spec.name))
    tables = [snapshot.find(stream.tenant, "table", name) for name in names]
    held = next((int(t.status.get("offset", -1)) for t in tables if t is not None and t.name == stream.name), -1)
    workers = snapshot.children(stream, "worker")
    partitions = [_partition(w, snapshot.processes.get(w.process), held, snapshot.now) for w in workers]
    return {
        "name": stream.name,
        "state": stream.state,
        **_all_told(stream, partitions),
        "since": stream.since,
        "at": snapshot.now,
        "durability": spec.durability,
        "decides": _decides(snapshot, stream, ready=any(worker.state == "READY" for worker in workers)),
        "partitions": partitions,
        "dispatcher": _dispatcher(snapshot, stream),
        "tables": [_table(table) for table in tables if table is not None and "version" in table.status],
    }


class _Told(TypedDict):
    reason: str
    message: str
    next_action: str


def _all_told(stream: Resource, partitions: Sequence[PartitionNow]) -> _Told:
    """What the row says and what its workers say besides: one does not hide the other."""
    told: _Told = {"reason": stream.reason, "message": stream.message, "next_action": stream.next_action}
    for partition in partitions:
        if partition["message"] and partition["message"] not in told["message"]:
            told = {
                "reason": told["reason"] or partition["reason"],
                "message": f"{told['message']} {partition['message']}".strip(),
                "next_action": f"{told['next_action']} {partition['next_action']}".strip(),
            }
    return told


def _decides(snapshot: Snapshot, stream: Resource, *, ready: bool) -> Mapping[str, Any] | None:
    decide = stream.spec.get("decide")
    if not decide:
        return None
    versions = list_rules(snapshot, stream)
    live = next((v for v in versions if v["state"] == "LIVE"), None)
    return {
        "model": decide["model"],
        "version": int(stream.status.get("model_version") or 0) if ready else None,
        "rules": live["rules"] if live is not None else decide["rules"],
        "rules_version": live["version"] if live is not None else 0,
        "trial": next((_trial(v) for v in versions if v["state"] in ("SHADOW", "CANARY")), None),
        "otherwise": decide["otherwise"],
        "fallback": decide["fallback"],
        "combine": decide.get("combine", []),
    }


def _trial(version: RulesVersion) -> Mapping[str, Any]:
    compared = version["compared"]
    counts = {"events": compared["events"], "differed": compared["differed"]} if compared is not None else {}
    return {**{what: version[what] for what in ("version", "state", "percent", "in_use")}, **counts}


def _partition(worker: Resource, process: ProcessStatus | None, held: int, now: int) -> PartitionNow:
    report = process.report if process is not None else {}
    offset, time = int(report.get("offset", 0)), report.get("effective_time")
    return {
        "partition": int(worker.spec.get("partition", 0)),
        "worker": worker.name,
        "state": worker.state,
        "reason": worker.reason or str(report.get("reason", "")),
        "message": f"{worker.message} {report.get('message', '')}".strip(),
        "next_action": worker.next_action or str(report.get("next_action", "")),
        "pid": process.pid if process is not None and process.alive else 0,
        "started_at": process.started_at if process is not None else 0,
        "rss_mb": process.rss_mb if process is not None else 0.0,
        "cpu_seconds": process.cpu_seconds if process is not None else 0.0,
        "epoch": int(report.get("epoch", 0)),
        "offset": offset,
        "first_offset": int(report.get("first_offset", 0)),
        "log_bytes": int(report.get("log_bytes", 0)),
        "local_log_bytes": int(report.get("local_log_bytes", 0)),
        "tier_lag_bytes": int(report.get("tier_lag_bytes", 0)),
        "effective_time": time,
        "behind_seconds": round((now - time) / 1e6, 3) if time is not None else None,
        "events": int(report.get("events", 0)),
        "decided": int(report.get("decided", 0)),
        "by_status": report.get("by_status", {}),
        "by_decision": report.get("by_decision", {}),
        "by_reason": report.get("by_reason", {}),
        "dead": int(report.get("dead", 0)),
        "dead_by_reason": report.get("dead_by_reason", {}),
        "duplicates": int(report.get("duplicates", 0)),
        "history_rows": int(report.get("history_rows", 0)),
        "labels": int(report.get("labels", 0)),
        "reference_rows": int(report.get("reference_rows", 0)),
        "lists": report.get("lists", []),
        "budgets": report.get("budgets", []),
        "waiting_rows": int(report.get("waiting_rows", 0)),
        "undecided": int(report.get("undecided", 0)),
        "not_materialised": max(0, offset - 1 - held),
        "events_per_second": float(report.get("events_per_second", 0.0)),
        "decisions_per_second": float(report.get("decisions_per_second", 0.0)),
        "decision_us": report.get("decision_us") or _nothing(),
        "answer_us": report.get("answer_us") or _nothing(),
        "checkpoint_offset": int(report.get("checkpoint_offset", 0)),
        "checkpoint_at": int(report.get("checkpoint_at", 0)),
        "checkpoint_pause_us": int(report.get("checkpoint_pause_us", 0)),
        "stored_bytes": report.get("stored_bytes", {}),
        "feature_keys": int(report.get("feature_keys", 0)),
        "feature_bytes": int(report.get("feature_bytes", 0)),
        "keys": report.get("keys", []),
        "feature_change": _change(report.get("features")),
        "source": report.get("source"),
        "pace": report.get("pace"),
        "last_dead": report.get("last_dead", []),
    }


def _change(told: Mapping[str, Any] | None) -> FeatureChangeNow | None:
    if not told:
        return None
    return {
        "digest": str(told["digest"]),
        "state": told["state"],
        "offset": int(told["offset"]),
        "end": int(told["end"]),
        "events": int(told.get("events", 0)),
        "events_per_second": float(told.get("events_per_second", 0.0)),
        "cpu_seconds": float(told.get("cpu_seconds", 0.0)),
        "memory_mb": float(told["memory_mb"]),
        "disk_mb": float(told["disk_mb"]),
        "whole_from": told.get("whole_from"),
    }


def _dispatcher(snapshot: Snapshot, stream: Resource) -> DispatcherNow | None:
    row = snapshot.find(stream.tenant, "dispatcher", stream.name)
    if row is None:
        return None
    process = snapshot.processes.get(row.process)
    report = process.report if process is not None else {}
    return {
        "state": row.state,
        "reason": row.reason or str(report.get("reason", "")),
        "message": row.message or str(report.get("message", "")),
        "next_action": row.next_action or str(report.get("next_action", "")),
        "pid": process.pid if process is not None and process.alive else 0,
        "rss_mb": process.rss_mb if process is not None else 0.0,
        "cpu_seconds": process.cpu_seconds if process is not None else 0.0,
        "offset": int(report.get("offset", 0)),
        "behind": int(report.get("behind", 0)),
        "missed": int(report.get("missed", 0)),
        "sinks": report.get("sinks", []),
        "reviews": report.get("reviews"),
    }


def _nothing() -> Quantiles:
    return {"p50": 0, "p99": 0, "p999": 0}


def _table(table: Resource) -> TableNow:
    status = table.status
    return {
        "name": table.name,
        "version": int(status["version"]),
        "rows": int(status.get("rows", 0)),
        "bytes": int(status.get("bytes", 0)),
        "updated_at": table.updated_at,
    }
