"""ALIP in a run, which may be stopped and continued, and its options."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from configs import emoji
from rankclip_jax.checkpoints.digests import tree_digests
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.data.loader import Loader
from rankclip_jax.errors import UserError
from rankclip_jax.models.two_towers import TwoTowers
from rankclip_jax.parallel.mesh import put_batch
from rankclip_jax.training import setup
from rankclip_jax.training.step import abstract_state, create_state, make_init, make_train_step
from tests.support.objective_checks import build

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("alip")


# A run stopped and continued.


class Flat(nn.Module):
    """A tower that compiles at once: its input, flattened, times a matrix."""

    image_size: int = 64
    context_length: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(8)(x.reshape(x.shape[0], -1).astype(jnp.float32))


@functools.cache
def small_run():
    config = emoji.get_config("mu,alip")
    config.batch_size, config.duration, config.data.train_limit = 8, "4 steps", 32
    config.optimizer.warmup = "0 steps"
    parts = setup.build(config)._replace(towers=TwoTowers(image=Flat(), text=Flat()))
    return parts, jax.jit(make_train_step(parts.towers, parts.objective, parts.optimizer, parts.mesh))


def steps(state, first, last):
    parts, step_fn = small_run()
    with Loader(parts.dataset.train, parts.tokenizer, parts.loader_options, first) as loader:
        for _ in range(first, last):
            state, metrics = step_fn(state, put_batch(next(loader), parts.mesh))
    return state, metrics


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    parts, _ = small_run()
    init, key = make_init(parts.towers, parts.objective, parts.optimizer), jax.random.key(0)
    begun, _ = steps(create_state(init, key, parts.mesh), 0, 2)
    straight, metrics = steps(begun, 2, 4)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(2, begun, {}, {})
    checkpoints.close()
    restored = Checkpoints(str(tmp_path)).restore(abstract_state(init, key, parts.mesh)).state
    assert tree_digests(restored["objective"]) == tree_digests(begun["objective"])
    means = jax.tree.leaves(jax.tree.map(float, restored["objective"]))
    assert len(means) == 4 and all(0.97 < mean < 1 for mean in means)
    resumed, again = steps(restored, 2, 4)
    assert tree_digests(resumed) == tree_digests(straight)
    assert float(again["loss"]) == float(metrics["loss"])
    # Means that begin anew, as in the released code, are another run.
    forgetful, _ = steps(restored | {"objective": parts.objective.initial_state()}, 2, 4)
    assert tree_digests(forgetful["params"]) != tree_digests(straight["params"])


# Options.


def test_equations():
    assert build("alip").equation == "L = alip_text + alip_caption"
    assert build("alip", caption_weight=0.5).equation == "L = alip_text + 0.5 alip_caption"
    assert build("alip", text_weight=0.0).equation == "L = alip_caption"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_weight": -1.0}, r"objective\.text_weight=-1\.0: a weight is a number from 0 up"),
        ({"text_weight": 0.0, "caption_weight": 0.0}, "text_weight=0 and caption_weight=0: raise one"),
        ({"momentum": 1.5}, r"objective\.momentum=1\.5: it must be a finite number from 0 to 1\."),
        ({"momentum": math.nan}, r"objective\.momentum=nan: it must be a finite number from 0 to 1\."),
        ({"sample_exponent": -2.0}, r"objective\.sample_exponent=-2\.0: it must be a finite number from 0 up\."),
        ({"pair_exponent": math.inf}, r"objective\.pair_exponent=inf: it must be a finite number from 0 up\."),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        build("alip", **changes)
