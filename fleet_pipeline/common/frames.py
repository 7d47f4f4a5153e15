"""Data frames as plain rows."""

from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, with None for every absent value: pandas has three kinds of those."""
    columns = []
    for position in range(frame.shape[1]):
        column = frame.iloc[:, position]
        present = column.notna().tolist()
        columns.append([value if there else None for value, there in zip(column.tolist(), present, strict=True)])
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
