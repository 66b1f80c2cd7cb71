"""Counts records that cannot be read, and stops the run if there are too many."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import short

LOG = logging.getLogger(__name__)

MAX_LOGGED = 100  # 1 % of 12 million records would hide every other line of the log
MAX_KNOWN = 1 << 20  # indices of bad records in memory; of billions of records, many more may be bad
SHOWN = 10  # bad records in the error message


@dataclass(frozen=True)
class BadRecord:
    """One failed attempt to read a record: its index, its key, and the error as text."""

    index: int
    key: str
    reason: str


class BadRecords:
    """Counts failed reads in the batches that were consumed; batches made ahead do not count.

    A run stops if more than `max_fraction` of all records are known to be bad. On a large data set it stops earlier:
    if the number of failed draws exceeds the expected number, `max_fraction` of all draws, by more than six standard
    deviations plus ten. `count` is the number of failed reads so far.
    """

    def __init__(self, num_records: int, max_fraction: float):
        self._num_records = num_records
        self._max_fraction = max_fraction
        self._drawn = 0
        self._known: set[int] = set()
        self._first: list[BadRecord] = []
        self.count = 0

    def add(self, drawn: int, failures: Iterable[BadRecord]) -> None:
        """Add `drawn` examples and the failures among them; `UserError` if there are too many failures."""
        self._drawn += drawn
        for failure in failures:
            self.count += 1
            if failure.index not in self._known and len(self._known) < MAX_KNOWN:
                self._known.add(failure.index)
                self._log(failure)
        if self._too_many():
            raise UserError(self._message())

    def _log(self, failure: BadRecord) -> None:
        known = len(self._known)
        if known <= SHOWN:
            self._first.append(failure)
        if known <= MAX_LOGGED:
            LOG.warning("bad record %s replaced: %s", failure.key, short(failure.reason))
        if known == MAX_LOGGED:
            LOG.warning("%d bad records: more are counted, but not logged; see data validate", known)

    def _too_many(self) -> bool:
        expected = self._max_fraction * self._drawn
        many_known = len(self._known) > self._max_fraction * self._num_records
        return many_known or self.count > expected + 6 * math.sqrt(expected) + 10

    def _at_least(self) -> str:
        return f"{len(self._known):,}" if len(self._known) < MAX_KNOWN else f"more than {MAX_KNOWN:,}"

    def _message(self) -> str:
        first = "; ".join(f"{bad.key} ({short(bad.reason)})" for bad in self._first)
        return (
            f"{self._at_least()} bad records among {self._drawn} drawn, above max_bad_fraction="
            f"{self._max_fraction:g}. First: {first}. Repair or remove them, or raise max_bad_fraction."
        )
