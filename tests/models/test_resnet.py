"""CLIP's ResNet: compared with OpenAI's, batch normalisation by hand, sizes and initial weights of the presets."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.models.batch_norm import BatchNorm
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.resnet import AttentionPool, Bottleneck, ModifiedResNet, average_pool
from rankclip_jax.models.two_towers import TwoTowers, build_towers
from tests.golden import make_resnet as golden

pytestmark = pytest.mark.xdist_group("models_resnet")  # functions compiled once

# Last key of a parameter here: OpenAI's.
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def openai_name(path) -> str:
    keys = [key.key for key in path]
    return ".".join((*keys[:-1], LEAVES.get(keys[-1], keys[-1])))


def to_openai(x: np.ndarray) -> np.ndarray:
    """Kernels [H, W, in, out] in PyTorch's layout; other arrays unchanged."""
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x


def is_dense(path) -> bool:
    return path[-1].key == "kernel" and path[-2].key.endswith("proj")


def tower() -> ModifiedResNet:
    return ModifiedResNet(golden.IMAGE_SIZE, embed_dim=golden.EMBED_DIM, **golden.SIZES)


@functools.cache
def variables():
    """The weights of the golden file, with the shapes of our tower."""
    images = jnp.zeros((1, golden.IMAGE_SIZE, golden.IMAGE_SIZE, 3))
    shapes = jax.eval_shape(tower().init, jax.random.key(0), images)

    def value(path, leaf):
        if is_dense(path):
            return golden.values(openai_name(path[1:]), leaf.shape[::-1]).T
        like = to_openai(np.empty(leaf.shape)).shape
        found = golden.values(openai_name(path[1:]), like)
        return found.transpose(2, 3, 1, 0) if found.ndim == 4 else found

    return jax.tree_util.tree_map_with_path(lambda path, leaf: np.float32(value(path, leaf)), shapes)


@functools.cache
def results():
    """Features in evaluation and in training, the running statistics after training, and the gradients."""
    images = np.float32(golden.random_images())

    @jax.jit
    def compute(given):
        def features(params):
            return tower().apply(given | {"params": params}, images, train=True, mutable=["batch_stats"])

        embeds, pull_back, new = jax.vjp(features, given["params"], has_aux=True)
        gradients = pull_back(jnp.float32(golden.direction()))[0]
        return tower().apply(given, images), embeds, new["batch_stats"], gradients

    return jax.tree.map(np.asarray, compute(variables()))


def distance(expected, found) -> float:
    return float(np.linalg.norm(np.ravel(found) - np.ravel(expected)) / np.linalg.norm(expected))


def test_features_equal_openais():
    expected = golden.read()
    assert distance(expected["eval"], results()[0]) < 1e-5
    assert distance(expected["train"], results()[1]) < 1e-5
    assert distance(expected["train"], expected["eval"]) > 0.1


def test_running_statistics_equal_openais():
    expected = {k.removeprefix("running/"): v for k, v in golden.read().items() if k.startswith("running/")}
    found = {openai_name(path): leaf for path, leaf in jax.tree.leaves_with_path(results()[2])}
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert distance(expected[name], value) < 1e-5, name


def test_gradients_equal_openais():
    expected = {k.removeprefix("gradient/"): v for k, v in golden.read().items() if k.startswith("gradient/")}
    found = {}
    for path, leaf in jax.tree.leaves_with_path(results()[3]):
        found[openai_name(path)] = leaf.T if is_dense(path) else to_openai(leaf)
    assert found.keys() == expected.keys()
    largest = max(probes[0] for probes in expected.values())
    for name, gradient in found.items():
        if expected[name][0] > 1e-6 * largest:  # the gradient of a key's bias is 0 in theory
            assert distance(expected[name], golden.probes(name, gradient)) < 1e-4, name


# Batch normalisation.


def normalise(x, groups=1, train=True, stats=None, scale=1.0, bias=0.0, dtype=jnp.float32):
    """(output, new statistics) of a norm with the running statistics `stats`, (mean, var)."""
    mean, var = stats or (np.zeros(x.shape[-1]), np.ones(x.shape[-1]))
    given = {
        "params": {"scale": jnp.full(x.shape[-1], scale), "bias": jnp.full(x.shape[-1], bias)},
        "batch_stats": {"mean": jnp.float32(mean), "var": jnp.float32(var)},
    }
    norm = BatchNorm(groups=groups, dtype=dtype)
    found, new = norm.apply(given, jnp.asarray(x, dtype), train, mutable=["batch_stats"])
    return np.asarray(found, np.float64), {k: np.asarray(v) for k, v in new["batch_stats"].items()}


