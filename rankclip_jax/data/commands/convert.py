"""`convert`: write the training pairs as ArrayRecord files, of which any pair is read at once.

For what is slow by random access: Parquet of large groups, millions of small files, folders on a network. Images
are copied as they are encoded, in the same order, so that a run is the same run. Quarantined pairs, and pairs that
cannot be read, are left out.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.commands.sections import Section, in_parallel, sections_of
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.quarantine import read_quarantine, sound_pairs
from rankclip_jax.data.sources.array_record import encode_pair, write_records
from rankclip_jax.errors import UserError

SHOWN = 3  # keys of pairs that are left out


def define_flags() -> None:
    """Flags of this command."""
    flags.DEFINE_string("out", "converted", "folder for the files, made if missing")
    flags.DEFINE_integer("shard_pairs", 10_000, "pairs in a file", lower_bound=1)
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "threads that read", lower_bound=1)


def run(config: ConfigDict) -> None:
    """Write the pairs of each place of `config.data.train`."""
    out = Path(flags.FLAGS.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    old = sorted(out.glob("train*.array_record"))
    if old:
        raise UserError(f"{out} holds {old[0].name} already: give another --out, or delete it.")
    places = [section for section in sections_of(config) if section.name.split()[0] == "train"]
    quarantined = read_quarantine(config.data.quarantine)
    for number, place in enumerate(places, 1):
        name = "train" if len(places) == 1 else f"train_{number}"
        _convert(place, quarantined, out, name)


def _convert(place: Section, quarantined: frozenset[str], out: Path, name: str) -> None:
    """Write one place, and say how it is named in a config."""
    numbers, bad = sound_pairs(place.pairs, quarantined), []
    size, shards, written = flags.FLAGS.shard_pairs, 0, 0
    for start in range(0, len(numbers), size):
        records = _encoded(place.pairs, numbers[start : start + size], f"{name} {start:,} of {len(numbers):,}", bad)
        written += write_records(out / f"{name}-{shards:05d}.array_record", records)
        shards += 1
    for key, reason in bad[:SHOWN]:
        print(f"  left out {key}: {reason}")
    print(
        f"{written:,} of {len(place.pairs):,} pairs in {shards} files: "
        f"--config.data.name=arrayrecord --config.data.train='{out}/{name}-*.array_record'"
    )


def _encoded(pairs: PairSource, numbers: np.ndarray, title: str, bad: list[tuple[str, str]]) -> Iterator[bytes]:
    """Records in order; those that cannot be read go to `bad`."""

    def read(chunk: np.ndarray) -> Sequence[bytes | tuple[str, str]]:
        return [_read(pairs, int(number)) for number in chunk]

    for found in in_parallel(read, numbers, flags.FLAGS.threads, title):
        bad += [item for item in found if isinstance(item, tuple)]
        yield from (item for item in found if isinstance(item, bytes))


def _read(pairs: PairSource, number: int) -> bytes | tuple[str, str]:
    try:
        return encode_pair(pairs, number)
    except Exception as error:  # whatever a reader raises
        return pairs.key(number), f"{type(error).__name__}: {error}"
