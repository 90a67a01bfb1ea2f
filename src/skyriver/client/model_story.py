"""The story of a model's last change, in sentences, of the rows that tell it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skyriver.core.units import utc_time

Row = Mapping[str, Any]
_FOR = {
    "drift": " for drift",
    "quality": " because it had become worse",
    "follow_up": " to follow a change up",
    "age": " for its age",
}


def version_told_of(model: Row) -> str:
    """The version that serves; "" where none does."""
    number = model["status"].get("aliases", {}).get("champion", 0)
    return f"{model['name']}:{number}" if number else ""


def story(model: Row, version: Row, rollout: Row | None, watch: Row | None) -> Iterator[str]:
    """`version` serves, by `rollout`, the last one that brought it; `watch` trains the model again by itself."""
    yield _trained(version, watch)
    if gate := version["status"].get("gate"):
        checks = len(gate["checks"])
        by = f"by {checks} check{'s' * (checks != 1)}" if checks else "for it checks nothing"
        yield f"The gate {'let it pass' if gate['passed'] else 'refused it'}, {by}."
    if rollout is not None:
        spec, before = rollout["spec"], rollout["status"].get("from") or 0
        instead = f" in place of version {before}" if before else ""
        how = {"canary": "by steps", "blue_green": "at once, with the one before kept ready", "instant": "at once"}
        cause = "It was gone back to" if spec["cause"] == "rollback" else "It took over"
        yield f"{cause} {how[spec.get('strategy', 'instant')]}{instead}; the rollout {rollout['name']} tells how."
    served = [entry for entry in model["status"].get("history", ()) if entry["version"] == version["spec"]["version"]]
    if served:
        yield f"It serves since {utc_time(served[-1]['at'])} UTC."
    if watch is not None:
        following = f" {watch['next_action']}" if watch["next_action"] else ""
        seen = watch["message"] or "nothing was seen that calls for a training."
        yield f"Its watch is {watch['state']}: {seen}{following}"
        if follow := watch["status"].get("follow"):
            left, times = len(follow["due"]), ", ".join(f"{utc_time(at)} UTC" for at in follow["due"])
            again = "once more" if left == 1 else f"{left} times more"
            yield f"It is trained again {again} for the change that {follow['run']} was for: {times}."


def _trained(version: Row, watch: Row | None) -> str:
    spec = version["spec"]
    source, split = spec.get("source"), spec.get("split")
    if source is None or split is None:
        return f"{version['name']} came as a ready file."
    run = str(spec["job"]).removesuffix("-train").removesuffix("-compress")
    trainings = watch["status"].get("trainings") or () if watch is not None else ()
    by_itself = next((training for training in trainings if training["run"] == run), None)
    why = f"by itself{_FOR[by_itself['cause']]}: {by_itself['why']}" if by_itself else "because somebody asked for it."
    rows = f"{split['train'][2]:,} rows of {source['name']} (version {source['table_version']} of its table)"
    return f"{version['name']} was trained on {rows} by {run}, {why}"
