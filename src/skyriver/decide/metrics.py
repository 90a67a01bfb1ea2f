"""What a worker tells of itself: its report, and the text for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from skyriver.decide.checkpoint import Counters
from skyriver.serve.metrics import Histogram, resident_bytes


def prometheus(
    stream: str, counters: Counters, latency_us: Histogram, *, offset: int, waiting: int, pause_us: int
) -> bytes:
    """The text exposition format, version 0.0.4."""
    label = f'stream="{stream}"'
    lines: list[str] = []

    def family(name: str, kind: str, told: str, values: Mapping[str, float]) -> None:
        lines.extend((f"# HELP {name} {told}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{{{label}{more}}} {value:g}" for more, value in values.items())

    family("skyriver_events_total", "counter", "Events taken.", {"": counters.events})
    by_status = {f',status="{status}"': count for status, count in sorted(counters.by_status.items())}
    family("skyriver_event_outcomes_total", "counter", "Decision records, by status.", by_status)
    by_decision = {f',decision="{decision}"': count for decision, count in sorted(counters.by_decision.items())}
    family("skyriver_decisions_total", "counter", "Decision records, by decision.", by_decision)
    family("skyriver_dead_letters_total", "counter", "Refused events and labels.", {"": counters.dead})
    family("skyriver_duplicates_total", "counter", "Events that were known already.", {"": counters.duplicates})
    family("skyriver_history_rows_total", "counter", "Rows of bulk loads.", {"": counters.history_rows})
    family("skyriver_labels_total", "counter", "Labels taken.", {"": counters.labels})
    quantiles = {f',quantile="{share}"': latency_us.quantile(share) * 1e-6 for share in (0.5, 0.9, 0.99, 0.999)}
    name = "skyriver_event_request_seconds"
    family(name, "summary", "From a whole request to its answer.", quantiles)
    lines.append(f"{name}_sum{{{label}}} {latency_us.total * 1e-6:.9g}")
    lines.append(f"{name}_count{{{label}}} {latency_us.count}")
    family("skyriver_log_offset", "gauge", "The offset that the next record gets.", {"": offset})
    family("skyriver_waiting_rows", "gauge", "Rows that wait for the engine.", {"": waiting})
    pause = "How long events waited for the last checkpoint."
    family("skyriver_checkpoint_pause_seconds", "gauge", pause, {"": pause_us * 1e-6})
    family("process_resident_memory_bytes", "gauge", "Resident memory.", {"": resident_bytes()})
    return ("\n".join(lines) + "\n").encode()
