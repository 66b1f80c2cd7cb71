"""Digests: which damage they detect, and what they must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.checkpoints.digests import altered, manifest, mismatches, tree_digests
from tests.support import processes

HOST = {
    "bfloat16": np.asarray(jnp.linspace(-2, 2, 48, dtype=jnp.bfloat16).reshape(8, 6)),
    "bool": np.arange(24) % 3 == 0,
    "complex64": (np.arange(16) * (1 + 2j)).astype(np.complex64).reshape(8, 2),
    "empty": np.zeros((0, 3), np.float32),
    "float32": np.sin(np.arange(480, dtype=np.float32)).reshape(16, 30),
    "int32": np.arange(-8, 8, dtype=np.int32),
    "scalar": np.float32(2.5),
    "uint8": np.arange(200, dtype=np.uint8),
}

ON_EIGHT = """
import sys, jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rankclip_jax.checkpoints.digests import tree_digests
from tests.checkpoints.test_digests import HOST
mesh = jax.make_mesh((2, 4), ("replica", "fsdp"), axis_types=(AxisType.Auto,) * 2)
def put(spec):
    def one(x):
        fits = x.ndim and x.shape[0] and x.shape[0] % 8 == 0
        return jax.device_put(x, NamedSharding(mesh, spec if fits else P()))
    return jax.tree.map(one, HOST)
for spec in (P(), P("fsdp"), P(("replica", "fsdp")), P("replica")):
    print(*tree_digests(put(spec)))
