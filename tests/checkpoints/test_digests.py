"""Digests: what they see, and what they must not depend on."""

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


def test_known_values():
    """The definition, written out in Python integers."""

    def odd(position, lane):
        h = (position + lane) % 2**32
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        return (h ^ (h >> 16)) | 1

    words = np.array([[3, 2**32 - 1, 0], [7, 1, 123456789]], np.uint32)
    sums = [
        sum(int(w) * odd(i, lane) for i, w in enumerate(words.ravel())) % 2**32 for lane in (0x9E3779B9, 0x7FEB352D)
    ]
    assert tree_digests(jnp.asarray(words)) == [f"{sums[0]:08x}{sums[1]:08x}"]


@pytest.mark.parametrize("name", ["bfloat16", "float32", "uint8"])
def test_every_single_bit_flip_is_seen(name):
    x = HOST[name].copy()
    bits = x.reshape(-1).view(np.uint8)
    before = tree_digests(x)
    for byte in range(0, bits.size, max(1, bits.size // 24)):
        for bit in range(8):
            bits[byte] ^= 1 << bit
            assert tree_digests(x) != before
            bits[byte] ^= 1 << bit
    assert tree_digests(x) == before


def test_a_permutation_and_a_zeroed_block_are_seen():
    x = HOST["float32"]
    zeroed = x.copy()
    zeroed[4:6] = 0
    assert len({tree_digests(y)[0] for y in (x, x[::-1], zeroed, np.roll(x, 1))}) == 4


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
