"""The description of a benchmark: its cases, how to build a case, and the columns computed from its times."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A case that is ready to run: `run` does one run and returns when it is done; its row begins with `columns`."""

    run: Callable[[], object]
    columns: Row


@dataclass(frozen=True)
class Benchmark:
    """The input of `runner`, which measures and prints.

    Attributes:
      title: what is timed, for the line above the table.
      labels: columns that identify a row in the table; the first one names the case.
      about: columns that are equal in all rows, for the line above the table.
      define_flags: defines the flags of the benchmark, without the common ``--rounds`` and ``--json``.
      groups: parsed flags -> groups of cases. The cases of a group take turns. A case is plain data for `build`, unless
        `in_process`. A case with "run": False is built but not run.
      build: case -> the same case, ready to run.
      is_base: (columns of a case, columns of another case) -> whether the other case may be its base. Ratios are times
        divided by those of the base, the first such case; by default this is the first case of the group.
      derived: {column: function of a row that has its times}.
      memory: whether rows have "peak_bytes".
      rounds: default number of timed turns of each case.
      min_rounds: 0 if the first turn may be the timed one.
      warm_up: turns of each case before the first timed one.
      runs: runs in a turn; the last one is timed.
      in_process: whether cases run in this process, not in separate ones.
    """

    title: str
    labels: tuple[str, ...]
    about: tuple[str, ...]
    define_flags: Callable[[], None]
    groups: Callable[[Any], Iterable[Sequence[Row]]]
    build: Callable[[Row], Case]
    is_base: Callable[[Row, Row], bool] = lambda case, other: True
    derived: Mapping[str, Callable[[Row], float | None]] = field(default_factory=dict)
    memory: bool = False
    rounds: int = 5
    min_rounds: int = 1
    warm_up: int = 1
    runs: int = 1
    in_process: bool = False