print(*tree_digests(jax.device_put(jax.random.split(jax.random.key(3), 8), NamedSharding(mesh, P("fsdp")))))
"""


def test_sharding_and_device_count_do_not_matter():
    code, out, err = processes.run(ON_EIGHT, devices=8)
    assert code == 0, err
    *states, keys = out.splitlines()
    assert set(states) == {" ".join(tree_digests(HOST))}
    assert [keys] == tree_digests(jax.random.split(jax.random.key(3), 8))


def test_device_and_host_agree():
    assert tree_digests(jax.tree.map(jnp.asarray, HOST)) == tree_digests(HOST)


def mix(h):
    """`triple32`, written a second time, with uint64 arithmetic that does not overflow."""
    h = np.asarray(h, np.uint64)
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor) % np.uint64(2**32)
    return h ^ (h >> np.uint64(14))


def terms(words, at=None):
    """uint64 [2, n]: the term of each word in each lane."""
    at = np.arange(len(words)) if at is None else at
    seeds = np.array([[0x9E3779B9], [0x7FEB352D]], np.uint64)
    return mix(np.asarray(words, np.uint64) ^ mix((np.asarray(at, np.uint64) + seeds) % 2**32))


def reference(words):
    """The digest of an array of 32-bit elements."""
    high, low = terms(np.ravel(words).view(np.uint32)).sum(axis=1) % 2**32
    return f"{high:08x}{low:08x}"


def test_digests_equal_the_definition():
    words = np.array([[3, 2**32 - 1, 0], [7, 1, 123456789]], np.uint32)
    assert tree_digests(jnp.asarray(words)) == [reference(words)] == ["79b96f42d49fbf41"]  # by Python integers
    for name in ("float32", "int32"):
        assert tree_digests(HOST[name]) == tree_digests(jnp.asarray(HOST[name])) == [reference(HOST[name])]


@pytest.mark.parametrize("name", [name for name in HOST if name not in ("bool", "empty", "uint8")])
def test_negation_is_detected(name):
    assert tree_digests(-HOST[name]) != tree_digests(HOST[name])


def test_any_two_negated_elements_are_detected():
    """All pairs of 480 elements: the sign bits of a pair must never cancel in both lanes."""
    words = HOST["float32"].ravel().view(np.uint32)
    change = (terms(words ^ np.uint32(2**31)) - terms(words)) % np.uint64(2**32)
    pairs = (change[:, :, None] + change[:, None, :]) % np.uint64(2**32)
    assert ((pairs != 0).any(axis=0) | np.eye(len(words), dtype=bool)).all()
    flipped = HOST["float32"].copy()
    flipped[3, 7] *= -1
    flipped[11, 2] *= -1
    assert tree_digests(flipped) == [reference(flipped)] != tree_digests(HOST["float32"])


@pytest.mark.parametrize("first", range(32))
def test_flips_of_two_bits_are_detected_in_every_bit_position(first):
    """One bit in each of two words, for all 32 x 32 positions of bits; and two bits of the same word."""
    rng = np.random.default_rng(first)
    words = rng.integers(0, 2**32, (2, 2000), np.uint32)
    at = np.arange(4000).reshape(2, 2000)
    change = terms(words[0] ^ np.uint32(1 << first), at[0]) - terms(words[0], at[0])
    for second in range(32):
        other = terms(words[1] ^ np.uint32(1 << second), at[1]) - terms(words[1], at[1])
        assert ((change + other) % np.uint64(2**32)).any(axis=0).all()
        if first != second:
            both = words[0] ^ np.uint32(1 << first | 1 << second)
            assert ((terms(both, at[0]) - terms(words[0], at[0])) % np.uint64(2**32)).all()


def test_random_damages_are_detected():
    """2 to 64 flipped bits in one, two or many words, 2,000 times."""
    rng = np.random.default_rng(0)
    intact = HOST["float32"].ravel().view(np.uint32)
    digests = set()
    for count in rng.integers(2, 65, 2000):
        damaged = intact.copy()
        bits = rng.choice(32 * (words := rng.choice([1, 2, len(intact)])), min(count, 16 * words), replace=False)
        np.bitwise_xor.at(damaged, bits // 32, np.uint32(1) << (bits % 32).astype(np.uint32))
        assert reference(damaged) != reference(intact)
        digests.add(reference(damaged))
    assert len(digests) > 1900  # nearly all damages differ, and so do their digests


def test_changes_of_one_lane_are_spread_evenly():
    """Flips of the same bit in two words cancel in one lane with probability 2^-31, not more."""
    words = np.random.default_rng(0).integers(0, 2**32, 2**17, np.uint32)
    for bit in (0, 15, 30, 31):
        change = (terms(words ^ np.uint32(1 << bit)) - terms(words)) % np.uint64(2**32)
        for lane in change:
            first, second = np.split(lane, 2)
            cancelling = np.isin(first, (2**32 - second) % np.uint64(2**32)).sum()
            assert cancelling < 16  # among 2^32 pairs about 2 are expected


@pytest.mark.parametrize("name", ["bfloat16", "float32", "uint8"])
def test_every_single_bit_flip_is_detected(name):
    x = HOST[name].copy()
    bits = x.reshape(-1).view(np.uint8)
    before = tree_digests(x)
    for byte in range(0, bits.size, max(1, bits.size // 24)):
        for bit in range(8):
            bits[byte] ^= 1 << bit
            assert tree_digests(x) != before
            bits[byte] ^= 1 << bit
    assert tree_digests(x) == before


def test_a_permutation_and_a_zeroed_block_are_detected():
    x = HOST["float32"]
    zeroed = x.copy()
    zeroed[4:6] = 0
    assert len({tree_digests(y)[0] for y in (x, x[::-1], zeroed, np.roll(x, 1))}) == 4


def _flipped(words, at, bits):
    damaged = words.copy()
    for position, bit in zip(at, bits, strict=True):
        damaged[position] ^= np.uint32(1) << np.uint32(bit)
    return damaged


def _damaged(rng, words, trial):
    """One damage of `words`: 1 to 4 flipped bits in words of each class of positions, or a change of whole words."""
    count, n = 1 + trial % 4, len(words)
    first = rng.integers(n)
    places = {
        "one word": np.full(count, first),
        "neighbours": (first + np.arange(count)) % n,
        "one column": (first + 30 * np.arange(count)) % n,
        "ends": np.resize([0, n - 1], count),
        "anywhere": rng.choice(n, count, replace=False),
    }
    kind = ("flip", "negate", "swap", "zero", "copy")[trial // 4 % 5]
    at = places[list(places)[trial // 20 % len(places)]]
    damaged = words.copy()
    if kind == "flip":  # the same bit in each word, or different ones
        same = rng.integers(32)
        bits = np.full(count, same) if len(set(at)) == count and rng.random() < 0.5 else rng.permutation(32)[:count]
        return _flipped(words, at, bits)
    if kind == "negate":
        return _flipped(words, sorted(set(at)), np.full(len(set(at)), 31))
    other = (at + rng.integers(1, n)) % n
    if kind == "swap":
        damaged[[at[0], other[0]]] = damaged[[other[0], at[0]]]
    else:
        damaged[at] = 0 if kind == "zero" else damaged[other]
    return damaged


@pytest.mark.parametrize("trials", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_damage_is_missed(trials):
    """The product's own digests of damaged arrays; every trial of which the array differs must be detected."""
    rng, intact = np.random.default_rng(trials), HOST["float32"].ravel().view(np.uint32)
    before, missed, tried = tree_digests(intact), 0, 0
    for start in range(0, trials, 50):
        found = [_damaged(rng, intact, trial) for trial in range(start, start + 50)]
        found = [words for words in found if (words != intact).any()]
        tried += len(found)
        missed += sum(digest == before[0] for digest in tree_digests(found))
    assert missed == 0 and tried > 0.95 * trials


def test_64_bit_arrays_use_all_their_bits():
    x = np.arange(8.0) + 2.0**-40  # all lost in float32
    assert tree_digests(x) != tree_digests(np.arange(8.0))


def test_mismatches_and_altered_name_the_leaves():
    tree = {"a": jnp.ones((2, 3)), "b": jnp.zeros((), jnp.int32)}
    saved = manifest(tree)
    assert mismatches(saved, tree) == [] and altered(saved, tree) == []
    assert altered(saved, tree | {"a": tree["a"].at[1, 2].set(2)}) == ["a"]
    other = {"a": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), "c": tree["b"]}
    assert mismatches(saved, other) == [
        "a float32[2, 3] -> bfloat16[2, 3]",
        "b int32[] -> absent",
        "c absent -> int32[]",
    ]