def feature_map(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 3, 2, 5)) * [1, 2, 3, 4, 5] + [0, 10, -10, 100, 0]


def by_hand(x):
    """Normalised in float64, with mean and unbiased variance."""
    values = x.reshape(-1, x.shape[-1])
    return (x - values.mean(0)) / np.sqrt(values.var(0) + 1e-5), values.mean(0), values.var(0, ddof=1)


def test_training_normalises_with_the_batch_and_moves_the_running_statistics_by_a_tenth():
    x = feature_map()
    normal, mean, var = by_hand(x)
    found, new = normalise(x, stats=(np.arange(5), np.arange(1, 6)), scale=2.0, bias=0.5)
    np.testing.assert_allclose(found, 2 * normal + 0.5, atol=2e-5)
    np.testing.assert_allclose(new["mean"], 0.9 * np.arange(5) + 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * np.arange(1, 6) + 0.1 * var, rtol=1e-5)


def test_evaluation_uses_the_running_statistics_and_does_not_change_them():
    x, mean, var = feature_map(), np.arange(5.0), np.arange(1.0, 6.0)
    found, new = normalise(x, train=False, stats=(mean, var))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(new["mean"], mean)
    alone, _ = normalise(x[2:3], train=False, stats=(mean, var))
    np.testing.assert_array_equal(alone[0], found[2])


