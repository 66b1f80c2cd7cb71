"""What was found in tars, for people: a table, and a line for each kind of trouble."""

import os
import re
from collections.abc import Sequence

from rankclip_jax.data.tars.build import Indexed
from rankclip_jax.text_table import text_table

SHOWN = 10  # names in a line


def summary(tars: Sequence[Indexed], seconds: float) -> str:
    """A table of counts, and the troubles below it."""
    entries = [tar.entry for tar in tars]
    pairs, row_bytes = sum(entry.pairs for entry in entries), sum(tar.rows.nbytes for tar in tars)
    gaps = gaps_in([tar.file for tar in tars])
    lines = [
        ("shards", f"{len(tars):,}"),
        ("pairs", f"{pairs:,}"),
        ("members", f"{sum(entry.members for entry in entries):,}"),
        ("incomplete samples, left out", f"{sum(entry.incomplete for entry in entries):,}"),
        ("members of a name that was there before, left out", f"{sum(entry.duplicates for entry in entries):,}"),
        ("shards with trouble", f"{sum(bool(entry.problem) for entry in entries):,}"),
        ("shards without pairs", f"{sum(not entry.pairs for entry in entries):,}"),
        ("missing shard numbers", f"{len(gaps):,}"),
        ("bytes of tars", f"{sum(entry.size for entry in entries):,}"),
        ("bytes of index", f"{row_bytes:,}" + (f" ({row_bytes / pairs:.0f} a pair)" if pairs else "")),
        ("seconds", f"{seconds:.1f}"),
    ]
    places = sorted({tar.index for tar in tars})
    return "\n".join([text_table(lines), *(f"index: {place}" for place in places), *troubles(tars)])


def troubles(tars: Sequence[Indexed]) -> list[str]:
    """A line for each kind of trouble there is."""
    entries = [tar.entry for tar in tars]
    damaged = [f"{os.path.basename(tar.file)} ({tar.entry.problem})" for tar in tars if tar.entry.problem]
    incomplete, duplicates = sum(e.incomplete for e in entries), sum(e.duplicates for e in entries)
    gaps = gaps_in([tar.file for tar in tars])
    lines = []
    if damaged:
        lines.append(f"{len(damaged)} of {len(tars)} shards have trouble; what is before it is used: {_first(damaged)}")
    if gaps:
        lines.append(f"{len(gaps)} shard numbers are missing: {_first(gaps)}")
    if incomplete:
        where = [os.path.basename(tar.file) for tar in tars if tar.entry.incomplete]
        lines.append(f"{incomplete:,} samples without image or caption are left out, in {_first(where)}")
    if duplicates:
        where = [os.path.basename(tar.file) for tar in tars if tar.entry.duplicates]
        lines.append(f"{duplicates:,} members of a name that was there before are left out, in {_first(where)}")
    return lines


def gaps_in(files: Sequence[str]) -> list[str]:
    """Names missing between the first and the last number, of files that differ only in the last number."""
    series = {}
    for file in files:
        folder, name = os.path.split(file)
        found = re.fullmatch(r"(.*?)(\d+)([^\d]*)", name, re.DOTALL)
        if found:
            width = len(found[2]) if found[2].startswith("0") else 0
            series.setdefault((folder, found[1], found[3]), {})[int(found[2])] = max(width, 1)
    missing = []
    for (_, before, after), numbers in series.items():
        absent = sorted(set(range(min(numbers), max(numbers))) - numbers.keys()) if len(numbers) > 1 else []
        width = max(numbers.values())
        missing += [f"{before}{number:0{width}d}{after}" for number in absent]
    return missing


def _first(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
