"""The loader's memory: at most what the start-up card states, and constant over time."""

import gc
import os
import time
import tracemalloc

import pytest
from PIL import Image

from rankclip_jax.data.images.decode import DecodedRecords
from rankclip_jax.data.loader_options import held_bytes
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.text.tokenizer import train_tokenizer
from tests.data.images.test_decode import encoded, photo
from tests.support.loaders import make_loader, make_options

SIDE, BATCH = 32, 64
SIZES = {"batch_size": BATCH, "seed": 0, "image_size": SIDE}


class Jpegs(PairSource):
    """Many pairs with few images; one file in a hundred is cut off."""

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
    given = {"num_threads": 2, "prefetch": 3, "max_bad_fraction": 0.1} | SIZES
    return make_loader(DecodedRecords(Jpegs(count)), tokenizer, **(given | options))


def resident_bytes():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 8), (2, 1), (4, 0)])
def test_examples_take_what_is_stated(threads, prefetch):
    bound = held_bytes(make_options(num_threads=threads, prefetch=prefetch, **SIZES), 12)
    example = SIDE * SIDE * 3 + 12 * 4
    assert bound == example * (max(prefetch * BATCH, threads * 32) + 2 * BATCH)
    keys = ("images", "tokens", "augmented_images")
    assert held_bytes(make_options(num_threads=1, prefetch=1, keys=keys, **SIZES), 12) > 1.9 * (example * 3 * BATCH)
    with loader(5000, num_threads=threads, prefetch=prefetch) as batches:
        next(batches)
        tracemalloc.start()
        try:
            kept = [next(batches) for _ in range(12)][-1]
            time.sleep(0.5)  # until everything allowed is made ahead
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept["images"].shape == (BATCH, SIDE, SIDE, 3)
    assert held < bound + 500_000  # captions, tokens and other objects of Python
    assert held > 0.4 * example * max(prefetch * BATCH, threads * 32), "the buffers were not full when measured"


def grown(examples):
    """Bytes by which the process grows between a tenth of the run and its end: the size of a leak."""
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
    """A leak of 1,000 bytes per image would be detected."""
    assert grown(6_000) < 6_000 * 1_000


@pytest.mark.slow
def test_memory_is_flat_for_long():
    assert grown(100_000) < 8 << 20
