"""Rows that a version was asked over HTTP, in the bins of its profile: the form in which replicas tell of them. Pure.

A row of numbers [rows, squares, drawn, cell, cell, ...]; two of them are added by adding. Cells: for each column of the
profile, and for the score behind them, its bins and then what was missing. A row that was drawn stands for `w` that
were answered: `rows` and cells are sums of w, `squares` is that of w squared, so that they tell as much as
rows^2 / squares rows of equal weight [1].

[1] L. Kish, Survey Sampling (1965), section 11.7.
"""

from __future__ import annotations

from typing import Final

ROWS: Final = 0
SQUARES: Final = 1
DRAWN: Final = 2
CELLS: Final = 3
"""Where the cells begin."""
