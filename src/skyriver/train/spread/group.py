"""The process group of one generation: made over the store of the launcher, and thrown away with the first call that
fails. There is no group of the whole process that would have to be destroyed: what is stuck in it stays stuck alone.

What lies on a GPU is summed by NCCL, all else by gloo. A call of NCCL is a kernel that waits on the GPU for the others,
for ever if one of them is gone; so the host waits for its end, and hears the news meanwhile, before it asks for
anything that is computed from it.
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store

from skyriver.core.errors import JobFailed
from skyriver.train.spread.shards import TreeSum, blocks, stretch

FORMING_S: Final = 5.0
"""Between two members that both said that they are there."""
CALL_S: Final = 100_000.0
"""Of a call in which everybody lives: who hangs is ended from outside, and one that says that it lives
(`Context.alive`) may take its time."""
STATE_BYTES: Final = 16 << 30
"""The most that a member who joins is given: it is in memory twice, there and where it comes from."""
WRITTEN_S: Final = 600.0
"""For all of it to be written into memory, by who has it."""
PIECE_BYTES: Final = 64 << 20
PIECE_S: Final = 60.0
"""For a piece of it to come to all, who live."""
PATIENCE: Final = timedelta(seconds=0.25)
"""That one waits for the others before it looks for news."""
POLL_S: Final = 20e-6
CPU: Final = torch.device("cpu")
_TIMED_OUT: Final = "timed out"
_stuck: list[Any] = []
"""Calls that nobody waits for any more, with the memory they work on: the backend's threads may still write there."""


class BrokenGroup(Exception):
    """A member is gone, or cannot be reached: what was being done is done again by those who are left."""


class NotHandedOver(BrokenGroup):
    """All members live, and what one of them has does not come to the others."""


def _nothing() -> None: ...


