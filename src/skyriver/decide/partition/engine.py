"""The engine of a partition: events in, decisions out, everything in the log between.

Theory of operation
===================
A batch is what was waiting: some requests with their rows, cleaned. `decide` takes it in these steps:

 1. A row whose id was seen within the stream's dedupe period, or earlier in the batch, is a duplicate: it is not
    appended, and answered with the first decision (one that is no longer in memory: `decide.worker.looking`).
 2. A row with a time ahead of the receiving clock's limit is refused (DESIGN 6.1); refused rows become DEAD records.
 3. The others get their effective time; one later than the disorder is late.
 4. EVENT and DEAD records are appended. From here on the batch must be finished.
 5. Windows are folded over the events that are not late, and the model scores their features in one run.
 6. Each event gets its DECISION record: by the rules, or the fallback with a reason. A batch may be shed: its events
    are all that the others are, but the model is not asked.

A batch of many rows goes the same way in columns (`gathering`): its events are one EVENTS record, their
decisions one DECISIONS record, which costs a tenth. What an event gets is the same on both ways.

Nothing of it may leave before `sync` of the log has returned. When a step from 4 on raises, or `sync` does, memory no
longer is what the log says: the engine is then thrown away and a new one recovered from the log (`recovery`),
which decides what was appended and not decided. So an event is never lost, and never decided twice.

Pure but for its ports: Log, Windows, Ids, Scorer, Clock. One thread at a time; `sync` of the log may run in another
one while no other method is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from skyriver.data.columns import EventBlock
from skyriver.data.keys import key_of_text
from skyriver.data.log import Log, Record, RecordKind
from skyriver.decide.decision.deciding import Deciding, Undecided, UndecidedBlock, decide_block, decide_events
from skyriver.decide.decision.scoring import Effort
from skyriver.decide.log import lists_columns
from skyriver.decide.log.blocks import DecisionBlock
from skyriver.decide.log.checkpoint import BlockAnswer, Checkpoint, last_before
from skyriver.decide.log.erasing import Erasing
from skyriver.decide.log.history import Block, complete, encode_frame, learn_frame
from skyriver.decide.log.loading import check_times, effective_times, repeated
from skyriver.decide.log.records import (
    ControlRecord,
    DecisionRecord,
    Id,
    LabelRecord,
    LoadStep,
    Value,
    encode,
    encode_control,
    encode_reference,
)
from skyriver.decide.log.same_id import SameId
from skyriver.decide.partition.clock import ReceivingClock
from skyriver.decide.partition.gathering import block_rows, gather, receipt_of_labels, receipts_of_rows
from skyriver.decide.partition.partition import Ids, Partition, fields_of, references_of
from skyriver.decide.partition.receipt import (
    LabelReceipt,
    LabelSubmission,
    Receipt,
    ReferenceSubmission,
    Refused,
    Submission,
)
from skyriver.decide.partition.sorting import (
    NOTHING_NEW,
    Batch,
    dead_record,
    order_block,
    place_of,
    sort_rows,
)
from skyriver.decide.partition.windows import FeaturesRead, SavedWindows, Windows, not_built
from skyriver.features.state import KeyMemory

Ints = NDArray[np.int64]
_DECISION, _EVENTS, _DECISIONS = RecordKind.DECISION, RecordKind.EVENTS, RecordKind.DECISIONS
_REFERENCE = RecordKind.REFERENCE


@dataclass(frozen=True, slots=True)
class AsOf:
    """Features as of the record at `offset`; the last event up to it has the effective time `time`."""

    offset: int
    time: int
    read: FeaturesRead


class Engine:
    def __init__(
        self,
        partition: Partition,
        log: Log,
        windows: Windows | None,
        ids: Ids,
        clock: ReceivingClock,
        here: Callable[[], int] = lambda: 0,
    ) -> None:
        """`here`: the offset from which on the log lies on this disk."""
        stream = partition.stream
        self.partition = partition
        self.deciding = Deciding()
        self.arms = partition.arms
        self.trials = partition.trials
        self.control_offset = 0
        """Of the CONTROL record that tells what is decided with now; the log must not give it up."""
        self._stream = stream
        self._log = log
        self._windows = windows
        self._ids = ids
        self._clock = clock
        self._id, self._key = place_of(stream, stream.id), place_of(stream, stream.key)
        self._block_rows = block_rows(len(stream.fields))
        self._text_id = stream.field(stream.id).type == "text"
        self._same = SameId(log, stream, partition.recent.get, here)

    @property
    def loading(self) -> bool:
        """A load is under way, and more of its blocks are to come."""
        return self.partition.loads.open

    @property
    def features_digest(self) -> str:
        return self._windows.digest if self._windows is not None else ""

    @property
    def feature_size(self) -> tuple[int, int]:
        """(keys, bytes of their state in memory)."""
        return self._windows.size if self._windows is not None else (0, 0)

    @property
    def feature_keys(self) -> tuple[KeyMemory, ...]:
        return self._windows.keys if self._windows is not None else ()

    def erase(self, by: Erasing, end: int) -> int:
        """Nothing in memory is the subject's from now on; what its windows hold is nobody's. How many keys' and
        references' states that were. Ids of events below the offset `end` are dropped, which takes while `dropping`."""
        partition = self.partition
        partition.recent.clear()
        letters = [one for one in partition.dead_letters if not by.is_named(one.raw.encode(), one.message)]
        if len(letters) < len(partition.dead_letters):
            partition.dead_letters.clear()
            partition.dead_letters.extend(letters)
        if by.ids:
            self._ids.drop(self._keys([*by.ids]), end)
        partition.tallies.forget(by.subject, by.value)
        held = sum(partition.lists.forget(index, by.value) for index in by.references)
        if self._windows is not None:
            held += self._windows.rename(by.subject, by.value, by.in_state(end), by.references)
        return held

    @property
    def dropping(self) -> bool:
        """Whether the index still has ids that were erased."""
        return self._ids.drops

    def use(self, deciding: Deciding) -> None:
        """From the next event on, decide with this; written to the log as a CONTROL record. Raises Conflict
        (FEATURES_NOT_BUILT), changing nothing, where its features are not folded."""
        before = self._windows.spec if self._windows is not None else None
        if deciding.features_digest and self._windows is not None:
            self._windows.switch(deciding.features_digest)
        self.deciding = deciding
        self.arms.use(deciding)
        self.trials.use(deciding)
        rules = deciding.rules
        self.partition.tallies.use(*((rules.budgets, rules.counters) if rules is not None else ((), ())))
        control = self._control(None)
        if before is not None and control.features != (told := before.to_json()):
            control = msgspec.structs.replace(control, features_before=told)
        self.control_offset = self._log.append(
            [Record(RecordKind.CONTROL, self.partition.time, encode_control(control))]
        )
        self.partition.control = control

    def take(self, submissions: Sequence[Submission]) -> list[Receipt]:
        """`decide`, then `sync` of the log."""
        receipts = self.decide(submissions)
        self._log.sync()
        return receipts

    def decide(self, submissions: Sequence[Submission], effort: Effort = Effort.FULL) -> list[Receipt]:
        """Appends and decides; the receipts may leave after the log's next `sync`."""
        if sum(map(len, submissions)) >= self._block_rows:
            return self._decide_block(submissions, effort)
        return self._decide_rows([submission.by_rows() for submission in submissions], effort)

    def _decide_rows(self, submissions: Sequence[Submission], effort: Effort) -> list[Receipt]:
        partition = self.partition
        keys, known = self._known(submissions)
        batch = sort_rows(
            submissions,
            keys,
            known,
            self._stream,
            time=partition.time,
            limit=self._clock.limit(self._clock.now()),
            horizon=partition.horizon.look_ahead(),
        )
        decided: list[DecisionRecord] = []
        if batch.events or batch.dead:
            if self._windows is not None:
                self._windows.reserve(len(batch.events))
            first = self._log.append([*batch.events, *batch.dead])
            partition.enter_dead(first + len(batch.events), batch.dead)
            if batch.events:
                self._enter(batch, first)
                offsets = range(first, first + len(batch.rows))
                features = self._fold(batch, offsets)
                decided = self.decide_events(
                    Undecided(offsets, batch.rows, batch.late, batch.arrived, features, batch.effective), effort
                )
        return self._counted(receipts_of_rows(submissions, batch.fates, decided, partition.recent.get))

    def decide_events(self, events: Undecided, effort: Effort = Effort.FULL) -> list[DecisionRecord]:
        """Decides events that are in the log, and appends their DECISION records."""
        partition = self.partition
        if used := self.deciding.lookups:
            events = replace(events, rows=partition.lists.beside(used, events.rows, events.times))
        records = decide_events(
            events,
            self.deciding,
            id_place=self._id,
            key_place=self._key,
            features_digest=self.features_digest,
            now=self._clock.now(),
            monotonic=self._clock.monotonic(),
            tallies=partition.tallies,
            effort=effort,
        )
        payloads = [encode(record) for record in records]
        self._log.append([Record(_DECISION, partition.time, payload) for payload in payloads])
        for record, payload in zip(records, payloads, strict=True):
            partition.recent.put(record.event_offset, payload)
            partition.count_decisions(record.status, record.decision, record.reason)
        self.arms.note(records, events.keys(self._key) if self.arms.by_key else ())
        self.trials.note(records)
        return records

    def _decide_block(self, submissions: Sequence[Submission], effort: Effort) -> list[Receipt]:
        """As `_decide_rows`, but the new events become one EVENTS record, and their decisions one DECISIONS record."""
        partition, stream = self.partition, self._stream
        gathered = gather(submissions, stream)
        limit = self._clock.limit(self._clock.now())
        order = NOTHING_NEW
        if len(gathered.columns):
            keys = gathered.columns.keys(self._id)
            ids = cast("Ints | list[str]", gathered.columns.columns[self._id].values)
            order = order_block(
                cast("Ints", gathered.columns.columns[place_of(stream, stream.time)].values),
                keys,
                ids,
                self._seen(ids, keys),
                time=partition.time,
                limit=limit,
                disorder=stream.disorder_us,
                horizon=partition.horizon.look_ahead(),
            )
            gathered.refuse_ahead(submissions, order, limit, stream)
        count = len(order.effective)
        time = int(order.effective[-1]) if count else partition.time
        dead = gathered.dead(submissions, time)
        decided: DecisionBlock | None = None
        if count:
            columns, arrived = gathered.columns, gathered.arrived(submissions)
            if order.new is not None:
                columns, keys, arrived = columns.take(order.new), keys[order.new], arrived[order.new]
            events = EventBlock(columns, order.effective, order.late)
            if self._windows is not None:
                self._windows.reserve(count)
            first = self._log.append([Record(_EVENTS, time, events.encode(), count=count), *dead])
            partition.enter_dead(first + count, dead)
            decided = self._enter_block(events, first, keys, arrived, effort)
        elif dead:
            partition.enter_dead(self._log.append(dead), dead)
        return self._counted(gathered.receipts(submissions, order, decided, partition.recent.get))

    def _counted(self, receipts: list[Receipt]) -> list[Receipt]:
        self.partition.counters.duplicates += sum(receipt.duplicates for receipt in receipts)
        return receipts

    def _enter_block(self, events: EventBlock, first: int, keys: Ints, arrived: Ints, effort: Effort) -> DecisionBlock:
        """The state after the events were appended, and their decisions."""
        partition, count = self.partition, len(events)
        offsets = np.arange(first, first + count, dtype=np.int64)
        self._ids.add(keys, offsets)
        partition.enter_block(first, events.effective)
        partition.counters.events += count
        partition.loads.leave()
        features: NDArray[np.float32] | None = None
        if self._windows is not None:
            features = self._windows.fold_columns(*events.on_time(offsets))
        columns = events.columns
        if used := self.deciding.lookups:
            columns = lists_columns.beside(partition.lists, used, columns, events.effective)
        block = decide_block(
            UndecidedBlock(first, columns, events.late, arrived, features, events.effective),
            self.deciding,
            id_place=self._id,
            key_place=self._key,
            features_digest=self.features_digest,
            now=self._clock.now(),
            monotonic=self._clock.monotonic(),
            tallies=partition.tallies,
            effort=effort,
        )
        self._log.append([Record(_DECISIONS, partition.time, block.encode(), count=count)])
        partition.enter_decisions(block)
        self.arms.note_block(block, events.columns.keys(self._key) if self.arms.by_key else None)
        self.trials.note_block(block)
        return block

    def label(self, submissions: Sequence[LabelSubmission]) -> list[LabelReceipt]:
        """Appends labels and folds them; the receipts may leave after the log's next `sync`."""
        partition = self.partition
        given = [label for s in submissions for row in s.rows if type(row) is list for label in row]
        subjects = [label.subject for label in given]
        found = self._of_labels(subjects, self._ids.find(self._keys(subjects))).tolist() if given else []
        labels = [
            LabelRecord(label.label, label.subject, label.value, label.known_at, offset)
            for label, offset in zip(given, found, strict=True)
        ]
        dead = [
            dead_record(row, s.raw[row.index], partition.time)
            for s in submissions
            for row in s.rows
            if isinstance(row, Refused)
        ]
        if not labels and not dead:
            return [LabelReceipt() for _ in submissions]
        if self._windows is not None:
            self._windows.reserve(len(labels))
        records = [Record(RecordKind.LABEL, partition.time, encode(label)) for label in labels]
        first = self._log.append([*records, *dead])
        partition.enter_dead(first + len(records), dead)
        partition.counters.labels += len(labels)
        if self._windows is not None and labels:
            self._windows.fold_labels(range(first, first + len(labels)), labels)
        offsets = iter(found)
        return [receipt_of_labels(s, offsets) for s in submissions]

    def learn(self, submissions: Sequence[ReferenceSubmission]) -> list[int]:
        """Appends rows of references and folds them; the answers may leave after the log's next `sync`. Of each
        submission: how many rows said something new."""
        partition = self.partition
        rows: list[tuple[int, list[Value]]] = []
        news: list[int] = []
        for submission in submissions:  # one after the other: what is news depends on those before
            before = len(rows)
            rows += partition.lists.news(submission.index, submission.rows, partition.time, removes=submission.removes)
            news.append(len(rows) - before)
        dead = [dead_record(*letter, partition.time) for s in submissions for letter in s.dead]
        if not rows and not dead:
            return news
        if self._windows is not None:
            self._windows.reserve(len(rows))
        records = [Record(_REFERENCE, partition.time, encode_reference(*row)) for row in rows]
        first = self._log.append([*records, *dead])
        partition.enter_dead(first + len(records), dead)
        partition.counters.reference_rows += len(rows)
        if self._windows is not None:
            self._windows.fold_references(range(first, first + len(rows)), rows)
        return news

    def load(self, block: Block, step: LoadStep) -> BlockAnswer:
        """Appends a block of history and folds it; the answer may leave after the log's next `sync`.

        Raises Conflict (LOAD_OUT_OF_ORDER, HISTORY_AFTER_LIVE) or InvalidInput (AHEAD_OF_CLOCK); nothing happened then.
        """
        partition = self.partition
        before = partition.loads.answered(step.load, step.sequence)
        if before is not None:
            return before
        now = self._clock.now()
        check_times(block, self._stream, time=partition.time, now=now, limit=self._clock.limit(now))
        effective = effective_times(block, partition.time)
        keys = block.event_ids(self._stream.id)
        ids = block.texts(self._stream.id) if self._text_id else None
        known = self._seen(ids, keys) if ids is not None else self._ids.find(keys)
        event_times = effective[block.events]
        horizons = partition.horizon.first_of_each(event_times)
        fresh = ~repeated(keys, ids, event_times, known, horizons, self._stream.dedupe_us)
        duplicates = int(np.count_nonzero(~fresh))
        rows = np.ones(len(block), np.bool_)
        rows[block.events] = fresh
        appended = int(np.count_nonzero(rows))
        step = LoadStep(step.load, step.sequence, duplicates, step.last, not appended)
        if appended:
            self._append_block(block.keep(rows), effective[rows], keys[fresh], step)
        else:  # a restart must know that the block came, and whether it was the last
            self._log.append([self._announcement(step)])
        answer = BlockAnswer(step.sequence, appended, duplicates, self._log.next_offset - 1)
        partition.loads.note(step, answer)
        partition.counters.duplicates += duplicates
        return answer

    def find(self, event_id: Id) -> tuple[int, DecisionRecord | None]:
        """(The offset of the event that came last with this id, or with another text of the same key, as its decision
        tells; that decision where it is in memory); -1: there is none."""
        offset = int(self._ids.find(self._keys([event_id]))[0])
        return offset, self.partition.recent.get(offset)

    def read(self, digest: str, rows: Sequence[Sequence[Value]]) -> AsOf:
        """The features `digest` of these rows as of the log's last record; it may leave after the next `sync`. Raises
        Conflict (FEATURES_NOT_BUILT)."""
        if self._windows is None:
            raise not_built(digest)
        return AsOf(self._log.next_offset - 1, self.partition.time, self._windows.read(digest, rows))

    def save(self, ids: bytes) -> tuple[Checkpoint, SavedWindows | None]:
        """The state as it is now; `ids` is the description of the id index. Call it between batches, synced."""
        partition = self.partition
        saved = self._windows.save() if self._windows is not None else None
        checkpoint = Checkpoint(
            offset=self._log.next_offset,
            time=partition.time,
            features_digest=self.features_digest,
            features=saved.state if saved is not None else b"",
            ids=ids,
            counters=msgspec.convert(msgspec.to_builtins(partition.counters), type(partition.counters)),
            horizon=partition.horizon.points,
            control=partition.control,
            loads=partition.loads.all(),
            dead_letters=tuple(partition.dead_letters),
            beside=saved.beside if saved is not None else None,
            last=last_before(self._log.next_offset, self._log),
            arms=self.arms.saved(),
            trial=self.trials.saved(),
            lists=partition.lists.save(),
            tallies=partition.tallies.saved(),
        )
        return checkpoint, saved

    def _keys(self, ids: Sequence[object]) -> Ints:
        return np.array([key_of_text(i) for i in ids] if self._text_id else ids, np.int64)  # type: ignore[arg-type]

    def _known(self, submissions: Sequence[Submission]) -> tuple[list[int], list[int]]:
        """Of each row that was not refused: its id as a key, and the offset where that was seen last."""
        place = self._id
        ids = [row[place] for s in submissions for row in s.rows if type(row) is list]
        keys = self._keys(ids)
        return keys.tolist(), self._seen(ids, keys).tolist()

    def _seen(self, ids: Sequence[object] | Ints, keys: Ints) -> Ints:
        """Where each id was seen last, -1: nowhere. Whether that is too long ago is looked at later, again."""
        known = self._ids.find(keys)
        if self._text_id and known.max(initial=-1) >= 0:
            partition = self.partition
            saw = partition.horizon.look_ahead().saw
            known = np.array([at if at >= 0 and saw(at, partition.time) else -1 for at in known.tolist()], np.int64)
            known[self._same.others(cast("Sequence[object]", ids), known.tolist())] = -1
        return known

    def _of_labels(self, subjects: Sequence[object], found: Ints) -> Ints:
        """Where the events that labels are about stand, of what was found for their ids."""
        if self._text_id:
            found[self._same.others(subjects, found.tolist(), in_log=False)] = -1
        return found

    def _enter(self, batch: Batch, first: int) -> None:
        """The state after the events were appended."""
        partition, count = self.partition, len(batch.rows)
        self._ids.add(np.array(batch.keys, np.int64), np.arange(first, first + count, dtype=np.int64))
        for offset, time in enumerate(batch.effective, first):  # one by one, as a replay does
            partition.enter(offset, time)
        partition.counters.events += count
        partition.loads.leave()

    def _fold(self, batch: Batch, offsets: range) -> NDArray[np.float32] | None:
        if self._windows is None:
            return None
        if True not in batch.late:
            return self._windows.fold_events(offsets, batch.effective, batch.rows)
        places = [place for place, late in enumerate(batch.late) if not late]
        return self._windows.fold_events(
            [offsets[place] for place in places],
            [batch.effective[place] for place in places],
            [batch.rows[place] for place in places],
        )

    def _append_block(self, block: Block, effective: Ints, keys: Ints, step: LoadStep) -> None:
        partition, count = self.partition, len(block)
        if self._windows is not None:
            self._windows.reserve(count)
        first = self._log.next_offset + 1  # after the CONTROL record that announces it
        offsets = np.arange(first, first + count, dtype=np.int64)
        self._ids.add(keys, offsets[block.events])
        found, of_labels = self._ids.find(block.subjects()), block.of_labels
        subjects = np.full(count, -1, np.int64)
        subjects[of_labels] = np.where(found < offsets[of_labels], found, -1)
        frame = complete(block, effective, subjects)
        end = int(effective[-1])
        self._log.append(
            [
                self._announcement(step),
                Record(RecordKind.HISTORY, end, encode_frame(frame), count=count),
            ]
        )
        partition.enter_block(first, effective)
        partition.counters.history_rows += count
        learn_frame(partition.lists, frame)
        if self._windows is not None:
            self._windows.fold_block(first, frame)

    def _announcement(self, step: LoadStep) -> Record:
        return Record(RecordKind.CONTROL, self.partition.time, encode_control(self._control(step)))

    def _control(self, step: LoadStep | None) -> ControlRecord:
        deciding, rules = self.deciding, self.deciding.rules
        spec = self._windows.spec if self._windows is not None else None
        return ControlRecord(
            model=deciding.model,
            rules=rules.texts if rules is not None else (),
            otherwise=rules.otherwise if rules is not None else "",
            fallback=rules.fallback if rules is not None else "",
            rules_digest=rules.digest if rules is not None else "",
            features_digest=self.features_digest,
            disorder_us=self._stream.disorder_us,
            ahead_us=self._stream.ahead_us,
            at=self._clock.now(),
            fields=fields_of(self._stream),
            labels=tuple(label.name for label in self._stream.labels),
            references=references_of(self._stream),
            load=step,
            canary=deciding.canary.lane.model if deciding.canary is not None else None,
            canary_percent=deciding.canary.percent if deciding.canary is not None else 0.0,
            shadow=deciding.shadow.model if deciding.shadow is not None else None,
            last=deciding.last.model if deciding.last is not None else None,
            deadline_us=deciding.deadline_us,
            fallback_by=deciding.fallback_by,
            features=spec.to_json() if spec is not None and step is None else None,
            rules_version=deciding.rules_version,
            trial=deciding.trial.in_use() if deciding.trial is not None else None,
            budgets=tuple(own.to_json() for own in rules.budgets) if rules is not None else (),
            counters=tuple(own.to_json() for own in rules.counters) if rules is not None else (),
            combine=rules.combine if rules is not None else (),
            cheaper=deciding.cheaper.model if deciding.cheaper is not None else None,
        )
