"""Memory of the loss: no array has the size of the batch squared."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from tests.objectives.test_objectives import ARITHMETICS, TERMS
from tests.support import objective_checks as checks

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("objectives")


def compiled(arithmetic, block_rows):
    return checks.compiled("rankclip", (("arithmetic", arithmetic), ("ramp", "none")), block_rows, devices=1)[1]


def sizes_in(jaxpr):
    """The number of elements of each array in a jaxpr, including those inside loops and calls."""
    for equation in jaxpr.eqns:
        yield from (math.prod(var.aval.shape) for var in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes_in(inner)


def inputs(batch, dim):
    embeds = {name: jax.ShapeDtypeStruct((batch, dim), jnp.float32) for name in ("image_embeds", "text_embeds")}
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    return embeds, {"logit_scale": scalar}, dict.fromkeys(TERMS, scalar)


@ARITHMETICS
def test_no_array_of_the_whole_batch_squared(arithmetic):
    batch, block = 512, 32
    # Both directions of a ranking term are stacked; the indices of a gather are pairs.
    limit = 2 * 4 * block * batch
    traced = compiled(arithmetic, block).trace(*inputs(batch, 8))
    sizes = list(sizes_in(traced.jaxpr.jaxpr))
    assert len(sizes) > 100
    assert max(sizes) <= limit < batch * batch
    shapes = re.findall(r"\b(?:pred|[a-z]+\d+)\[([\d,]+)\]", traced.lower().compile().as_text())
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) <= limit


def test_memory_grows_linearly_with_the_batch():
    bytes_of = {
        batch: compiled("exact", 32).lower(*inputs(batch, 8)).compile().memory_analysis().temp_size_in_bytes
        for batch in (512, 2048)
    }
    assert bytes_of[2048] < 5 * bytes_of[512]  # a square would be 16 times as large
