"""The rows of a turn brought together into one block, and all of them told apart again for their receipts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from skyriver.core.spec import StreamSpec
from skyriver.data.columns import Columns, Ints, join
from skyriver.data.log import Record
from skyriver.decide.log.blocks import DecisionBlock
from skyriver.decide.log.records import DecisionRecord, Value
from skyriver.decide.partition.receipt import LabelReceipt, LabelSubmission, Receipt, Refused, Submission
from skyriver.decide.partition.sorting import NEW, REFUSED, REPEATED, BlockOrder, Fate, ahead, dead_record

BLOCK_ROWS = 16
FIELDS_A_ROW = 4
"""A block costs some 10 us a field once, and saves some 10 us a row and a fraction of one for each of its fields."""


def block_rows(fields: int) -> int:
    """How many rows together are cheaper as a block than one by one."""
    return BLOCK_ROWS + fields // FIELDS_A_ROW


@dataclass(slots=True)
class Gathered:
    """The good rows of some submissions, in their order. `starts`: where those of each submission begin among them, and
    the end. `indices`: of each submission, the index in it of each of its good rows (None: all are good). `refused`: of
    each submission, in the order of their index."""

    columns: Columns
    starts: list[int]
    indices: list[list[int] | None]
    refused: list[list[Refused]]

    def refuse_ahead(
        self, submissions: Sequence[Submission], order: BlockOrder, limit: int, stream: StreamSpec
    ) -> None:
        """Puts what `order` refuses among the refused."""
        for place, (fate, own) in order.fates.items():
            if fate is REFUSED:
                which = int(np.searchsorted(self.starts, place, side="right")) - 1
                index = self.index_of(which, place)
                self.refused[which].append(ahead(submissions[which].start + index, own, limit, stream))
        for refused in self.refused:
            refused.sort(key=lambda r: r.index)

    def index_of(self, submission: int, place: int) -> int:
        """The index in its submission of the good row at this place."""
        own = self.indices[submission]
        at = place - self.starts[submission]
        return at if own is None else own[at]

    def dead(self, submissions: Sequence[Submission], time: int) -> list[Record]:
        return [
            dead_record(row, submission.raw[row.index], time)
            for submission, refused in zip(submissions, self.refused, strict=True)
            for row in refused
        ]

    def arrived(self, submissions: Sequence[Submission]) -> Ints:
        """When each good row came."""
        return np.repeat(np.array([s.arrived for s in submissions], np.int64), np.diff(self.starts))

    def receipts(
        self,
        submissions: Sequence[Submission],
        order: BlockOrder,
        decided: DecisionBlock | None,
        recent: Callable[[int], DecisionRecord | None],
    ) -> list[Receipt]:
        """`decided` are the decisions of the new events, `recent` gives those of before that are in memory, by the
        event's offset."""
        found = []
        for which, submission in enumerate(submissions):
            start, end = self.starts[which : which + 2]
            fates = {p: order.fates[p] for p in range(start, end) if p in order.fates} if order.fates else {}
            before = start if order.new is None else int(np.searchsorted(order.new, start))  # new ones
            receipt = Receipt(rejected=self.refused[which], accepted=end - start - len(fates))
            receipt.duplicates = sum(fate is not REFUSED for fate, _ in fates.values())
            if receipt.accepted and decided is not None:
                receipt.first_offset = decided.first + before
            if submission.wants_decisions:
                receipt.decisions = [None] * len(submission)
                new = decided.records(before, before + receipt.accepted) if decided is not None else iter(())
                for place in range(start, end):
                    fate, number = fates.get(place, (NEW, 0))
                    if fate is REFUSED:
                        continue
                    if fate is NEW:
                        decision: DecisionRecord | None = next(new)
                    elif fate is REPEATED and decided is not None:
                        decision = decided.record(number)
                    elif (decision := recent(number)) is None:
                        receipt.seek(self.index_of(which, place), number)
                    receipt.decisions[self.index_of(which, place)] = decision
            found.append(receipt)
        return found


def gather(submissions: Sequence[Submission], stream: StreamSpec) -> Gathered:
    parts: list[Columns] = []
    waiting: list[list[Value]] = []
    counts: list[int] = []
    indices: list[list[int] | None] = []
    refused: list[list[Refused]] = []
    for submission in submissions:
        if submission.columns is not None:
            if waiting:
                parts.append(Columns.of_rows(stream.fields, waiting))
                waiting = []
            parts.append(submission.columns)
            counts.append(len(submission.columns))
            indices.append(None)
            refused.append([])
            continue
        good = [row for row in submission.rows if type(row) is list]
        waiting += good
        counts.append(len(good))
        all_good = len(good) == len(submission.rows)
        indices.append(None if all_good else [i for i, row in enumerate(submission.rows) if type(row) is list])
        refused.append([] if all_good else [row for row in submission.rows if isinstance(row, Refused)])
    if waiting or not parts:
        parts.append(Columns.of_rows(stream.fields, waiting))
    return Gathered(join(parts), [0, *accumulate(counts)], indices, refused)


def receipts_of_rows(
    submissions: Sequence[Submission],
    fates: Sequence[Sequence[tuple[Fate, int]]],
    decided: Sequence[DecisionRecord],
    recent: Callable[[int], DecisionRecord | None],
) -> list[Receipt]:
    """Of what went row by row: `fates` of each row of each submission, `decided` the decisions of the new events,
    `recent` gives those of before that are in memory, by the event's offset."""
    return [_receipt_of_rows(s, f, decided, recent) for s, f in zip(submissions, fates, strict=True)]


def _receipt_of_rows(
    submission: Submission,
    fates: Sequence[tuple[Fate, int]],
    decided: Sequence[DecisionRecord],
    recent: Callable[[int], DecisionRecord | None],
) -> Receipt:
    receipt = Receipt()
    wanted = submission.wants_decisions
    for index, (fate, number) in enumerate(fates):
        decision: DecisionRecord | None = None
        if fate is NEW:
            decision = decided[number]
            receipt.accepted += 1
            if receipt.first_offset < 0:
                receipt.first_offset = decision.event_offset
        elif fate is REFUSED:
            refused = submission.rows[index]
            assert isinstance(refused, Refused)
            receipt.rejected.append(refused)
        else:
            receipt.duplicates += 1
            if wanted:
                decision = decided[number] if fate is REPEATED else recent(number)
                if decision is None:
                    receipt.seek(index, number)
        if wanted:
            receipt.decisions.append(decision)
    return receipt


def receipt_of_labels(submission: LabelSubmission, offsets: Iterator[int]) -> LabelReceipt:
    """`offsets` of the subjects of all labels, in order; takes its own."""
    receipt = LabelReceipt()
    for row in submission.rows:
        if isinstance(row, Refused):
            receipt.rejected.append(row)
        else:
            receipt.accepted += len(row)
            receipt.unknown_subjects += sum(next(offsets) < 0 for _ in row)
    return receipt
