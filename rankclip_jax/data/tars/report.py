"""Describes indexed tars as text: a table, and one line for each kind of problem."""

import os
import re
from collections.abc import Sequence

from rankclip_jax.data.tars.build import Indexed
from rankclip_jax.terminal.redact import redacted
from rankclip_jax.terminal.tables import text_table

SHOWN = 10  # names in a line


def summary(tars: Sequence[Indexed], seconds: float) -> str:
    """A table of counts, the paths of the indexes, and the problems."""
    entries = [tar.entry for tar in tars]
    pairs, row_bytes = sum(entry.pairs for entry in entries), sum(tar.rows.nbytes for tar in tars)
    lines = [
        ("shards", f"{len(tars):,}"),
        ("pairs", f"{pairs:,}"),
        ("members", f"{sum(entry.members for entry in entries):,}"),
        ("incomplete samples, skipped", f"{sum(entry.incomplete for entry in entries):,}"),
        ("members with a repeated name, skipped", f"{sum(entry.duplicates for entry in entries):,}"),
        ("shards with problems", f"{sum(bool(entry.problem) for entry in entries):,}"),
        ("shards without pairs", f"{sum(not entry.pairs for entry in entries):,}"),
        ("missing shard numbers", f"{len(gaps_in([redacted(tar.file) for tar in tars])):,}"),
        ("bytes of tars", f"{sum(entry.size for entry in entries):,}"),
        ("bytes of index", f"{row_bytes:,}" + (f" ({row_bytes / pairs:.0f} per pair)" if pairs else "")),
        ("seconds", f"{seconds:.1f}"),
    ]
    indexes = sorted({tar.index for tar in tars})
    return "\n".join([text_table(lines), *(f"index: {path}" for path in indexes), *problems(tars)])


def problems(tars: Sequence[Indexed]) -> list[str]:
    """One line for each kind of problem found."""
    damaged = [f"{_name(tar)} ({tar.entry.problem})" for tar in tars if tar.entry.problem]
    gaps = gaps_in([redacted(tar.file) for tar in tars])
    lines = []
    if damaged:
        found = f"{len(damaged)} of {len(tars)} shards have problems; the pairs before the problem are used"
        lines.append(f"{found}: {_first(damaged)}")
    if gaps:
        lines.append(f"{len(gaps)} shard numbers are missing: {_first(gaps)}")
    lines += _skipped(tars, [tar.entry.incomplete for tar in tars], "samples without image or caption")
    return lines + _skipped(tars, [tar.entry.duplicates for tar in tars], "members with a repeated name")


def gaps_in(files: Sequence[str]) -> list[str]:
    """Names of missing shards: gaps between the files whose names differ in their last number only."""
    series = {}
    for file in files:
        folder, name = os.path.split(file)
        found = re.fullmatch(r"(.*?)(\d+)([^\d]*)", name, re.DOTALL)
        if found:
            width = len(found[2]) if found[2].startswith("0") else 1
            series.setdefault((folder, found[1], found[3]), {})[int(found[2])] = width
    missing = []
    for (_, before, after), widths in series.items():
        absent = sorted(set(range(min(widths), max(widths))) - widths.keys())
        width = max(widths.values())
        missing += [f"{before}{number:0{width}d}{after}" for number in absent]
    return missing


def _skipped(tars: Sequence[Indexed], counts: Sequence[int], kind: str) -> list[str]:
    names = [_name(tar) for tar, count in zip(tars, counts, strict=True) if count]
    return [f"{sum(counts):,} {kind} are skipped, in {_first(names)}"] if names else []


def _name(tar: Indexed) -> str:
    return os.path.basename(redacted(tar.file))


def _first(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
