"""Skipped steps: nothing but the counters changes, the decision is the same on any mesh, and a run of them stops."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.models.batch_norm import BatchNorm
from rankclip_jax.models.two_towers import TwoTowers
from rankclip_jax.parallel.mesh import make_mesh, put_batch
from rankclip_jax.training import skipping
from rankclip_jax.training.options import StepOptions
from rankclip_jax.training.step import create_state, jit_train_step, make_init, make_train_step
from tests.support import processes
from tests.support.objective_checks import build


class Tower(nn.Module):
    """Compiles at once, has running statistics, and is infinite for texts of zeros."""

    image_size: int = 4
    context_length: int = 6

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x.reshape(x.shape[0], -1).astype(jnp.float32)) / jnp.sign(jnp.max(x))
        return BatchNorm(name="bn")(x, train)


def batch_of(seed, is_sound=True):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    return {"images": images, "tokens": rng.integers(1, 9, (8, 6)).astype(np.int32) * is_sound}


def train(is_sound, fsdp=1):
    """The states before the first and after each step, as numpy, and the metrics of each step."""
    towers, objective, mesh = TwoTowers(Tower(), Tower()), build("rankclip"), make_mesh(fsdp=fsdp)
    optimizer, options = optax.adamw(1e-2), StepOptions(ema_decay=0.9)
    state = create_state(make_init(towers, objective, optimizer, 0.9), jax.random.key(0), mesh)
    step = jit_train_step(make_train_step(towers, objective, optimizer, mesh, options), state, mesh)
    states, metrics = [jax.tree.map(np.array, state)], []
    for number, sound in enumerate(is_sound):
        state, found = step(state, put_batch(batch_of(number, sound), mesh))
        states.append(jax.tree.map(np.array, state))
        metrics.append({name: float(value) for name, value in found.items()})
    return states, metrics


def bits(state):
    return [
        leaf.tobytes()
        for name, part in state.items()
        if name not in ("step", "skips")
        for leaf in jax.tree.leaves(part)
    ]


def check_skips(states, metrics, is_sound):
    skipped = 0
    for before, after, found, sound in zip(states[:-1], states[1:], metrics, is_sound, strict=True):
        skipped += not sound
        assert (bits(before) == bits(after)) == (not sound)
        assert np.isfinite(found["loss"]) == sound
        assert (found["skipped_steps"], after["step"]) == (skipped, before["step"] + 1)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after) if leaf.dtype == np.float32)


IS_SOUND = (True, False, False, True, False, True)


def test_a_step_that_is_not_finite_changes_nothing():
    states, metrics = train(IS_SOUND)
    check_skips(states, metrics, IS_SOUND)
    assert [found["skipped_in_row"] for found in metrics] == [0, 1, 2, 0, 1, 0]
    assert optax.tree.get(states[-1]["opt_state"], "count") == 3


ON_EIGHT = """
from tests.training.test_skipping import IS_SOUND, check_skips, train
check_skips(*train(IS_SOUND, fsdp=4), IS_SOUND)
print("done")
"""


def test_the_same_on_eight_devices():
    code, out, err = processes.run(ON_EIGHT, devices=8)
    assert code == 0 and out == "done\n", err


@pytest.mark.parametrize("factor", [0.0, 3.0])
def test_the_rule_against_a_list_of_norms(factor):
    rng = np.random.default_rng(3)
    norms = np.exp(rng.normal(size=400)).astype(np.float32)
    losses = np.where(rng.random(400) < 0.1, np.nan, 1.0).astype(np.float32)
    norms[rng.random(400) < 0.05] = np.inf
    judge = jax.jit(skipping.judge, static_argnums=4)
    skips, accepted, total, in_row = skipping.initial_counters(), [], 0, 0
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        wanted = bool(np.isfinite(loss) and np.isfinite(norm))
        if factor and len(accepted) >= 100:
            wanted = wanted and bool(norm <= factor * np.median(accepted[-100:]))
        sound, skips = judge(skips, jnp.int32(step), loss, norm, factor)
        accepted += [norm] * wanted
        total, in_row = total + (not wanted), 0 if wanted else in_row + 1
        assert (bool(sound), int(skips["total"]), int(skips["in_row"])) == (wanted, total, in_row), step
    assert total > 40 and len(accepted) > 200
    assert skips["norms"].shape == (100,)


def measured(in_row):
    return {"loss": jnp.float32(np.nan if in_row else 1.0), "grad_norm": jnp.float32(2.0), "skipped_in_row": in_row}


def records(step):
    return [(step, "a"), (7, f"cat/{step}")]


def test_the_pairs_of_skipped_steps_are_written(tmp_path, capsys):
    steps = skipping.SkippedSteps(str(tmp_path), 3, records)
    for step, in_row in enumerate([0, 1, 2, 0, 1], 1):
        steps.add(step, measured(in_row))
    assert not (tmp_path / "skipped" / "5.json").exists()  # its metrics may not be computed yet
    steps.finish()
    assert sorted(path.name for path in (tmp_path / "skipped").iterdir()) == ["2.json", "3.json", "5.json"]
    found = json.loads((tmp_path / "skipped" / "3.json").read_text())
    pairs = [{"index": 3, "key": "a"}, {"index": 7, "key": "cat/3"}]
    assert found == {"step": 3, "loss": "nan", "grad_norm": "2", "pairs": pairs}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[0].startswith("warning: step 2 is skipped (loss nan, gradient norm 2); the pairs")


def test_skipped_steps_in_a_row_stop_the_run(tmp_path):
    steps = skipping.SkippedSteps(str(tmp_path), 3, records)
    for step in (1, 2, 3):
        steps.add(step, measured(step))
    with pytest.raises(UserError, match=r"^3 steps in a row were skipped, up to step 3 \(loss nan, .* has diverged"):
        steps.finish()
    assert len(list((tmp_path / "skipped").iterdir())) == 3


def test_a_limit_of_files(tmp_path):
    steps = skipping.SkippedSteps(str(tmp_path), 3, records)
    for step in range(1, 51):
        steps.add(step, measured(1))
    steps.finish()
    assert sorted(int(path.stem) for path in (tmp_path / "skipped").iterdir()) == list(range(31, 51))