def test_groups_are_separate_batches():
    x = feature_map()
    found, new = normalise(x, groups=4)
    parts = [by_hand(x[i : i + 2]) for i in range(0, 8, 2)]
    np.testing.assert_allclose(found, np.concatenate([part[0] for part in parts]), atol=2e-5)
    np.testing.assert_allclose(new["mean"], 0.1 * np.mean([part[1] for part in parts], axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 + 0.1 * np.mean([part[2] for part in parts], axis=0), rtol=1e-5)
    assert np.abs(found - normalise(x)[0]).max() > 0.1


def test_statistics_survive_a_large_mean_and_bfloat16():
    x = np.float32(feature_map() + 1000)
    np.testing.assert_allclose(normalise(x)[0], by_hand(np.float64(x))[0], atol=2e-3)
    half = feature_map().astype(jnp.bfloat16)
    found, new = normalise(half, dtype=jnp.bfloat16)
    normal, mean, _ = by_hand(np.float64(half))
    np.testing.assert_allclose(found, normal, atol=2e-2)
    np.testing.assert_allclose(new["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)


def test_average_pool_by_hand():
    x = np.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
    expected = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(average_pool(jnp.asarray(x), 2), expected)


class Normed(nn.Module):
    """A tower that compiles fast: a linear layer and a batch norm."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4)(x.reshape(x.shape[0], -1).astype(jnp.float32))
        return BatchNorm(name="bn")(x, train)


def test_two_views_update_the_running_statistics_one_after_the_other():
    """Like two calls of a model in PyTorch."""
    towers = TwoTowers(Normed(), Normed())
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3)).astype(np.uint8)
    batch = {"images": images[0], "augmented_images": images[1], "tokens": jnp.arange(24).reshape(4, 6)}
    start = towers.init(jax.random.key(0), batch["images"], batch["tokens"])

    def update(stats, *outputs, **given):
        apply = functools.partial(towers.apply, start | {"batch_stats": stats}, outputs, batch | given)
        return apply(train=True, method="compute", mutable=["batch_stats"])[1]["batch_stats"]["image"]["bn"]

    both = update(start["batch_stats"], "image_embeds", "image_embeds_augmented", "text_embeds")
    first = update(start["batch_stats"], "image_embeds")
    second = update({"image": {"bn": first}}, "image_embeds", images=images[1])
    for name in ("mean", "var"):
        np.testing.assert_array_equal(both[name], second[name])
        assert not np.allclose(both[name], first[name])


# The real sizes.


def small(**changes):
    model = get_preset("mu-rn")
    model.image.update({"image_size": 32, "layers": (1, 1, 1, 1), "width": 4, "heads": 2} | changes)
    return model


@functools.cache
def shapes(preset):
    towers = build_towers(get_preset(preset), 49_408, 49_407)
    side = towers.image.image_size
    images, tokens = jnp.zeros((1, side, side, 3), jnp.uint8), jnp.zeros((1, 77), jnp.int32)
    return jax.eval_shape(towers.init, jax.random.key(0), images, tokens)


# Counted with OpenAI's model.py, without its temperature.
COUNTS = {
    "RN50": (38_316_896, 63_690_240),
    "RN101": (56_259_936, 63_428_096),
    "RN50x4": (87_137_080, 91_163_520),
}


@pytest.mark.parametrize("preset", COUNTS)
def test_presets_have_openais_number_of_parameters(preset):
    found = shapes(preset)["params"]
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert (count(found["image"]), count(found["text"])) == COUNTS[preset]
    names = {openai_name(path) for path, _ in jax.tree.leaves_with_path(found["image"])}
    last = {"RN50": 2, "RN101": 2, "RN50x4": 5}[preset]
    assert {"conv3.weight", "layer1.0.downsample.1.bias", f"layer4.{last}.bn3.weight", "attnpool.c_proj.bias"} <= names
    assert not any(f"layer4.{last}.downsample" in name for name in names)
    statistics = {openai_name(path) for path, _ in jax.tree.leaves_with_path(shapes(preset)["batch_stats"]["image"])}
    norms = {name.removesuffix(".weight") for name in names if ".bn" in f".{name}" or "downsample.1" in name}
    norms = {name.removesuffix(".bias") for name in norms}
    assert statistics == {f"{norm}.running_{kind}" for norm in norms for kind in ("mean", "var")}


def test_a_block_starts_as_its_shortcut():
    block, x = Bottleneck(16, 2, BatchNorm), jnp.ones((1, 4, 4, 32))
    start = block.init(jax.random.key(0), x, False)
    params = start["params"]
    np.testing.assert_array_equal(params["bn3"]["scale"], 0)
    for norm in (params["bn1"], params["bn2"], params["downsample"]["1"]):
        np.testing.assert_array_equal(norm["scale"], 1)
        np.testing.assert_array_equal(norm["bias"], 0)
    for path, leaf in jax.tree.leaves_with_path(start["batch_stats"]):
        np.testing.assert_array_equal(leaf, 0 if path[-1].key == "mean" else 1)
    for kernel in (params["conv1"], params["conv2"], params["conv3"], params["downsample"]["0"]):
        kernel = np.asarray(kernel["kernel"])
        bound = np.prod(kernel.shape[:3]) ** -0.5
        assert 0.95 * bound < np.abs(kernel).max() <= bound
        assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_attention_pool_starts_like_openais():
    width = 256
    pool = AttentionPool(4, 64, jnp.float32).init(jax.random.key(0), jnp.ones((1, 3, 3, width)))["params"]
    for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
        kernel, bias = np.asarray(pool[name]["kernel"]), np.asarray(pool[name]["bias"])
        assert kernel.std() == pytest.approx(width**-0.5, rel=0.03) and np.abs(kernel).max() > 3 * width**-0.5
        assert 0.8 * width**-0.5 < np.abs(bias).max() <= width**-0.5
    assert pool["positional_embedding"].shape == (10, width)
    assert np.std(pool["positional_embedding"]) == pytest.approx(width**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_norm": "synced"}, r"unknown model\.image\.batch_norm 'synced'.*global, local"),
        ({"layers": (3, 4, 6)}, r"model\.image\.layers=\(3, 4, 6\) must be the numbers of blocks of four stages"),
        ({"layers": (3, 4, 0, 3)}, r"at least 1 each"),
        ({"image_size": 48}, r"model\.image\.image_size=48 must be a multiple of 32"),
        ({"width": 5}, r"model\.image\.width=5 must be even"),
        ({"heads": 3}, r"model\.image\.heads=3 does not divide the 128 channels of the last feature map"),
        ({"patch_size": 8}, r"patch_size"),
    ],
)
def test_sizes_that_contradict_each_other(changes, message):
    with pytest.raises(UserError, match=message):
        build_towers(small(**changes), 64, 63)
