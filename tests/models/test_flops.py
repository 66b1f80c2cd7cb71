"""Operations of the towers, compared with published figures, a formula, and the count of XLA's compiler."""

import jax
import jax.numpy as jnp
import pytest

from rankclip_jax.models.flops import PAIR, train_flops
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers

# Forward GFLOP of an image and a text of 77 tokens, from open_clip's docs/model_profile.csv.
PUBLISHED = {"ViT-B/32": 14.78, "ViT-B/16": 41.09, "ViT-L/14": 175.33}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    assert train_flops(get_preset(name)) / 3e9 == pytest.approx(PUBLISHED[name], abs=0.01)


def blocks(tower, tokens):
    """Each block has 12 D^2 weights, and two T x T x D products of attention."""
    return tower.layers * (2 * tokens * 12 * tower.width**2 + 4 * tokens**2 * tower.width)


def test_a_formula_and_options_of_a_step():
    model = get_preset("mu")
    image, text = model.image, model.text
    patches = (image.image_size // image.patch_size) ** 2
    image_flops = 2 * patches * 3 * image.patch_size**2 * image.width + blocks(image, patches + 1)
    image_flops += 2 * image.width * model.embed_dim
    text_flops = blocks(text, text.context_length) + 2 * text.width * model.embed_dim
    assert train_flops(model) == 3 * (image_flops + text_flops)
    assert train_flops(model, locked=("image",)) == image_flops + 3 * text_flops
    assert train_flops(model, (*PAIR, "image_embeds_augmented")) == 3 * (2 * image_flops + text_flops)
    assert train_flops(model, ("image_logits", "text_logits")) > train_flops(model)
    for option, value in (("remat", "block"), ("remat", "dots")):
        model.image[option] = value
        assert train_flops(model) == 3 * (image_flops + text_flops)
    model.image.patch_dropout = 0.5
    kept = 2 * patches * 3 * image.patch_size**2 * image.width + blocks(image, patches // 2 + 1)
    assert train_flops(model) == 3 * (kept + 2 * image.width * model.embed_dim + text_flops)


@pytest.mark.parametrize("name", ["emoji", "mu-rn"])
def test_convolutions_as_the_compiler_counts_them(name):
    model = get_preset(name)
    towers = build_towers(model, 64, 63)
    batch = {"images": jnp.zeros((1, 64, 64, 3), jnp.uint8), "tokens": jnp.zeros((1, 16), jnp.int32)}
    batch["tokens"] = jnp.zeros((1, model.text.context_length), jnp.int32)

    def encode(variables, images):
        return towers.apply(variables, images, method="encode_image")

    variables = jax.eval_shape(lambda: towers.init(jax.random.key(0), **batch))
    counted = jax.jit(encode).lower(variables, batch["images"]).cost_analysis()["flops"]
    found = (train_flops(model, ("image_embeds",)) - train_flops(model, ())) / 3
    # The compiler also counts norms and activations, and no product with padding: 3 x 3 at borders.
    assert found == pytest.approx(counted, rel=0.25)
