"""What a training function gets, and what it does with it on one worker or on many."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.distributed import Store

from skyriver.core.curves import number
from skyriver.core.errors import InvalidInput, JobFailed
from skyriver.core.spec_augment import AugmentSpec
from skyriver.train.data import TrainingData
from skyriver.train.spread.checkpoints import Saver, check_fits, check_keeps, path_of, read
from skyriver.train.spread.feeding import Feeder, Part, source
from skyriver.train.spread.gradients import Buckets, Parts, Shards
from skyriver.train.spread.group import BrokenGroup, Group
from skyriver.train.spread.measuring import Stopwatch, pair_seconds
from skyriver.train.spread.member import MEETING_S, Dismissed, Member
from skyriver.train.spread.pays import About
from skyriver.train.spread.shards import Order, key, rows_of_shard
from skyriver.train.spread.state import State
from skyriver.train.spread.step import Said, Step, check_slots, packed, unpacked

log = logging.getLogger(__name__)

LONGEST_S: Final = 86_400
_LOOP: Final = "for batch in ctx.steps(data, global_batch=256, epochs=3): ... ctx.backward(loss); ctx.step()"


class Diverged(JobFailed):
    """The loss is no number any more."""


class Context:
    """Of one worker. `rank` of `world` may change at each step; who prints or writes does so if `rank` is 0.

    With `shards` > 0 a step's rows are always cut into so many, whatever the number of workers, and the results are the
    same bits on any number of them; `steps` then yields a batch for each of this worker's shards. With 0 each worker
    has one batch of a step, and sums come in whatever order is quickest.
    """

    def __init__(
        self,
        pipe: Connection,
        store: Store,
        worker: int,
        *,
        shards: int = 0,
        seed: int = 0,
        device: str = "cpu",
        params: Mapping[str, Any] | None = None,
        checkpoints: str = "",
        every_s: float = 0.0,
    ) -> None:
        """`checkpoints`: the folder of new ones, each at least `every_s` after the one before."""
        self.device = torch.device(device)
        self.params = dict(params or {})
        self.seed = seed
        self.augment: tuple[AugmentSpec, ...] = ()
        """As declared."""
        self.data: TrainingData | None = None
        """The training part of the rows, where a model is trained."""
        self._member = Member(pipe, store, worker, self.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.use_deterministic_algorithms(bool(shards))
        if shards & (shards - 1) or shards < 0:
            raise InvalidInput(
                f"shards={shards}: a step is cut into a power of two.", code="BAD_SHARDS", next_action="Write shards=8."
            )
        self._shards = shards
        self._saver = Saver(Path(checkpoints), every_s, worker) if checkpoints else None
        self._state = State()
        self._parts: Parts | None = None
        self._step = 0
        self._fresh = True
        """It was in no group yet."""
        self._order: Order | None = None
        self._data = 0
        self._feeder: Feeder | None = None
        self._ending = False
        self._now: Step | None = None
        self._broken_off: Step | None = None
        """The step to be done now, where it was begun already from the state that there is."""
        self._watch = Stopwatch()
        self._to_measure = ""
        """What the launcher wants to know of this generation, and was not told yet."""
        self._rows = 0
        """Of the part that was begun last."""
        self._names: tuple[str, ...] = ()
        """That the function reports."""
        self._names_agree = True

    @property
    def rank(self) -> int:
        return self._member.group.rank

    @property
    def world(self) -> int:
        return self._member.group.world

    @property
    def batch(self) -> str:
        """What is being worked on, for who reports what went wrong with it."""
        rows = f", {self._rows:,} rows of it" if self._rows else ""
        return f"step {self._step + 1}{rows}"

    @property
    def global_batch(self) -> int:
        """Rows of a step; 0 before `steps`."""
        return self._order.batch if self._order is not None else 0

    @property
    def can_cut(self) -> bool:
        """Whether smaller batches would do for what is being worked on."""
        return self._rows > 1 and not self._shards and not self._state.has_batch_statistics

    @property
    def committed(self) -> int:
        """Steps that are done."""
        return self._step

    @property
    def waited(self) -> float:
        """The share of the time in the loop, from 0 to 1, in which this worker waited for its rows."""
        return self._feeder.waited if self._feeder is not None else 0.0

    @property
    def epoch(self) -> int:
        """That the step being done is of, from 0."""
        return self._step // self._order.steps_of_epoch if self._order is not None else 0

    def state(self, *things: Any, **named: Any) -> None:
        """All that a worker which joins must be given: modules, optimizers, learning rate schedulers (which are stepped
        once a step, by ctx.step), and whatever else has `state_dict` and `load_state_dict`. Call it once, before
        `steps`.
        """
        if self._parts is not None:
            raise InvalidInput(
                "ctx.state was called twice.", code="NO_STATE", next_action="Call it once, with all there is."
            )
        self._state.add({str(place): thing for place, thing in enumerate(things)} | named, self.device)
        modules = self._state.modules.values()
        self._parts = Shards(modules, self._shards) if self._shards else Buckets(modules)

    def steps(
        self,
        dataset: Any,
        global_batch: int,
        epochs: int = 1,
        *,
        drop_last: bool = False,
        augment: Sequence[AugmentSpec] | None = None,
    ) -> Iterator[Any]:
        """The batches of this worker. Each step takes `global_batch` rows, of all workers together; each epoch has all
        rows once, in an order of its own, but with `drop_last` those that are too few for a step. Once in a
        training. `augment` changes the rows, the first part of a batch (for mixup the second too); where it is not
        given, that is done which `@app.train(..., augment=...)` declares."""
        if self._parts is None:
            raise InvalidInput(
                "ctx.steps was called before ctx.state.", code="NO_STATE", next_action="ctx.state(model, optimizer)"
            )
        for name, value in (("global_batch", global_batch), ("epochs", epochs)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(
                    f"ctx.steps: {name}={value!r} is no number of at least 1.", code="BAD_STEPS", next_action=_LOOP
                )
        if self._order is not None:
            raise InvalidInput(
                "ctx.steps was called twice.",
                code="BAD_STEPS",
                next_action="Go through all epochs in one loop: epochs=N.",
            )
        changed = self.augment if augment is None else tuple(augment)
        fed = source(dataset, global_batch, epochs, self.seed, drop_last=drop_last, augment=changed)
        order = self._order = fed.order
        self._data = fed.identity
        feeder = self._feeder = Feeder(fed)
        check_keeps(self.snapshot())
        self._member.say("plan", order.steps, order.batch)
        try:
            self._check_batch_statistics(order)
            self._enter()
            while self._step < order.steps and not self._ending:
                yield from self._one(order, feeder)
            self._rows = 0
        finally:
            feeder.close()

    def backward(self, loss: Tensor) -> None:
        """Of a batch's mean loss: batches count by their rows."""
        now = self._of_step("backward")
        _check_loss(loss)
        now.passes += 1
        if now.passes > 1:
            raise InvalidInput(
                "A batch had two backward passes.",
                code="BACKWARD_TWICE",
                next_action="Add the losses, and call ctx.backward once.",
            )
        mean = loss.detach()
        now.part.loss += float(mean) * now.weight
        loss.backward(torch.full_like(mean, now.weight))  # as (loss * weight).backward(), without its two kernels

    def step(self, optimizer: torch.optim.Optimizer | None = None, *, clip: float = 0.0) -> None:
        """Call it in each turn of the loop: the optimizers step once all parts of the step are summed. `clip`: the most
        that the norm of the whole gradient may be; 0: whatever it is."""
        now = self._of_step("step")
        self._state.check_steps(optimizer)
        if now.stepped:
            raise InvalidInput(
                "ctx.step was called twice in one turn of the loop.",
                code="STEP_TWICE",
                next_action="Call it once: all of ctx.state step together, after the last part of the step.",
            )
        now.stepped, now.part.clip = True, clip

    def end(self) -> None:
        """After this step, on all workers: whoever sees that it has learnt enough."""
        self._of_step("end").ending = True

    def report(self, **values: float | Tensor) -> None:
        """Of a batch, its mean: what the run shows is that over all rows of a step of whose batches it was reported."""
        now = self._of_step("report")
        for name, value in values.items():
            plain = number(name, value.detach() if isinstance(value, Tensor) else value)
            before, _ = now.part.told.get(name, (0.0, 0.0))
            now.part.told[name] = before + plain * now.weight, now.weight
        check_slots(now.part.told)

    def alive(self, seconds: float = 0.0) -> None:
        """This worker lives: say so now and then in what takes long between two steps, as an evaluation; it costs
        microseconds. One that says nothing for 30 s, or ten steps if these are longer, is taken for hung and ended.
        `seconds`: before a call that cannot say so itself, how long it may take."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_S:
            raise InvalidInput(
                f"ctx.alive: {seconds!r} is no number of seconds from 0 to {LONGEST_S:,}.",
                code="BAD_STEPS",
                next_action="Write ctx.alive(), or ctx.alive(600) before what takes up to ten minutes.",
            )
        if seconds:
            self._member.busy(seconds)
        else:
            self._member.alive()

    # For the process of the worker

    def leave(self) -> None:
        """With the end of this step: somebody wants the machine back. Safe in a signal handler."""
        self._member.leave()

    def tell_noted(self) -> None:
        """What came of steps, and waited to be told: the worker is about to end."""
        self._member.tell_noted()

    def stay(self, hand_over: Callable[[], bytes]) -> None:
        """After the last step: for as long as somebody may need this worker's state, or want what came of it."""
        if self._parts is None or self._order is None:
            raise JobFailed(
                "The function returned without a single step.", code="NO_STEP", next_action=f"Write {_LOOP}."
            )
        if self._step < self._order.steps and not self._ending:
            raise JobFailed(
                f"The function left its loop after {self._step} of {self._order.steps} steps.",
                code="NO_STEP",
                next_action="To end early call ctx.end(), which ends the loop of all workers after the same step.",
            )
        self._member.say("done", self._step)
        self._member.stay(hand_over, self._agree)

    def snapshot(self) -> dict[str, Any]:
        """All that a worker needs to go on from here."""
        return {
            "step": self._step,
            **self._state.snapshot(),
            "of": self._identity(),
        }

    def _identity(self) -> dict[str, int]:
        """What decides which rows a step has: a checkpoint of another is none of this training."""
        order = self._order
        assert order is not None
        told = {"rows": order.rows, "global_batch": order.batch, "seed": order.seed, "shards": self._shards}
        return {**told, "data": self._data} if self._data else told

    def _check_same_rows(self, of: Mapping[str, int]) -> None:
        if of != self._identity():
            raise InvalidInput(
                "This worker found other rows than the others have: files were changed, or each reads its own.",
                code="OTHER_ROWS",
                next_action="Give all workers the same rows, global_batch and files; train on a version of a table.",
            )

    def _check_batch_statistics(self, order: Order) -> None:
        """A batch of one row has none: torch refuses it, at the end of the first epoch."""
        least = min(order.count(step) for step in (0, order.steps_of_epoch - 1))
        parts = self._shards or self.world
        if self._state.has_batch_statistics and least < 2 * parts:
            raise InvalidInput(
                f"The last step of an epoch has {least} rows, cut into {parts} parts: too few for batch statistics.",
                code="BAD_STEPS",
                next_action="ctx.steps(..., drop_last=True), or another global_batch.",
            )

    def _enter(self) -> None:
        self._member.say("ready", self._step)
        self._meet()

    def _meet(self) -> None:
        try:
            self._member.meet(self._agree)
        except Dismissed:
            if self._member.stopping:
                self._save_last()
            raise

    def _agree(self, group: Group) -> None:
        """All have the state of whoever has committed most, or, where nobody was in a group yet, of the checkpoint that
        the launcher names."""
        self._watch.begin()
        self._to_measure = self._member.measures if group.rank == 0 else ""
        if threads := self._member.threads:
            torch.set_num_threads(threads)
        if isinstance(self._parts, Buckets):
            self._parts.cuts = self._member.cuts
        if self._fresh and (start := self._member.checkpoint):
            state = read(Path(start))
            check_fits(state, self._state.modules, self._state.optimizers, self._identity(), start)
            self._load(state)
        root, same = group.furthest(self._step, fresh=self._fresh)
        self._fresh = False
        if not same:
            state = group.broadcast(self.snapshot() if group.rank == root else None, root)
            if group.rank != root:
                self._check_same_rows(state["of"])
                self._load(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        if self._parts is not None and self._broken_off is not None:
            self._parts.forget()
            self._broken_off = None
        self._state.load(state)
        self._step = int(state["step"])

    # One step

    def _one(self, order: Order, feeder: Feeder) -> Iterator[Any]:
        parts, group, step = self._parts, self._member.group, self._step
        assert parts is not None
        begun = time.monotonic()
        self._watch.start()
        count = order.count(step)
        mine, of = parts.of(group.rank, group.world)
        before, self._broken_off = self._broken_off, None
        now = self._now = Step()
        try:
            todo = parts.begin(group, mine)
            if before is not None:  # this step, from the same state: what its loop said of parts that are known stands
                now.said = {part: said for part, said in before.said.items() if part in mine and part not in todo}
                now.ending = before.ending
            rows = [rows_of_shard(part, of, count) for part in todo]
            every = [(step, part, at.start, at.stop) for part, at in zip(todo, rows, strict=True) if at.start < at.stop]
            for left, part, at in zip(reversed(range(len(todo))), todo, rows, strict=True):
                if at.start == at.stop:
                    parts.nothing(part)
                    continue
                self._rows, now.stepped = at.stop - at.start, False
                now.weight, now.passes, now.part = self._rows / count, 0, Said()
                parts.start(part)
                self._seed(step, part)
                self._watch.lap("passes")
                batch = feeder.get((step, part, at.start, at.stop), self._following(order, step, part, mine, of), every)
                self._watch.lap("load")
                yield self._there(batch) if self.device.type != "cpu" else batch
                if not now.stepped:
                    raise InvalidInput(
                        "The function went on to the next batch without ctx.step.",
                        code="NO_STEP",
                        next_action="Call ctx.backward(loss) and ctx.step(optimizer) in each turn of the loop.",
                    )
                if not now.passes:
                    raise InvalidInput(
                        "A batch had no backward pass.",
                        code="NO_STEP",
                        next_action="Call ctx.backward(loss) in place of loss.backward(): it weighs by rows.",
                    )
                parts.collect(part, now.weight)
                now.said[part] = now.part
                self._member.look(left, len(mine))
            self._watch.lap("passes")
            self._finish(parts, now, begun, of - 1, is_last=step + 1 == order.steps)
            self._tell_times(order, feeder, len(mine))
        except BrokenGroup as error:
            if not now.done:
                parts.break_off()
                self._broken_off = now
            self._member.broken(error)
            self._meet()
        except Dismissed:
            if not now.done:
                parts.forget()
            raise
        finally:
            self._now = None

    def _there(self, batch: Any) -> Any:
        """The batch's tensors on this worker's device."""
        if isinstance(batch, Tensor):
            return batch.to(self.device, non_blocking=True)
        if isinstance(batch, Mapping):
            return {name: self._there(value) for name, value in batch.items()}
        if isinstance(batch, tuple | list):
            return type(batch)(self._there(value) for value in batch)
        return batch

    def _following(self, order: Order, step: int, part: int, mine: range, of: int) -> Part | None:
        """What comes next, if nobody joins or leaves."""
        if part + 1 == mine.stop:
            step, part = step + 1, mine.start - 1
        if step >= order.steps:
            return None
        at = rows_of_shard(part + 1, of, order.count(step))
        return (step, part + 1, at.start, at.stop) if at.start < at.stop else None

    def seed_all(self) -> None:
        """Before the function makes its model: it begins alike on all workers."""
        self._seed()

    def _seed(self, *of: int) -> None:
        """Random numbers are those of (seed, step, part), whoever does it."""
        number = key(self.seed, *of)
        torch.default_generator.manual_seed(number >> 1)  # torch.manual_seed keeps a traceback of each call for CUDA
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number >> 1)
        random.seed(number)
        np.random.seed(number & 0xFFFF_FFFF)

    def _finish(self, parts: Parts, now: Step, begun: float, last: int, *, is_last: bool) -> None:
        """Commits the step, whose last part is `last`; all do, or nobody does."""
        said, is_some = now.whole(), bool(now.said)
        clip = now.said[last].clip if last in now.said else 0.0  # who has no rows of the step knows none
        extra = [said.loss, float(self._member.has_news()), float(now.ending), clip]
        loss, changes, ends, clip, *told = parts.finish([*extra, *packed(said, is_some=is_some)])
        self._watch.lap("update" if self._member.group.is_alone else "reduce")
        values = {"waited": round(self.waited, 4), **self._means(told, said, is_some=is_some)}
        if not math.isfinite(loss):
            parts.forget()
            self._member.note(self._step + 1, loss, values)
            kept = self._keep_good(parts)
            raise Diverged(
                f"The loss of step {self._step + 1} is {loss}.{kept}",
                code="DIVERGED",
                next_action="Lower the learning rate, or look at this step's rows.",
            )
        if clip:
            torch.nn.utils.clip_grad_norm_(parts.parameters, clip)
        self._seed(self._step, -1)  # an optimizer may draw random numbers too
        self._state.update()
        self._watch.lap("update")
        if self._to_measure:
            self._watch.step()
        self._step += 1
        now.done, self._ending = True, bool(ends)
        self._member.beat(self._step, loss, values, time.monotonic() - begun, last=is_last or self._ending)
        self._save()
        if self._member.stopping and changes:
            self._save_last()
            raise Dismissed
        if changes:
            self._meet()

    def _means(self, told: Sequence[float], said: Said, *, is_some: bool) -> Mapping[str, float]:
        """What was reported of the step: one without rows of it knows the names of the steps before."""
        if is_some:
            self._names = tuple(said.told)
        means = unpacked(told, self._names)
        if means is None and self._names_agree and self.rank == self.world - 1:  # who has rows of each step
            self._names_agree = False
            log.warning(
                "Workers called ctx.report with different names in step %s. What was reported of such a step is not"
                " shown: report the same names in each batch.",
                self._step + 1,
            )
        return means or {}

    def _tell_times(self, order: Order, feeder: Feeder, parts: int) -> None:
        """Where the launcher asked for them; once."""
        if not self._to_measure:
            return
        timed = self._watch.found(feeder.took_s * parts, feeder.ahead)
        if timed is None:
            return
        assert self._parts is not None
        pair = self._to_measure == "pair" and self.device.type == "cpu"
        size, dtype = sum(p.numel() for p in self._parts.parameters), self._parts.parameters[0].dtype
        about = About(
            rows=order.batch,
            left=order.steps - self._step,
            pair_s=pair_seconds(size, dtype) if pair else 0.0,
            last=self._parts.last,
            can_cut=not self._state.has_batch_statistics,
        )
        self._to_measure = ""
        self._member.say("timed", self._member.group.generation, timed, about)

    def _of_step(self, called: str) -> Step:
        if self._now is None:
            raise InvalidInput(
                f"ctx.{called} was called outside of the loop over ctx.steps.", code="NO_STEP", next_action=_LOOP
            )
        return self._now

    # Checkpoints

    def _save(self) -> None:
        """Now and then, by whoever is the first; written while the training goes on."""
        if self._saver is None:
            return
        self._hand_in(0.0)
        if self.rank == 0 and self._saver.due():
            self._saver.save(self.snapshot())

    def _save_last(self) -> None:
        """All stop after the same step, and the first leaves a checkpoint; where a member was lost meanwhile whoever is
        left does, for the first may be gone."""
        group = self._member.group
        is_first = self.rank == 0 or (group.is_alone and group.world > 1)
        if self._saver is None or not is_first:
            return
        for again in (False, True):  # one may be being written
            if again:
                self._saver.save(self.snapshot())
            self._hand_in(MEETING_S)

    def _keep_good(self, parts: Parts) -> str:
        """The state before a step that went wrong, if it is of numbers still; says where. All wait until it is written:
        the first worker that ends with an error ends all."""
        if self._saver is None:
            return ""
        if not all(bool(weights.isfinite().all()) for weights in parts.parameters):
            return f" The weights before it are none either; earlier checkpoints, if any: {self._saver.folder}"
        self._save_last()
        with contextlib.suppress(BrokenGroup):
            self._member.group.broadcast({}, 0)
        return f" The state before it is kept: {path_of(self._saver.folder, self._step)}"

    def _hand_in(self, wait_s: float) -> None:
        assert self._saver is not None
        try:
            written = self._saver.written(wait_s)
        except OSError as error:  # the training needs no disk
            self._member.say("unwritten", f"{error.strerror or error}")
            return
        if written is not None:
            self._member.say("checkpoint", written)


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InvalidInput(
            f"ctx.backward got {what}, and takes the mean loss of a batch, a tensor of one number.",
            code="BAD_LOSS",
            next_action="Give loss.mean(), or a loss with reduction='mean'; weights of rows go into it before.",
        )
    if not loss.requires_grad:
        raise InvalidInput(
            "ctx.backward got a loss that does not depend on any weight of the model.",
            code="BAD_LOSS",
            next_action="Compute it from model(x), outside of torch.no_grad() and without detach().",
        )
