"""The reasons of decisions that somebody asks for, in a thread of its own, while batches go on.

The first decision of a version costs some tens of milliseconds, in which its trees are brought into tables; others a
fraction of one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from skyriver.core.errors import SkyriverError
from skyriver.decide.decision.reasons import Explainer, ReasonCode
from skyriver.decide.log.records import DecisionRecord

KEPT = 4
"""Explainers, of the versions that were asked for last."""
MOST = 100
"""Decisions that wait; of more no reasons are told."""

_log = logging.getLogger(__name__)


class Told(msgspec.Struct, frozen=True):
    """What is told of a decision besides its record. With `reasons_why` there are no reasons."""

    reasons: tuple[ReasonCode, ...] = ()
    reasons_method: str = ""
    reasons_unit: str = ""
    reasons_why: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """What decisions are explained by. `artifacts`: digests of the model's versions, by their number; `texts`: what is
    said of a feature that raises the score; `names` of features, by their digest."""

    artifacts: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, live: Mapping[str, Any] | None, names: Mapping[str, tuple[str, ...]]) -> Sources:
        """Of the live settings."""
        told = (live or {}).get("explain") or {}
        return cls(told.get("artifacts") or {}, told.get("texts") or {}, names)


class Explaining:
    """On the loop's thread. `read` gives the file of an artifact, in the thread that computes; `sources` what there is
    now."""

    def __init__(self, read: Callable[[str], bytes], kernels: Path, sources: Callable[[], Sources]) -> None:
        self._read = read
        self._kernels = kernels
        self._sources = sources
        self._thread = ThreadPoolExecutor(1, "explain")
        self._explainers: OrderedDict[tuple[str, tuple[str, ...]], Explainer] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, record: DecisionRecord, answer: Callable[[Told], None]) -> None:
        """`answer` is called once, at once or later."""
        sources = self._sources()
        artifact, names = sources.artifacts.get(str(record.version)), sources.names.get(record.features_digest)
        why = _why_not(record, artifact, names)
        if not why and len(self._tasks) >= MOST:
            why = f"{len(self._tasks)} decisions are being explained: ask again."
        if why or artifact is None or names is None:
            answer(Told(reasons_why=why))
            return
        loop = asyncio.get_running_loop()
        doing = self._thread.submit(self._told, record.features, artifact, names, sources.texts)
        task = loop.create_task(self._answer(doing, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """What is under way is not waited for."""
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, doing: Future[Told], answer: Callable[[Told], None]) -> None:
        told = await asyncio.wrap_future(doing)
        try:
            answer(told)
        except Exception:  # nothing that goes wrong with one answer may keep the others from theirs
            _log.exception("an answer could not be given")

    def _told(self, features: bytes, artifact: str, names: tuple[str, ...], texts: Mapping[str, str]) -> Told:
        try:
            explainer = self._explainer(artifact, names)
            explainer.texts = texts
            found = explainer.explain(features)
            reasons = explainer.reasons(features)
        except SkyriverError as error:
            return Told(reasons_why=error.message)
        except Exception:  # an answer without reasons is better than none
            _log.exception("a decision could not be explained")
            return Told(reasons_why="the worker's log says why.")
        if found.why:
            return Told(reasons_why=found.why)
        return Told(reasons, explainer.method, explainer.unit)

    def _explainer(self, artifact: str, names: tuple[str, ...]) -> Explainer:
        found = self._explainers.pop((artifact, names), None)
        if found is None:
            found = Explainer.load(self._read(artifact), names, self._kernels)
        self._explainers[artifact, names] = found
        while len(self._explainers) > KEPT:
            self._explainers.popitem(last=False)
        return found


def _why_not(record: DecisionRecord, artifact: str | None, names: tuple[str, ...] | None) -> str:
    if record.score is None:
        return "there was no score."
    if names is None:
        return "its features are not computed any more."
    if artifact is None:
        return f"version {record.version} of {record.model} is not known any more."
    return ""
