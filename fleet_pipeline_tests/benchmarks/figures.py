"""What benchmarks say: figures with their spread, in turns that a busy moment cannot favour."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self, TypeVar

Way = TypeVar("Way")


@dataclass(frozen=True)
class Spread:
    """The median of some figures, the least and the largest."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises `statistics.StatisticsError` if there are none."""
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.middle:.3g}"
        return f"{self.middle:.3g} ({self.low:.3g} to {self.high:.3g})"


def turns(ways: Sequence[Way], repetitions: int) -> Iterator[Way]:
    """A B C, C B A, A B C, and so on: a machine that gets slower harms all alike."""
    for repetition in range(repetitions):
        yield from ways if repetition % 2 == 0 else reversed(ways)


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """What `above` is of `below`, repetition by repetition."""
    return Spread.of([one / other for one, other in zip(above, below, strict=True)])


@dataclass(frozen=True)
class Line:
    """A line of a report. `aim` is what the figure should be, in words; empty where there is none."""

    name: str
    figure: Spread
    aim: str = ""

    @classmethod
    def one(cls, name: str, value: float, aim: str = "") -> Self:
        """A figure that was measured once."""
        return cls(name, Spread.of([value]), aim)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        return cls(plain["name"], Spread(**plain["figure"]), plain["aim"])

    def markdown(self) -> str:
        return f"| {self.name} | {self.figure} | {self.aim} |"


def markdown(title: str, lines: Sequence[Line]) -> str:
    return "\n".join(
        [f"| {title} | median (least to most) | aim |", "| --- | --- | --- |", *(one.markdown() for one in lines)]
    )


def takes_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")


def publish(title: str, lines: Sequence[Line], file: Path | None) -> None:
    """Print a table, and write it to `file` if there is one."""
    print(markdown(title, lines), flush=True)
    if file:
        file.write_text(json.dumps([line.plain() for line in lines]))
