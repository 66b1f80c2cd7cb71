"""`convert`: writes the training pairs as ArrayRecord files, for fast random access.

This helps if random access is slow: Parquet with large row groups, millions of small files, network folders. Encoded
images are copied in the same order, so training on the copy has the same batches. Quarantined and unreadable pairs are
skipped.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.commands.sections import MakeTokenizer, sections_of
from rankclip_jax.data.in_parallel import in_parallel
from rankclip_jax.data.indices import Complement, Indices
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.quarantine import find_quarantined, read_quarantine, with_prefixes
from rankclip_jax.data.sources.array_record import encode_pair, write_records
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import printable, short, show

SHOWN = 3  # keys of skipped pairs
BadPair = tuple[str, str]  # key, reason


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("out", "converted", "folder for the files; created if missing")
    flags.DEFINE_integer("shard_pairs", 10_000, "pairs per file", lower_bound=1)
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "number of reading threads", lower_bound=1)


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Write the pairs of each location of `config.data.train`."""
    out, shard_pairs, threads = Path(flags.FLAGS.out).expanduser(), flags.FLAGS.shard_pairs, flags.FLAGS.threads
    out.mkdir(parents=True, exist_ok=True)
    old = sorted(out.glob("train*.array_record"))
    if old:
        raise UserError(f"{out} holds {old[0].name} already: give another --out, or delete the file.")
    found = sections_of(config)
    quarantined = with_prefixes(read_quarantine(config.data.quarantine), {part.prefix: part.pairs for part in found})
    sections = [section for section in found if section.name.split()[0] == "train"]
    for number, section in enumerate(sections, 1):
        name = "train" if len(sections) == 1 else f"train_{number}"
        sound = Complement(len(section.pairs), find_quarantined(section.pairs, quarantined))
        _convert(section.pairs, sound, out / name, shard_pairs, threads)


def _convert(pairs: PairSource, indices: Indices, out: Path, shard_pairs: int, threads: int) -> None:
    """Write the pairs at `indices` to files whose names begin with `out`; print the config options that read them."""
    bad, shards, written = [], 0, 0
    for start in range(0, len(indices), shard_pairs):
        part = [indices[i] for i in range(start, min(start + shard_pairs, len(indices)))]
        title = f"{out.name} {start:,} of {len(indices):,}"
        records = _sound(in_parallel(partial(_read, pairs), part, threads, title), bad)
        written += write_records(out.with_name(f"{out.name}-{shards:05d}.array_record"), records)
        shards += 1
    for key, reason in bad[:SHOWN]:
        show(f"  skipped {printable(key)}: {short(reason)}")
    show(
        f"{written:,} of {len(pairs):,} pairs in {shards} files: "
        f"--config.data.name=arrayrecord --config.data.train='{out}-*.array_record'"
    )


def _sound(chunks: Iterable[list[bytes | BadPair]], bad: list[BadPair]) -> Iterator[bytes]:
    """The records of all chunks; unreadable pairs are appended to `bad`."""
    for chunk in chunks:
        bad += [item for item in chunk if isinstance(item, tuple)]
        yield from (item for item in chunk if isinstance(item, bytes))


def _read(pairs: PairSource, indices: Sequence[int]) -> list[bytes | BadPair]:
    return [_read_one(pairs, index) for index in indices]


def _read_one(pairs: PairSource, index: int) -> bytes | BadPair:
    try:
        return encode_pair(pairs, index)
    except Exception as error:  # readers may raise any exception
        return pairs.key(index), f"{type(error).__name__}: {error}"
