"""Checksums of arrays, computed on their devices. They are equal on any mesh and any number of processes.

If storage flips a byte, wrong weights are read without an error. A digest stored next to the weights detects it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rankclip_jax.parallel.mesh import block_if_cpu_collectives
from rankclip_jax.trees import leaves_with_path, name_of

Entry = Mapping[str, Any]  # of a manifest: path (list of str), shape, dtype, digest
LANES = (0x9E3779B9, 0x7FEB352D)  # seeds of two independent 32-bit sums: 64 bits in all


def tree_digests(tree: Any) -> list[str]:
    """Return one digest, 16 hexadecimal digits, for each leaf of `tree` in its order.

    The digest of an array has two lanes. Lane l is

        sum over words i of  mix(word[i] ^ mix(i + seed_l))   mod 2^32

    where the words are the bits of the array in row-major order: an element of 8, 16 or 32 bits is one word, an element
    of 64 bits is two. Positions i count modulo 2^32. `mix` is a bijection of 32-bit words in which every input bit
    affects every output bit (see `_mix`). Addition modulo 2^32 does not depend on the order, nor on the sharding.

    A change in a single word always changes both lanes, because `mix` is a bijection. Any other change that is
    independent of the hash stays undetected with probability about 2^-62. (If one bit flips in each of two random
    words, a lane stays equal with probability about 2^-31, measured; the ideal is 2^-32.) The digest detects accidents,
    not forgery. It does not cover shape and dtype.

    Leaves are numpy arrays, or jax arrays with any sharding, of any dtype with whole bytes: bool, integers, floats,
    complex numbers, typed PRNG keys.
    """
    parts = [block_if_cpu_collectives(_digest(leaf)) for leaf in jax.tree.leaves(tree)]
    return [f"{high:08x}{low:08x}" for high, low in jax.device_get(parts)]


def manifest(tree: Any) -> list[dict[str, Any]]:
    """Return path, shape, dtype and digest of every array of `tree`, ready for JSON."""
    digests = tree_digests(tree)
    return [
        {"path": list(path), "shape": list(leaf.shape), "dtype": str(leaf.dtype), "digest": digest}
        for (path, leaf), digest in zip(leaves_with_path(tree), digests, strict=True)
    ]


def mismatches(saved: Sequence[Entry], abstract_tree: Any) -> list[str]:
    """Compare paths, shapes and dtypes; return 'path saved -> wanted' for each that differs."""
    has = {name_of(entry["path"]): f"{entry['dtype']}{entry['shape']}" for entry in saved}
    needs = {name_of(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves_with_path(abstract_tree)}
    differing = [path for path in sorted(has | needs) if has.get(path) != needs.get(path)]
    return [f"{path} {has.get(path, 'absent')} -> {needs.get(path, 'absent')}" for path in differing]


def altered(saved: Sequence[Entry], tree: Any) -> list[str]:
    """Return the paths in `tree` whose digest differs from the manifest `saved`."""
    was = {tuple(entry["path"]): entry["digest"] for entry in saved}
    now = zip(leaves_with_path(tree), tree_digests(tree), strict=True)
    return [name_of(path) for (path, _), digest in now if was[path] != digest]


def _digest(leaf: Any) -> jax.Array:
    """Start the computation for one leaf; the result, uint32[2], is replicated."""
    if not isinstance(leaf, jax.Array):
        return _compiled(None)(_host_words(np.asarray(leaf)))
    sharding = leaf.sharding
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
    return _compiled(everywhere)(leaf)


@functools.cache
def _compiled(out_sharding: NamedSharding | None) -> Any:
    # One small program per shape: XLA compiles a single program for a whole tree far more slowly.
    return jax.jit(_sums, out_shardings=out_sharding)


def _sums(x: jax.Array) -> jax.Array:
    """uint32[2], one sum per lane."""
    words = _words(x)
    at = _positions(words.shape)
    return jnp.stack([jnp.sum(_mix(words ^ _mix(at + jnp.uint32(seed))), dtype=jnp.uint32) for seed in LANES])


def _words(x: jax.Array) -> jax.Array:
    """Return the bits of `x` as uint32; dtypes with two words per element get one more axis."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _host_words(x: np.ndarray) -> np.ndarray:
    """`_words` for a numpy array, because jax would narrow 64-bit dtypes. Little-endian, like jax."""
    x = np.ascontiguousarray(x)
    if x.dtype.itemsize < 4:
        return x.view(f"u{x.dtype.itemsize}").astype(np.uint32)
    return x.reshape(*x.shape, 1).view(np.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Row-major position of every word mod 2^32, computed axis by axis: each device computes only its shard."""
    at, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        at += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return at


def _mix(h: jax.Array) -> jax.Array:
    """The hash `triple32` of 32-bit words (C. Wellons, hash-prospector): a bijection with nearly ideal avalanche."""
    h = (h ^ (h >> 17)) * jnp.uint32(0xED5AD4BB)
    h = (h ^ (h >> 11)) * jnp.uint32(0xAC4C1B51)
    h = (h ^ (h >> 15)) * jnp.uint32(0x31848BAB)
    return h ^ (h >> 14)
