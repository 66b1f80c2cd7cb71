"""Checksums of arrays, computed where the arrays are, equal on any mesh and any number of processes.

A storage layer that flips a byte hands back wrong weights without an error; a digest kept next to the
weights tells.
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
LANES = (0x9E3779B9, 0x7FEB352D)  # two independent 32-bit sums: 64 bits in all


def tree_digests(tree: Any) -> list[str]:
    """Return one digest, 16 hexadecimal digits, for each leaf of `tree` in its order.

    The digest of an array is, in each of two lanes l,

        sum over words i of  word[i] * odd_l(i)   mod 2^32

    where the words are the array's bits in row-major order (elements of 8 or 16 bits fill a word each, those
    of 64 bits two) and odd_l(i) is a hash of position and lane, made odd. Addition modulo 2^32 has no order,
    so sharding cannot matter. An odd factor is invertible, so that a change confined to one word (a flipped
    bit, or all of them) always changes the digest; other damage goes unseen with probability 2^-64.
    Shape and dtype are no part of it.

    Args:
      tree: leaves are jax arrays of any dtype of whole bytes (bool, integers, floats, complex, typed PRNG
        keys), sharded or not, or numpy arrays.
    """
    parts = [block_if_cpu_collectives(_digest(leaf)) for leaf in jax.tree.leaves(tree)]
    return [f"{high:08x}{low:08x}" for high, low in jax.device_get(parts)]


def manifest(tree: Any) -> list[dict[str, Any]]:
    """Describe every array of `tree`, in a form that JSON can hold: path, shape, dtype, digest."""
    digests = tree_digests(tree)
    return [
        {"path": list(path), "shape": list(leaf.shape), "dtype": str(leaf.dtype), "digest": digest}
        for (path, leaf), digest in zip(leaves_with_path(tree), digests, strict=True)
    ]


def mismatches(saved: Sequence[Entry], abstract_tree: Any) -> list[str]:
    """Compare paths, shapes and dtypes; return 'path saved -> wanted' for each that differs."""
    has = {"/".join(entry["path"]): f"{entry['dtype']}{entry['shape']}" for entry in saved}
    needs = {name_of(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves_with_path(abstract_tree)}
    differing = [path for path in sorted(has | needs) if has.get(path) != needs.get(path)]
    return [f"{path} {has.get(path, 'absent')} -> {needs.get(path, 'absent')}" for path in differing]


def altered(saved: Sequence[Entry], tree: Any) -> list[str]:
    """Return the paths of `tree` whose digests are not those of the manifest `saved`."""
    was = {tuple(entry["path"]): entry["digest"] for entry in saved}
    now = zip(leaves_with_path(tree), tree_digests(tree), strict=True)
    return [name_of(path) for (path, _), digest in now if was[path] != digest]


def _digest(leaf: Any) -> jax.Array:
    """Start the computation of uint32[2] for one leaf; it is small and replicated."""
    if not isinstance(leaf, jax.Array):
        return _compiled(None)(_host_words(np.asarray(leaf)))
    sharding = leaf.sharding
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
    return _compiled(everywhere)(leaf)


@functools.cache
def _compiled(out_sharding: NamedSharding | None) -> Any:
    # One small program per shape: a single program for a whole tree takes XLA far longer to compile.
    return jax.jit(_weighted_sums, out_shardings=out_sharding)


def _weighted_sums(x: jax.Array) -> jax.Array:
    words = _words(x)
    at = _positions(words.shape)
    return jnp.stack([jnp.sum(words * _odd(at + jnp.uint32(lane)), dtype=jnp.uint32) for lane in LANES])


def _words(x: jax.Array) -> jax.Array:
    """Return the bits of `x` as uint32, with one more axis where an element has two words."""
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
    """The same for a numpy array, whose 64-bit types jax would narrow. Little-endian, as jax is."""
    x = np.ascontiguousarray(x)
    if x.dtype == np.bool_ or x.dtype.itemsize < 4:
        return x.view({1: np.uint8, 2: np.uint16}[x.dtype.itemsize]).astype(np.uint32)
    return x.reshape(*x.shape, 1).view(np.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Row-major position of every word mod 2^32, built per axis so that no device needs more than its part."""
    at, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        at += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return at


def _odd(h: jax.Array) -> jax.Array:
    """Spread a position over 32 bits (the finalizer of MurmurHash3) and make it odd."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return (h ^ (h >> 16)) | jnp.uint32(1)
