"""A ResNet on one device and on eight: equal steps with global batch statistics, and with local ones per device."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankclip_jax.models.batch_norm import BatchNorm
from rankclip_jax.models.resnet import ModifiedResNet
from rankclip_jax.models.two_towers import TwoTowers
from rankclip_jax.parallel import mesh as sharding
from rankclip_jax.training.step import jit_train_step, make_init, make_train_step
from tests.support import processes
from tests.support.objective_checks import build

pytestmark = pytest.mark.xdist_group("resnet_sharding")
BATCH, DEVICES = 32, 8


class Text(nn.Module):
    """A small tower that compiles fast."""

    context_length: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(6)(jnp.sin(x.astype(jnp.float32)))


def towers(batch_norm="global", devices=DEVICES):
    """A ResNet of two stages, the second with a stride."""
    sizes = {"image_size": 32, "width": 8, "layers": (1, 1), "heads": 2, "embed_dim": 6}
    return TwoTowers(ModifiedResNet(**sizes, batch_norm=batch_norm, devices=devices), Text())


def make_batch():
    """Images and texts that all differ; images differ by more than noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (BATCH, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    images = (coarse + rng.integers(0, 56, (BATCH, 32, 32, 3))).astype(np.uint8)
    return {"images": images, "tokens": rng.integers(1, 64, (BATCH, 16)).astype(np.int32)}


def start(model, mesh):
    """A random state, made without compiling. (At initialization blocks are identities, which would test little.)"""
    shapes = jax.eval_shape(make_init(model, build("rankclip"), optax.sgd(0.1)), jax.random.key(0))
    rng = np.random.default_rng(1)

    def value(path, leaf):
        name = path[-1].key
        spread = 0.1 if leaf.ndim < 2 else np.prod(leaf.shape[:-1]) ** -0.5
        moving = spread * rng.standard_normal(leaf.shape) if leaf.ndim else 0.0
        return np.asarray({"scale": 1.0, "var": 1.0, "logit_scale": 2.66}.get(name, 0.0) + moving, leaf.dtype)

    return jax.device_put(jax.tree_util.tree_map_with_path(value, shapes), sharding.state_shardings(shapes, mesh))


def step(batch_norm, fsdp=1, devices=DEVICES):
    """Loss and every array of the state after one step of gradient descent."""
    model, mesh = towers(batch_norm, devices), sharding.make_mesh(fsdp=fsdp)
    state = start(model, mesh)
    step = jit_train_step(make_train_step(model, build("rankclip"), optax.sgd(0.1), mesh), state, mesh)
    before = {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in jax.tree.leaves_with_path(state)}
    state, metrics = step(state, sharding.put_batch(make_batch(), mesh))
    after = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}
    return {"loss": np.asarray(metrics["loss"])} | {name: after[name] - before[name] for name in after}


def collectives(groups):
    """Number of collectives in a batch norm over a batch that is split over devices."""
    norm, x = BatchNorm(groups), np.ones((BATCH, 4, 4, 8), np.float32)
    given = norm.init(jax.random.key(0), x, False)
    rows = sharding.batch_sharding(sharding.make_mesh())
    normal = jax.jit(lambda x: norm.apply(given, x, True, mutable=["batch_stats"])[0], in_shardings=rows)
    text = normal.lower(x).compile().as_text()
    return np.array(sum(text.count(f" {name}(") for name in ("all-reduce", "all-gather", "all-to-all")))


ON_EIGHT = """
import sys, numpy as np
from tests.parallel import test_resnet_sharding as t
t.sharding.SMALLEST_SHARDED = 64  # so that fsdp splits this small model
found = {name: t.step(name, fsdp) for name, fsdp in (("global", 4), ("local", 1))}
found["collectives"] = {"global": t.collectives(1), "local": t.collectives(8)}
np.savez(sys.argv[1], **{f"{part}:{name}": x for part, values in found.items() for name, x in values.items()})
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    out = tmp_path_factory.mktemp("resnet") / "eight.npz"
    code, _, err = processes.run(ON_EIGHT, out, devices=DEVICES, seconds=240)
    assert code == 0, err
    with np.load(out) as file:
        return dict(file)


def part(found, case):
    return {name.removeprefix(f"{case}:"): x for name, x in found.items() if name.startswith(f"{case}:")}


def distance(expected, found, of=""):
    assert expected.keys() == found.keys()
    names = [name for name in expected if of in name]
    expected, found = (np.concatenate([np.ravel(x[name]) for name in names]) for x in (expected, found))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


one_device = functools.cache(step)


@pytest.mark.parametrize("batch_norm", ["global", "local"])
def test_eight_devices_take_the_step_of_one(eight, batch_norm):
    """On one device, local statistics are those of the same number of groups of rows."""
    expected, found = one_device(batch_norm), part(eight, batch_norm)
    for of in ("loss", "params", "batch_stats"):
        assert distance(expected, found, of) < 1e-5, of
    assert np.linalg.norm(expected["['model_state']['batch_stats']['image']['bn1']['mean']"]) > 1e-3


def test_local_and_global_differ():
    assert distance(one_device("global"), one_device("local"), "params") > 1e-2


def test_only_global_statistics_need_other_devices(eight):
    assert eight["collectives:local"] == 0 and eight["collectives:global"] > 0


def test_local_statistics_use_the_rows_of_one_device():
    model, alone = towers("local", devices=4), towers("global")
    state = start(model, sharding.make_mesh(jax.devices()[:1]))
    given = {"params": state["params"]["towers"], **state["model_state"]}
    images = make_batch()["images"]

    @functools.partial(jax.jit, static_argnums=0)
    def embed(model, images):
        inputs, batch = ("image_embeds",), {"images": images}
        embeds, new = model.apply(given, inputs, batch, True, method="compute", mutable=["batch_stats"])
        return embeds["image_embeds"], new["batch_stats"]

    found, stats = embed(model, images)
    parts = [embed(alone, images[i : i + 8]) for i in range(0, BATCH, 8)]
    np.testing.assert_allclose(found, np.concatenate([part[0] for part in parts]), atol=1e-5)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(part[1] for part in parts))
    for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
