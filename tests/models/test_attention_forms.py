"""The forms of attention, compared with float64, and the choice of a form by device and dtype."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.models.attention_forms import FORMS, attention_form
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers
from tests.models.test_attention import by_loops

HEADS, SIZE = 2, 32
CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
ROCM = SimpleNamespace(platform="gpu", device_kind="AMD", compute_capability="gfx942")


def gpu(capability):
    return SimpleNamespace(platform="gpu", device_kind=f"NVIDIA {capability}", compute_capability=capability)


def distance(found, exact):
    found, exact = np.float64(found), np.float64(exact)
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 50])  # odd numbers, as of ViT-L/14's 257
def test_jax_form_in_bfloat16(tokens, causal):
    rng = np.random.default_rng(0)
    fused = jnp.asarray(rng.standard_normal((2, tokens, 3 * HEADS * SIZE)), jnp.bfloat16)
    out_bar = jnp.asarray(rng.standard_normal((2, tokens, HEADS * SIZE)), jnp.bfloat16)

    def gradient(form):
        return jax.grad(lambda x: (FORMS[form](x, HEADS, causal) * out_bar).astype(jnp.float32).sum())(fused)

    ours, theirs = (FORMS[form](fused, HEADS, causal) for form in ("reference", "xla"))
    assert theirs.dtype == jnp.bfloat16
    assert distance(theirs, ours) < 2e-3
    # bfloat16 has 8 bits: weights and results are rounded by up to 2^-9 = 2e-3 each.
    exact = by_loops(np.float64(fused), HEADS, causal)
    assert max(distance(ours, exact), distance(theirs, exact)) < 4e-3
    assert distance(gradient("xla"), gradient("reference")) < 6e-3


def choose(device, requested="auto", dtype="bfloat16", **sizes):
    model = get_preset("ViT-B/32")
    model.attention, model.dtype = requested, dtype
    model.image.update(sizes)
    return attention_form(model, "image", jnp.dtype(dtype), device)


@pytest.mark.parametrize(
    ("expected", "device", "options"),
    [
        ("cudnn", gpu("9.0"), {}),
        ("cudnn", gpu("8.0"), {}),
        ("cudnn", gpu("12.0"), {}),
        ("cudnn", gpu("9.0"), {"width": 1024, "heads": 4}),  # heads of 256
        ("reference", gpu("8.9"), {"width": 1024, "heads": 4}),
        ("reference", gpu("9.0"), {"width": 36, "heads": 3}),  # heads of 12
        ("reference", gpu("7.5"), {}),
        ("reference", gpu("9.0"), {"dtype": "float32"}),
        ("reference", gpu("9.0"), {"requested": "reference"}),
        ("xla", CPU, {"requested": "xla"}),
        ("reference", CPU, {}),
        ("reference", TPU, {}),
        ("reference", ROCM, {}),
        ("reference", None, {"requested": "cudnn"}),  # a model is loaded on any machine
    ],
)
def test_the_choice(expected, device, options):
    assert choose(device, **options) == expected


@pytest.mark.parametrize(
    ("device", "options", "words"),
    [
        (CPU, {}, "'cpu' is no NVIDIA GPU"),
        (gpu("7.5"), {}, "older than Ampere"),
        (gpu("9.0"), {"dtype": "float32"}, "computes in float32"),
        (gpu("8.0"), {"width": 1024, "heads": 4}, "head size is 256"),
    ],
)
def test_a_form_that_cannot_run_is_rejected(device, options, words):
    with pytest.raises(UserError, match=words):
        choose(device, "cudnn", **options)
    with pytest.raises(UserError, match="attention"):
        choose(device, "flash", **options)


def test_towers_get_the_form():
    model = get_preset("mu")
    model.attention = "xla"
    towers = build_towers(model, 64, 63, 1, CPU)
    assert towers.image.attention == towers.text.attention == "xla"
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)), jnp.uint8)
    tokens = jnp.zeros((2, 16), jnp.int32).at[:, 5].set(63)
    reference = build_towers(model, 64, 63)
    assert reference.text.attention == "reference"
    variables = reference.init(jax.random.key(0), images, tokens)
    expected, found = (one.apply(variables, images, tokens) for one in (reference, towers))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    assert "dot_general" in str(jax.make_jaxpr(lambda x: towers.apply(x, images, tokens))(variables))
    assert "custom_vjp" not in str(
        jax.make_jaxpr(lambda x: towers.text.apply({"params": x}, tokens))(variables["params"]["text"])
    ), "the reference form is the only custom derivative of this tower"
