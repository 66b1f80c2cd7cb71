"""Tars of the size of CC12M: the size of their index, the time to build and open it. Full size: `slow`."""

import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from rankclip_jax.data.images.extensions import EXTENSIONS
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import webdataset
from rankclip_jax.data.storage import locations
from rankclip_jax.data.tars.build import open_indexes
from rankclip_jax.data.tars.index import write_index
from rankclip_jax.data.tars.shard import Shard
from tests.support import processes
from tests.support.tar_files import write_shards

PARTS = (EXTENSIONS, ("txt",))


def synthetic(folder, num_shards, num_pairs):
    """`num_shards` links to one tar of 64 pairs, with an index that repeats its rows."""
    (first,) = write_shards(folder, [64])
    (tar,) = open_indexes([first], PARTS)
    each = -(-num_pairs // num_shards)
    names = [f"{number:05d}.tar" for number in range(num_shards)]
    for name in names[1:]:
        os.link(first, folder / name)
    size, stamp = locations.stamp(first)
    entry = tar.entry._replace(pairs=each, size=size, stamp=stamp)
    rows = np.resize(tar.rows, (each, tar.rows.shape[1]))
    write_index(tar.index, dict.fromkeys(names, Shard(entry, rows)), PARTS)
    return Path(tar.index), each * num_shards


FIRST_BATCH = """
import sys, time
from tests.support.loaders import make_loader
from rankclip_jax.data.sources.assemble import load
from rankclip_jax.data.sources.options import FileOptions
from rankclip_jax.data.text.tokenizer import TOKENIZERS
tokenizer = TOKENIZERS["clip"]((), 0, 77)

def private():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

before, began = private(), time.perf_counter()
train = load(FileOptions(name="webdataset", train=sys.argv[1])).train
with make_loader(train, tokenizer, batch_size=64, seed=0, image_size=32) as loader:
    next(loader)
    print(len(train), time.perf_counter() - began, private() - before, loader.bad_records)
"""


@pytest.mark.parametrize(
    ("num_shards", "num_pairs"), [(40, 200_000), pytest.param(1243, 12_000_000, marks=pytest.mark.slow)]
)
def test_an_index_is_small_and_opened_at_once(tmp_path, num_shards, num_pairs):
    """28 bytes per pair, mapped and not in private memory; the permutation of 12 M pairs takes 96 MB."""
    index, total = synthetic(tmp_path / "d", num_shards, num_pairs)
    assert index.stat().st_size / total < 30
    code, out, err = processes.run(FIRST_BATCH, f"{tmp_path}/d/{{00000..{num_shards - 1:05d}}}.tar")
    assert code == 0, err
    length, seconds, kilobytes, bad = out.split()
    assert int(length) == total and bad == "0"
    assert float(seconds) < 2 and int(kilobytes) * 1024 < 60e6 + 10 * total


@pytest.mark.parametrize(("num_pairs", "rate"), [(5000, 0), pytest.param(340_000, 200_000, marks=pytest.mark.slow)])
def test_a_tar_of_many_small_members(tmp_path, num_pairs, rate):
    """`slow`: 10^6 members from a cached file, at 2 x 10^5 members per second of CPU time."""
    path = tmp_path / "0.tar"
    with open(path, "wb") as file:
        for number in range(num_pairs):
            for extension, data in (("jpg", b"image"), ("json", b"{}"), ("txt", b"caption")):
                info = tarfile.TarInfo(f"{number:09d}.{extension}")
                info.size = len(data)
                file.write(info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0"))
        file.write(bytes(1024))
    began = time.process_time()
    (tar,) = open_indexes([str(path)], PARTS)
    seconds = time.process_time() - began
    assert (tar.entry.pairs, tar.entry.members, tar.entry.problem) == (num_pairs, 3 * num_pairs, "")
    assert 3 * num_pairs / seconds > rate
    pairs = webdataset.open_pairs([str(path)], PairOptions())
    assert pairs.key(num_pairs - 1) == f"0.tar/{num_pairs - 1:09d}.jpg" and pairs.captions(7) == ("caption",)
