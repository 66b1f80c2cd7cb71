"""Towers compared with transformers' CLIPModel and SiglipModel: embeddings and gradients of the same weights."""

import functools

import jax
import numpy as np
import pytest

from tests.golden import towers

pytestmark = pytest.mark.xdist_group("models_golden")
FUSED = {"q_proj": "in_proj", "kv_proj": "in_proj"}  # in the pooling head: one layer in PyTorch


@functools.cache
def found(case):
    """Embeddings, and the gradient of the sum of their products with fixed directions."""
    model, given, along = towers.towers(case), towers.inputs(case), towers.directions(case)

    def score(params):
        embeds = model.apply({"params": params}, given["images"], given["tokens"])
        return sum((embeds[name] * along[name]).sum() for name in along), embeds

    gradient, embeds = jax.jit(jax.grad(score, has_aux=True))(towers.params(case))
    return embeds, towers.flat(gradient)


@pytest.mark.parametrize("name", ["image_embeds", "text_embeds"])
@pytest.mark.parametrize("case", towers.CASES)
def test_embeddings_equal_pytorchs(case, name):
    np.testing.assert_allclose(found(case)[0][name], towers.golden()[case][name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", towers.CASES)
def test_gradient_norms_equal_pytorchs(case):
    squares = {}
    for path, leaf in found(case)[1].items():
        name = "/".join(FUSED.get(part, part) for part in path.split("/"))
        squares[name] = squares.get(name, 0.0) + float((np.asarray(leaf, np.float64) ** 2).sum())
    expected = towers.golden()[case]["gradient_norms"]
    assert squares.keys() == expected.keys()  # both have the same parameters
    for name, norm in expected.items():
        np.testing.assert_allclose(np.sqrt(squares[name]), norm, rtol=1e-4, atol=1e-5, err_msg=name)