@dataclass(slots=True)
class Group:
    """`members` in the order of their ranks; `backend` is None where one works alone. `waits` is called every PATIENCE
    while the others are waited for; what it raises ends the waiting."""

    generation: int
    members: tuple[int, ...]
    rank: int
    backend: Any = None
    gpus: Any = None
    """The backend of what lies there."""
    waits: Callable[[], None] = _nothing
    _pending: list[tuple[Any, Tensor]] = field(default_factory=list)
    _broken: BrokenGroup | None = None
    _until: float = math.inf
    _limit_s: float = 0.0

    @property
    def world(self) -> int:
        return len(self.members)

    @property
    def is_alone(self) -> bool:
        return self.backend is None

    def end(self) -> None:
        """The others notice at once."""
        if self.backend is not None:
            self.backend.abort()
            if self.gpus is not None:
                _abort(self.gpus)
            self.backend = self.gpus = None
            _stuck[:] = [(work, memory) for work, memory in _stuck if not work.is_completed()]

    def furthest(self, step: int, *, fresh: bool) -> tuple[int, bool]:
        """(the rank that has committed most steps, whether all have that state). `fresh`: this one was in no group yet,
        and has the state that it made for itself."""
        if self.backend is None:
            return 0, True
        mine, every = torch.tensor([2 * step + (not fresh)]), torch.empty(self.world, dtype=torch.int64)
        self._wait(self.backend._allgather_base, every, mine)
        return int(every.argmax()), bool((every == every[0]).all()) and not fresh

    def broadcast(self, state: Any, root: int) -> Any:
        """The state of `root`: dictionaries, numbers and tensors."""
        if self.backend is None:
            return state
        data = torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([_bytes_of(state)])
        buffer = io.BytesIO()
        if self.rank == root and int(size) <= STATE_BYTES:
            _aside(lambda: torch.save(state, buffer), "save", self.waits)
            data = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
            size[0] = len(data)
        self._broadcast(size, root, WRITTEN_S)
        if int(size) > STATE_BYTES:
            raise JobFailed(
                f"A worker that joins would be given {int(size):,} bytes of ctx.state; there may be {STATE_BYTES:,}.",
                code="TOO_LARGE",
                next_action="Train it with workers=1, where nobody joins; or keep less in ctx.state.",
            )
        if self.rank != root:
            buffer = io.BytesIO(bytes(int(size)))  # what comes is written into it, and read from there
            data = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        for piece in data.split(PIECE_BYTES):
            self._broadcast(piece, root, PIECE_S)
        if self.rank == root:
            return state
        return _aside(lambda: torch.load(buffer, map_location="cpu", weights_only=True), "load", self.waits)

    def begin_sum(self, vector: Tensor) -> None:
        """In whatever order is quickest, and in place; it goes on until `finish_sums`. All members begin the same ones
        in the same order."""
        if self.backend is not None and self._broken is None:
            try:
                self._pending.append((self._of(vector).allreduce([vector]), vector))
            except RuntimeError as error:  # it is begun in a backward pass, which is the function's
                self._broken = BrokenGroup(str(error))

    def finish_sums(self) -> None:
        """Raises BrokenGroup, also for what `begin_sum` met."""
        if self._broken is not None:
            raise self._broken
        begun, self._pending = self._pending, []
        for work, _ in begun:
            self._wait_for(work, begun)

    def tree_sum(self, own: Sequence[Tensor | None], shards: int, like: Tensor) -> Tensor:
        """The sum over all shards in their tree. `own`: of the blocks of this member's stretch, in order, each of the
        size and place of `like`; None where a block has no rows, which all members know alike.

        Each sums a part of all vectors and hands it to everybody: two vectors travel for each member and block.
        """
        size, backend = like.numel(), self._of(like)
        there = [list(blocks(stretch(rank, self.world, shards))) for rank in range(self.world)]
        if self.world == 2 and all(len(of) == 1 for of in there):
            whole = own[0] if own[0] is not None else torch.zeros_like(like)
            self._wait(backend.allreduce, [whole])  # a single addition: its order does not matter
            return whole
        part = -(-size // self.world)
        given = like.new_zeros(self.world, len(own), part)
        for place, vector in enumerate(own):
            if vector is not None:
                padded = torch.nn.functional.pad(vector, (0, part * self.world - size))
                given[:, place] = padded.view(self.world, part)
        counts = [len(of) for of in there]
        got = like.new_empty(sum(counts), part)
        self._wait(
            backend.alltoall_base,
            got.view(-1),
            given.view(-1),
            [n * part for n in counts],
            [len(own) * part] * self.world,
        )
        tree: TreeSum[Tensor] = TreeSum(Tensor.add_)
        for place, block in enumerate(b for of in there for b in of):
            tree.push(*block, got[place])
        mine = tree.whole()
        assert mine is not None
        whole = like.new_empty(self.world * part)
        self._wait(backend._allgather_base, whole, mine)
        return whole[:size]

    def _of(self, tensor: Tensor) -> Any:
        found = self.gpus if tensor.is_cuda else self.backend
        assert found is not None
        return found

    def _broadcast(self, tensor: Tensor, root: int, within_s: float) -> None:
        """Raises NotHandedOver."""
        assert self.backend is not None
        self._limit_s, self._until = within_s, time.monotonic() + within_s
        try:
            self._wait(self.backend.broadcast, tensor, root)
        finally:
            self._until = math.inf

    def _look(self) -> None:
        self.waits()
        if time.monotonic() > self._until:
            raise NotHandedOver(f"more of the state did not come to all in {self._limit_s:.0f} s")

    def _wait(self, call: Any, *arguments: Any) -> None:
        try:
            work = call(*arguments)
        except RuntimeError as error:  # all that the backend throws
            raise BrokenGroup(str(error)) from error
        self._wait_for(work, arguments)

    def _wait_for(self, work: Any, memory: Any) -> None:
        try:
            if self.gpus is not None:
                self._poll(work)
            while True:
                try:
                    work.wait(PATIENCE)
                    return
                except RuntimeError as error:
                    if _TIMED_OUT not in str(error):
                        raise BrokenGroup(str(error)) from error
                self._look()
        except BaseException:
            _stuck.append((work, memory))
            raise

    def _poll(self, work: Any) -> None:
        """NCCL's `wait` returns at once, and what is done after it on the GPU waits there."""
        news = time.monotonic() + PATIENCE.total_seconds()
        while not work.is_completed():
            now = time.monotonic()
            if now > news:
                news = now + PATIENCE.total_seconds()
                self._look()
            time.sleep(POLL_S)


def _bytes_of(state: Any) -> int:
    """Of its tensors."""
    if isinstance(state, Tensor):
        return int(state.nbytes)
    if isinstance(state, Mapping):
        return sum(map(_bytes_of, state.values()))
    return sum(map(_bytes_of, state)) if isinstance(state, list | tuple) else 0


def form(
    store: Store,
    generation: int,
    members: Sequence[int],
    me: int,
    waits: Callable[[], None] = _nothing,
    device: torch.device = CPU,
) -> Group:
    """Blocks until all are connected, for some seconds. Raises BrokenGroup."""
    rank = members.index(me)
    if len(members) == 1:
        return Group(generation, tuple(members), rank)
    try:
        own = PrefixStore(f"generation-{generation}", store)
        backend = ProcessGroupGloo(own, rank, len(members), timedelta(seconds=FORMING_S))
        backend.set_timeout(timedelta(seconds=CALL_S))
        gpus = _nccl(own, rank, len(members), device, waits) if device.type == "cuda" else None
    except RuntimeError as error:
        raise BrokenGroup(str(error)) from error
    return Group(generation, tuple(members), rank, backend, gpus, waits)


def _nccl(store: Store, rank: int, world: int, device: torch.device, waits: Callable[[], None]) -> Any:
    """Connected. It connects with its first call, which for a minute notices nobody's death."""
    from torch.distributed import ProcessGroupNCCL  # only where torch is built for CUDA

    options = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=CALL_S)
    made = ProcessGroupNCCL(PrefixStore("gpus", store), rank, world, options)

    def connect() -> None:
        torch.cuda.set_device(device)
        made.allreduce([torch.zeros(1, device=device)]).wait()
        torch.cuda.synchronize()

    try:
        _aside(connect, "connect", waits)
    except BaseException:
        _abort(made)
        raise
    return made


def _aside(call: Callable[[], Any], name: str, waits: Callable[[], None]) -> Any:
    """What it returns: in a thread, for it may take long, and who says nothing for so long is taken for hung."""
    done: Future[Any] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    while not wait((done,), PATIENCE.total_seconds()).done:
        waits()
    return done.result()


def _abort(gpus: Any) -> None:
    """It takes a second or two until it sees that nobody answers."""
    threading.Thread(target=gpus.abort, name="abort", daemon=True).start()
