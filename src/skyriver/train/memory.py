"""Whether an error means that there was not enough memory, in the words of each library."""

from __future__ import annotations

import errno
from typing import Final

_SAID: Final = ("can't allocate memory", "std::bad_alloc", "bad allocation", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Of Python and NumPy, of torch on the CPU and on a GPU, of LightGBM and XGBoost, of the system (also as Polars has
    it); imports none of them."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    if getattr(error, "errno", None) == errno.ENOMEM or f"(os error {errno.ENOMEM})" in said:
        return True
    by = type(error).__module__.partition(".")[0]
    return (isinstance(error, RuntimeError) or by in ("lightgbm", "xgboost")) and any(one in said for one in _SAID)
