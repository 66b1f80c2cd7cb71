"""`Encoder`: sizes of batches, weights on the devices, compiled programs, several devices."""

import jax
import numpy as np
import optax
import pytest

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.text.tokenizer import train_tokenizer
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.inference.placement import bucket
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.training.step import make_init
from tests.support import processes

BATCH = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
TEXTS = [f"caption {i}" for i in range(40)]
ROUNDING = {"atol": 1e-6, "rtol": 0}


def make_encoder(mesh, batch_size=BATCH, pool="first_eot"):
    """An encoder of numpy weights, as after `load`, and its towers and weights."""
    model = get_preset("mu")
    model.text.pool = pool
    tokenizer = train_tokenizer(["caption 0 1 2 3 4 5 6 7 8 9"], 300, model.text.context_length)
    towers = build_towers(model, tokenizer.vocab_size, tokenizer.eot_id)
    objective = build_objective(objective_config("clip"), RunInfo(20, 5))
    params = jax.jit(make_init(towers, objective, optax.identity()))(jax.random.key(0))["params"]
    weights = Weights(jax.tree.map(np.asarray, params), {})
    return Encoder(towers, weights, tokenizer, mesh, batch_size=batch_size), towers, weights


@pytest.fixture(scope="module")
def made():
    return make_encoder(make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def encoder(made):
    return made[0]


@pytest.mark.parametrize(
    ("count", "smallest", "largest", "expected"),
    [
        (1, 1, 32, 1),
        (2, 1, 32, 2),
        (3, 1, 32, 4),
        (17, 1, 32, 32),
        (32, 1, 32, 32),
        (33, 1, 32, 32),  # in two batches
        (1, 8, 256, 8),
        (9, 8, 256, 16),
        (65, 1, 100, 100),
        (1, 8, 8, 8),
    ],
)
def test_sizes_of_batches(count, smallest, largest, expected):
    assert bucket(count, smallest, largest) == expected


def test_embeddings_are_those_of_the_towers(made):
    encoder, towers, weights = made
    variables = {"params": weights.params["towers"]}
    expected = towers.apply(variables, IMAGES[:3], method="encode_image")
    np.testing.assert_allclose(encoder.encode_image(IMAGES[:3]), expected, **ROUNDING)
    expected = towers.apply(variables, encoder.tokenize(TEXTS[:3]), method="encode_text")
    np.testing.assert_allclose(encoder.encode_text(TEXTS[:3]), expected, **ROUNDING)


@pytest.mark.parametrize(("pool", "lengths"), [("first_eot", {8, 16}), ("last", {16})])
def test_texts_are_padded_only_as_far_as_the_tower_reads(pool, lengths, monkeypatch):
    encoder, towers, weights = make_encoder(make_mesh(jax.devices()[:1]), pool=pool)
    seen, encode = set(), encoder._text
    monkeypatch.setattr(encoder, "_text", lambda variables, x: seen.add(x.shape[1]) or encode(variables, x))
    for texts in ([""], ["1"], ["1", "caption 5 7"], ["caption " * 40, ""]):
        expected = towers.apply({"params": weights.params["towers"]}, encoder.tokenize(texts), method="encode_text")
        np.testing.assert_allclose(encoder.encode_text(texts), expected, **ROUNDING)
    assert seen == lengths


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 17, 33])
def test_embeddings_do_not_depend_on_their_number(encoder, count):
    for encode, items in ((encoder.encode_image, IMAGES), (encoder.encode_text, TEXTS)):
        found = encode(items[:count])
        np.testing.assert_allclose(found, encode(items)[:count], **ROUNDING)
        np.testing.assert_array_equal(found, encode(items[:count]))  # deterministic


def test_a_sequence_and_an_iterator_give_the_same_bits(encoder):
    for count in (5, 2 * BATCH, 2 * BATCH + 3):
        found = encoder.encode_image(image for image in IMAGES[:count])
        np.testing.assert_array_equal(found, encoder.encode_image(IMAGES[:count]))


def test_weights_are_sent_to_the_device_once(made):
    """With a guard, an array of the host in the arguments of a compiled program is an error."""
    encoder, _, weights = made
    expected = encoder.encode_image(IMAGES[:3]), encoder.encode_text(TEXTS[:3])
    with jax.transfer_guard_host_to_device("disallow"):
        found = encoder.encode_image(IMAGES[:3]), encoder.encode_text(TEXTS[:3])
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            jax.jit(lambda x: x)(weights.params["towers"]["image"]["class_embedding"])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(weights.params["towers"]["image"]["class_embedding"], np.ndarray)  # of the caller: unchanged


def test_programs_are_compiled_once_for_each_size():
    encoder, _, weights = make_encoder(make_mesh(jax.devices()[:1]))
    for count in (1, 1, 3, 4, 16, 17, 33, 40):  # sizes 1, 4 and 16
        encoder.encode_image(IMAGES[:count])
        encoder.encode_text(TEXTS[:count])
        encoder.encode_image(iter(IMAGES[:count]))
    encoder.weights = weights  # as in the next evaluation
    encoder.encode_image(IMAGES)
    on_device = jax.tree.map(jax.numpy.asarray, weights)
    for _ in range(2):  # as in training
        encoder.weights = on_device
        encoder.encode_image(IMAGES)
    assert encoder._image._cache_size() == encoder._text._cache_size() == 3


ON_EIGHT = """
import jax
import numpy as np
from rankclip_jax.parallel.mesh import make_mesh
from tests.inference.test_encoder import IMAGES, TEXTS, make_encoder
assert len(jax.local_devices()) == 8
one, eight = (make_encoder(make_mesh(devices))[0] for devices in (jax.devices()[:1], jax.local_devices()))
for count in (1, 13, 40):
    for name, items in (("encode_image", IMAGES), ("encode_text", TEXTS)):
        found, expected = (getattr(encoder, name)(items[:count]) for encoder in (eight, one))
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
leaves = jax.tree.leaves(eight.weights.params["towers"])
assert all(len(leaf.sharding.device_set) == 8 and leaf.sharding.is_fully_replicated for leaf in leaves)
"""


def test_eight_devices_give_the_same_embeddings():
    code, _, err = processes.run(ON_EIGHT, devices=8, seconds=120)
    assert code == 0, err
