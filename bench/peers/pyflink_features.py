"""The twelve features in PyFlink's DataStream API, thread mode, parallelism 1: two keyed process functions.

    python pyflink_features.py SAMPLE.csv PAYMENTS.csv --out FOLDER

Thread mode runs Python inside the JVM (pemja). A key's state is the times of its events and running sums, searched by
bisection; it is pickled, as everything that PyFlink keeps for Python, and lies on the heap. No checkpoints. The rows
are lines of a file, the result is thrown away. SAMPLE.csv is run first, in the same JVM, not counted and with its
result in FOLDER. Prints one JSON document; CPU is that of the JVM, Python in it, without the process that started it.
"""

from __future__ import annotations

import argparse
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyflink.version
from _jvm import timed
from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.common.serialization import Encoder
from pyflink.datastream import KeyedProcessFunction, RuntimeContext, StreamExecutionEnvironment
from pyflink.datastream.connectors.file_system import FileSink, FileSource, StreamFormat
from pyflink.datastream.state import ValueStateDescriptor

DAY = 86_400_000_000
SPANS = (DAY, 7 * DAY, 30 * DAY)
DELAY = 7 * DAY
TRIM = 64


def parse(line: str) -> Any:
    payment, at, customer, terminal, amount, fraud = line.split(",")
    return int(payment), int(at), int(customer), int(terminal), round(float(amount) * 100), int(fraud)


class Window(KeyedProcessFunction):
    """Adds counts and means of a key's events to the row; `value` is the place of what is averaged."""

    def __init__(self, value: int, unit: int, delay: int) -> None:
        self.value, self.unit, self.delay = value, unit, delay

    def open(self, context: RuntimeContext) -> None:
        self.state = context.get_state(ValueStateDescriptor("events", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, row: Any, context: Any) -> Iterator[Any]:
        times, sums = self.state.value() or ([], [0])
        now = row[1]
        times.append(now)
        sums.append(sums[-1] + row[self.value])
        until = now - self.delay
        known = bisect_right(times, until)
        found = []
        for span in SPANS:
            first = bisect_right(times, until - span)
            count = known - first
            found += (count, (sums[known] - sums[first]) / count / self.unit if count else 0.0)
        if first > TRIM:
            del times[:first], sums[:first]
        self.state.update((times, sums))
        yield (*row, *found)


def run(settings: Configuration, file: str, out: str) -> None:
    env = StreamExecutionEnvironment.get_execution_environment(settings)
    env.set_parallelism(1)
    lines = FileSource.for_record_stream_format(StreamFormat.text_line_format(), file).build()
    rows = env.from_source(lines, WatermarkStrategy.no_watermarks(), "payments").map(parse)
    by_customer = rows.key_by(lambda row: row[2], key_type=Types.LONG()).process(Window(4, 100, 0))
    found = by_customer.key_by(lambda row: row[3], key_type=Types.LONG()).process(Window(5, 1, DELAY))
    if out:
        text = found.map(lambda row: ",".join(map(str, (row[0], *row[6:]))), output_type=Types.STRING())
        text.sink_to(FileSink.for_row_format(out, Encoder.simple_string_encoder()).build())
    else:
        found.filter(lambda row: row[0] < 0).print()
    env.execute("features")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sample")
    parser.add_argument("source")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    settings = Configuration()
    settings.set_string("python.execution-mode", "thread")
    settings.set_string("pipeline.object-reuse", "true")
    run(settings, given.sample, given.out)
    with Path(given.source).open() as file:
        events = sum(1 for _ in file)
    timed(lambda: run(settings, given.source, ""), pyflink.version.__version__, events)


if __name__ == "__main__":
    main()
