"""Card payments: behaviour in, a decision within milliseconds out. `skyriver deploy risk.py`

The features are those of the Fraud Detection Handbook (chapter 3, "Baseline feature transformation"), and four ratios
that say how unusual a payment is for this customer.
"""

from __future__ import annotations

import lightgbm

import skyriver as sr

app = sr.App("risk")


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    terminal: int
    amount: float | None = sr.field(ge=0, le=1_000_000, unit="EUR")


# A terminal that was cut off may report up to four hours late; later than that a payment is not scored any more.
payments = app.stream("payments", Payment, id="payment", time="at", key="customer", disorder="4h")
frauds = app.labels("fraud", of=payments, delay="7d")

spent = {days: sr.mean("amount", by="customer", over=days) for days in ("1d", "7d", "30d")}
used = {days: sr.count(by="customer", over=days) for days in ("1d", "7d", "30d")}

behaviour = app.features("behaviour", payments, {
    "amount": payments.amount,
    "weekend": payments.at.weekday() >= 5,
    "night": payments.at.hour() <= 6,
    **{f"customer_count_{days}": count for days, count in used.items()},
    **{f"customer_mean_{days}": mean for days, mean in spent.items()},
    **{f"terminal_count_{days}": sr.count(frauds, by="terminal", over=days) for days in ("1d", "7d", "30d")},
    **{f"terminal_fraud_{days}": sr.mean(frauds, by="terminal", over=days) for days in ("1d", "7d", "30d")},
    "amount_to_mean_7d": payments.amount / spent["7d"],
    "amount_to_mean_30d": payments.amount / spent["30d"],
    "mean_1d_to_30d": spent["1d"] / spent["30d"],
    "mean_7d_to_30d": spent["7d"] / spent["30d"],
})  # fmt: skip


@app.train(behaviour, label=frauds, test="7d")
def fit(data: sr.TrainingData) -> lightgbm.Booster:
    settings = {
        "objective": "binary",
        "num_leaves": 31,
        "min_data_in_leaf": 200,
        "lambda_l2": 10.0,
        "seed": data.seed,
        "verbose": -1,
    }
    return lightgbm.train(settings, lightgbm.Dataset(data.x, data.y), int(data.params.get("trees", 100)))


model = app.model(
    "fraud",
    fit,
    metrics={"card_precision_100": sr.precision_at(100, by="customer", per="1d")},
    gate=sr.Gate(average_precision=">= 0.60", against="champion", tolerance=0.01),
    compress=sr.Compress(max_loss=0.005),
    slices=[sr.Slice("night", payments.at.hour() <= 6, least_positives=20)],
    description="Which card payments are fraudulent, so that they are stopped or looked at before the money is gone.",
)

decisions = app.decide(payments, model, {"block": "score >= 0.9", "review": "score >= 0.3"}, otherwise="approve")
decisions.example("block", score=0.95).example("review", score=0.5).example("approve", score=0.1)
