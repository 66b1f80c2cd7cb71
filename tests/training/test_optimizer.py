"""Weight decay: on which parameters, and how much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.config.base import get_config
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.training.optimizer import decay_mask, make_optimizer


def abstract_params(model):
    towers = build_towers(model, 64, 63)
    images = jnp.zeros((1, towers.image.image_size, towers.image.image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, towers.text.context_length), jnp.int32)
    return jax.eval_shape(towers.init, jax.random.key(0), images, tokens)["params"]


@pytest.mark.parametrize("preset", ["mu", "emoji", "mu-rn"])  # image towers: transformer, convolutions, ResNet
def test_decay_spares_norms_biases_and_scalars_only(preset):
    params = {"towers": abstract_params(get_preset(preset)), "scalars": {"logit_scale": jnp.zeros(())}}
    spared, decayed = set(), set()
    for path, decays in jax.tree.leaves_with_path(decay_mask(params)):
        (decayed if decays else spared).add("/".join(key.key for key in path))
    assert "scalars/logit_scale" in spared
    names = {path.rsplit("/", 1)[1] for path in spared}
    assert names == {"scale", "bias", "logit_scale"}
    norms = ("/ln_", "/norm", "/bn", "/downsample/1/")
    assert all(any(norm in path for norm in norms) for path in spared if path.endswith("/scale"))
    assert {"towers/text/token_embedding", "towers/text/positional_embedding"} <= decayed
    assert {path.rsplit("/", 1)[1] for path in decayed} >= {"kernel", "text_projection"}
    assert not any("bias" in path for path in decayed)


def test_decay_spares_the_bias_of_a_projection():
    model = get_preset("mu")
    model.text.projection_bias = True
    mask = decay_mask({"towers": abstract_params(model)})["towers"]["text"]
    assert mask["text_projection"] and not mask["text_projection_bias"]


def test_decay_is_applied_as_the_mask_says():
    """Without a gradient AdamW only decays: by learning rate times 0.1."""
    config = get_config("mu").optimizer
    optimizer = make_optimizer(config, lambda step: 0.5)
    params = {"towers": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "scalars": {"logit_scale": jnp.ones(())}}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["towers"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["towers"]["bias"], 0)
    np.testing.assert_array_equal(updates["scalars"]["logit_scale"], 0)
