"""The script that people bring: two layers, ten epochs. What is changed in it is marked; the rest is theirs."""

import keras
from keras import layers

x, y = data.x, data.y  # noqa: F821  # changed: `data` comes from sample.py, in place of a file

model = keras.Sequential(
    [
        layers.Dense(64, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(),
    loss=keras.losses.BinaryCrossentropy(),
    metrics=["accuracy"],
)
model.fit(x, y, epochs=10)
model.save("model.keras")
