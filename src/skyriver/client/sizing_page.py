"""How large a service's replicas are, and why, in sentences: rows of a run, threads, memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from skyriver.core.resources import UNDECLARED_MB
from skyriver.core.units import parse_duration

FAR_TOO_MUCH: Final = 4
"""Times what would do."""
NEARLY: Final = 0.9
GAIN: Final = 1.05
"""Times as much work one by one, before it is said that runs are shared."""


def lines(service: Mapping[str, Any], scaling: Mapping[str, Any] | None = None) -> Iterator[tuple[str, str]]:
    """(rule, sentence) each; `service` as it is explained, with its replicas' reports; `scaling`: its row, where its
    replicas follow the load."""
    serve, versions = service["spec"]["serve"], service["spec"].get("versions", {})
    sizing = service["status"].get("sizing", {})
    reports = [told for told in service["processes"].values() if told.get("alive") and told.get("ready")]
    for version in sorted(versions, key=int, reverse=True):
        told = next((told for told in reports if str(told.get("version")) == version), None)
        which = f"Version {version}: " if len(versions) > 1 else ""
        if told is not None and (sentence := _batch(serve, told)):
            yield "batch", f"{which}{sentence}{_gain(scaling or {})}"
        if parallel := sizing.get(version, {}).get("parallel"):
            yield "threads", which + _threads(parallel)
    if memory := max((told.get("memory_mb", 0) for told in sizing.values()), default=0):
        peak = max((float(told.get("peak_mb", 0)) for told in reports), default=0.0)
        yield "memory", _memory(int(serve.get("memory_mb", UNDECLARED_MB)), memory, peak)


def _batch(serve: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """ "" where nothing was measured, nobody says how soon answers are wanted, or one row alone is later."""
    if not serve.get("latency") or not told.get("row_us"):
        return ""
    rows, one = int(told["max_batch"]), float(told["row_us"]) / 1_000
    run = (float(told.get("fixed_us", 0)) + rows * float(told.get("each_us", 0))) / 1_000
    wanted = parse_duration(serve["latency"]) / 1_000
    if one > wanted:
        return ""
    if rows == 1:
        return f"Each row has a run for itself ({_plain(one)} ms): more in one would not be faster, or take too long."
    held = "which has to be within" if 2 * run <= wanted else "which is more than the wanted"
    return (
        f"Up to {rows} rows share a run: {_plain(run)} ms, and {_plain(one)} ms for one alone. Who comes during one"
        f" waits for two, {held} {_plain(wanted, 6)} ms."
    )


def _gain(scaling: Mapping[str, Any]) -> str:
    """What full runs spare; "" where that is next to nothing, or not measured."""
    measured = scaling.get("status", {}).get("measured", {})
    work_s, alone_s = measured.get("work_s", 0), measured.get("alone_s", 0)
    if measured.get("batch", 0) <= 1 or alone_s <= GAIN * work_s:
        return ""
    came = scaling["status"].get("came", 0)
    said = (
        f" A request takes {_plain(1_000 * work_s)} ms of a replica in a full run, {_plain(1_000 * alone_s)} ms alone"
    )
    comes = f": {came:.2f} replicas' work comes now, {came * alone_s / work_s:.2f} one by one" if came else ""
    return f"{said}{comes}. Runs grow before another replica starts."


def _threads(parallel: Mapping[str, Any]) -> str:
    rates = "; ".join(
        f"with {threads} a row takes {_plain(one / 1_000)} ms, and {_plain(rate, 5)} rows a second are possible"
        for threads, (one, rate) in parallel["measured"].items()
    )
    if load_s := parallel.get("untried_load_s"):
        rates = f"others are not tried, for the model takes {_plain(load_s)} s to load, each time; {rates}"
    return f"{parallel['threads']} of at most {parallel['cores']}: {rates}. Measured on {parallel['machine']}."


def _plain(value: float, digits: int = 3) -> str:
    """Never as a power of ten."""
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:,.{digits}g}"


def _memory(declared: int, needed: int, peak_mb: float) -> str:
    held = f"the most that a replica held is {peak_mb:,.0f} MB" if peak_mb else "none is up"
    if declared == UNDECLARED_MB:
        return f"{needed:,} MB are set aside for a replica, by what was measured with a margin; {held}."
    if declared >= FAR_TOO_MUCH * needed:
        return f"{declared:,} MB are declared for a replica, and {held}: {needed:,} would do."
    if peak_mb >= NEARLY * declared:
        return f"{declared:,} MB are declared for a replica, and {held}: {needed:,} would leave it a margin."
    return f"{declared:,} MB are declared for a replica; {held}."
