"""The twelve features by Spark's window functions, over a whole file at once, on one core.

    python spark_windows.py SAMPLE.parquet PAYMENTS.parquet --out FOLDER

A batch: Structured Streaming has no OVER windows, and its stateful operators start one batch after another. The result
goes to Spark's sink that takes everything and writes nothing. SAMPLE.parquet is run first, in the same JVM, not counted
and with its result in FOLDER. Prints one JSON document; CPU is that of the JVM.
"""

from __future__ import annotations

import argparse

import pyspark
from _jvm import timed
from _windows import query
from pyspark.sql import SparkSession


def run(spark: SparkSession, file: str, out: str) -> None:
    spark.sql(f"SELECT *, `at` DIV 1000 AS t FROM parquet.`{file}`").createOrReplaceTempView("payments")
    found = spark.sql(query("payments", "0D"))
    if out:
        found.write.csv(out)
    else:
        found.write.format("noop").mode("overwrite").save()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sample")
    parser.add_argument("source")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "3g",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.session.timeZone": "UTC",
    }
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    run(spark, given.sample, given.out)
    events = spark.sql(f"SELECT count(*) FROM parquet.`{given.source}`").first()[0]
    timed(lambda: run(spark, given.source, ""), pyspark.__version__, events)
    spark.stop()


if __name__ == "__main__":
    main()
