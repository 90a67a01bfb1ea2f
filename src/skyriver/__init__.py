"""Skyriver: an open AI cloud in one package. Applications say `import skyriver as sr`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from skyriver.core.app import App
    from skyriver.core.budgets import Budget, Count, Strictest
    from skyriver.core.costs import Cost, Costs
    from skyriver.core.decisions import Rule
    from skyriver.core.errors import SkyriverError
    from skyriver.core.events import Event, Time, field
    from skyriver.core.expr import count, decayed_mean, distinct, last, lookup, maximum, mean, minimum, since, std
    from skyriver.core.expr import total as sum
    from skyriver.core.gates import Gate, Slice
    from skyriver.core.retraining import Retrain
    from skyriver.core.rollouts import BlueGreen, Canary, Guards, Shadow
    from skyriver.core.searching import Choice, Float, Int, Search
    from skyriver.core.serving import from_stream as FromStream
    from skyriver.core.sources import Mqtt, Nats, NatsLog
    from skyriver.core.spec import CleanSpec as Clean
    from skyriver.core.spec import CompressSpec as Compress
    from skyriver.core.spec import ServiceSpec as Service
    from skyriver.core.spec_augment import CropSpec as Crop
    from skyriver.core.spec_augment import DropTokensSpec as DropTokens
    from skyriver.core.spec_augment import FlipSpec as Flip
    from skyriver.core.spec_augment import JitterSpec as Jitter
    from skyriver.core.spec_augment import MinoritySpec as Minority
    from skyriver.core.spec_augment import MixupSpec as Mixup
    from skyriver.core.spec_augment import NoiseSpec as Noise
    from skyriver.core.terms import Cron, precision_at
    from skyriver.core.work import Job
    from skyriver.train.data import TrainingData
    from skyriver.train.feed.files import rows

__all__ = [
    "App",
    "BlueGreen",
    "Budget",
    "Canary",
    "Choice",
    "Clean",
    "Compress",
    "Cost",
    "Costs",
    "Count",
    "Cron",
    "Crop",
    "DropTokens",
    "Event",
    "Flip",
    "Float",
    "FromStream",
    "Gate",
    "Guards",
    "Int",
    "Jitter",
    "Job",
    "Minority",
    "Mixup",
    "Mqtt",
    "Nats",
    "NatsLog",
    "Noise",
    "Retrain",
    "Rule",
    "Search",
    "Service",
    "Shadow",
    "SkyriverError",
    "Slice",
    "Strictest",
    "Time",
    "TrainingData",
    "count",
    "decayed_mean",
    "distinct",
    "field",
    "last",
    "lookup",
    "maximum",
    "mean",
    "minimum",
    "precision_at",
    "rows",
    "since",
    "std",
    "sum",
]

# Loaded on first use, so that a process that needs only one room does not pay for all.
_HOMES = {
    "App": ("core.app", "App"),
    "BlueGreen": ("core.rollouts", "BlueGreen"),
    "Budget": ("core.budgets", "Budget"),
    "Canary": ("core.rollouts", "Canary"),
    "Choice": ("core.searching", "Choice"),
    "Clean": ("core.spec", "CleanSpec"),
    "Compress": ("core.spec", "CompressSpec"),
    "Cost": ("core.costs", "Cost"),
    "Costs": ("core.costs", "Costs"),
    "Count": ("core.budgets", "Count"),
    "Cron": ("core.terms", "Cron"),
    "Event": ("core.events", "Event"),
    "Float": ("core.searching", "Float"),
    "FromStream": ("core.serving", "from_stream"),
    "Gate": ("core.gates", "Gate"),
    "Guards": ("core.rollouts", "Guards"),
    "Int": ("core.searching", "Int"),
    "Job": ("core.work", "Job"),
    "Mqtt": ("core.sources", "Mqtt"),
    "Nats": ("core.sources", "Nats"),
    "NatsLog": ("core.sources", "NatsLog"),
    "Retrain": ("core.retraining", "Retrain"),
    "Rule": ("core.decisions", "Rule"),
    "Search": ("core.searching", "Search"),
    "Service": ("core.spec", "ServiceSpec"),
    "Slice": ("core.gates", "Slice"),
    "Shadow": ("core.rollouts", "Shadow"),
    "SkyriverError": ("core.errors", "SkyriverError"),
    "Strictest": ("core.budgets", "Strictest"),
    "Time": ("core.events", "Time"),
    "TrainingData": ("train.data", "TrainingData"),
    "count": ("core.expr", "count"),
    "decayed_mean": ("core.expr", "decayed_mean"),
    "distinct": ("core.expr", "distinct"),
    "field": ("core.events", "field"),
    "last": ("core.expr", "last"),
    "lookup": ("core.expr", "lookup"),
    "maximum": ("core.expr", "maximum"),
    "mean": ("core.expr", "mean"),
    "minimum": ("core.expr", "minimum"),
    "precision_at": ("core.terms", "precision_at"),
    "rows": ("train.feed.files", "rows"),
    "since": ("core.expr", "since"),
    "std": ("core.expr", "std"),
    "sum": ("core.expr", "total"),
    "Crop": ("core.spec_augment", "CropSpec"),
    "Flip": ("core.spec_augment", "FlipSpec"),
    "Jitter": ("core.spec_augment", "JitterSpec"),
    "Mixup": ("core.spec_augment", "MixupSpec"),
    "DropTokens": ("core.spec_augment", "DropTokensSpec"),
    "Noise": ("core.spec_augment", "NoiseSpec"),
    "Minority": ("core.spec_augment", "MinoritySpec"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skyriver' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(f"skyriver.{module}"), attribute)
