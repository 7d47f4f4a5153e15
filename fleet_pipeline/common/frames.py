"""Data frames as plain rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, with None for every absent value: pandas has three kinds of those.

    Values are looked at one by one. Of three rows and forty columns that takes 0.8 ms, and pandas' masks took 5.
    """
    import pandas as pd  # takes half a second, and `fleet status` has use for it only where it shows one deliberation

    def is_absent(value: object) -> bool:
        return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)

    columns = [[None if is_absent(value) else value for value in column.tolist()] for _, column in frame.items()]
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
