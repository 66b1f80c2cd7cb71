"""The loader's memory: as stated at the start of a run, and the same after a long time."""

import gc
import os
import time
import tracemalloc

import pytest
from PIL import Image

from rankclip_jax.data.images.decode import DecodedRecords
from rankclip_jax.data.loader import Loader, held_bytes
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.text.tokenizer import train_tokenizer
from tests.data.images.test_decode import encoded, photo

SIDE, BATCH = 32, 64


class Jpegs(PairSource):
    """Many pairs of few images; one in a hundred is cut off."""

    def __init__(self, count):
        self.count = count
        self.data = [encoded(Image.fromarray(photo(40 + i, 60 - i, i)), "JPEG") for i in range(20)]

    def __len__(self):
        return self.count

    def key(self, index):
        return f"{index}.jpg"

    def captions(self, index):
        return (f"image {index % 1000}",)

    def image_bytes(self, index):
        data = self.data[index % 20]
        return data[:200] if index % 100 == 7 else data


def loader(count, **options):
    tokenizer = train_tokenizer(["image"], 258, 12)
    given = {"batch_size": BATCH, "seed": 0, "image_size": SIDE, "num_threads": 2, "prefetch": 3}
    return Loader(DecodedRecords(Jpegs(count)), tokenizer, max_bad_fraction=0.1, **(given | options))


def resident_bytes():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 8), (2, 1), (4, 0)])
def test_examples_take_what_is_stated(threads, prefetch):
    bound = held_bytes(("images", "tokens"), BATCH, SIDE, 12, threads, prefetch)
    example = SIDE * SIDE * 3 + 12 * 4 + 4
    assert bound == example * (max(prefetch * BATCH, threads * 32) + 2 * BATCH)
    assert held_bytes(("images", "tokens", "augmented_images"), BATCH, SIDE, 12, 1, 1) > 1.9 * (example * 3 * BATCH)
    with loader(5000, num_threads=threads, prefetch=prefetch) as batches:
        next(batches)
        tracemalloc.start()
        try:
            kept = [next(batches) for _ in range(12)][-1]
            time.sleep(0.5)  # until everything is made ahead that may be
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept["images"].shape == (BATCH, SIDE, SIDE, 3)
    assert held < bound + 500_000  # captions, tokens and what else Python keeps
    assert held > 0.4 * example * max(prefetch * BATCH, threads * 32), "it was not watched while it was full"


def grown(examples):
    """Bytes by which the process grows from a tenth of the way to its end, which is what a leak would be."""
    steps = examples // BATCH
    with loader(examples) as batches:
        for _ in range(steps // 10):
            next(batches)
        before = resident_bytes()
        for _ in range(steps - steps // 10):
            next(batches)
        after, bad = resident_bytes(), batches.bad_records
    assert 0.005 * examples < bad < 0.015 * examples
    return after - before


def test_memory_is_flat():
    """A byte of every image kept, at 1,000 pixels each, would be seen."""
    assert grown(6_000) < 6_000 * 1_000


@pytest.mark.slow
def test_memory_is_flat_for_long():
    assert grown(100_000) < 8 << 20
