"""What a benchmark describes: its cases, how a case is built, and the columns derived from its times."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A case that is ready to run.

    Attributes:
      run: does the work of one run and returns when it is done.
      columns: the first columns of its row.
    """

    run: Callable[[], object]
    columns: Row


@dataclass(frozen=True)
class Benchmark:
    """What `runner` measures and prints.

    Attributes:
      title: what is timed, for the line above the table.
      labels: columns that identify a row in the table; the first one names the case.
      about: columns that are equal in all rows, for the line above the table.
      define_flags: defines the flags of the benchmark; ``--rounds`` and ``--json`` are common to all.
      groups: takes the parsed flags and yields groups of cases; the cases of a group take turns. A case is plain data
        for `build`, unless cases run in this process. With "run": False it is built but not run.
      build: takes a case and returns it ready to run.
      is_base: takes the columns of a case and of another one, and returns whether the times of the first are divided by
        those of the other. The first such case is the base; by default the first case of the group.
      derived: more columns, by name: functions of a row whose times are known.
      memory: rows have "peak_bytes".
      rounds: default number of timed turns of each case.
      min_rounds: 0 if the first turn can be the timed one.
      warm_up: turns of each case before the first timed one.
      runs: runs in a turn; the last one is timed.
      in_process: cases run in this process, not in processes of their own.
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
