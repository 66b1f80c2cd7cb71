"""Checkpoints: restored is what was saved, or an earlier step, or there is an error of one line."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankclip_jax.checkpoints import files
from rankclip_jax.checkpoints.digests import tree_digests
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.weights import load_model
from rankclip_jax.errors import UserError
from tests.support import processes


def make_state(seed: float = 0.0, width: int = 24) -> dict:
    """A state with all kinds of leaves of a training state: namedtuples, bf16, integers, typed keys."""
    w = seed + jnp.sin(jnp.arange(64.0 * width)).reshape(64, width)
    params = {"tower": {"w": w, "b": jnp.arange(8, dtype=jnp.bfloat16)}}
    optimizer = optax.adamw(1e-3, mu_dtype=jnp.bfloat16).init(params)
    return {
        "params": params,
        "opt": optimizer,
        "step": jnp.int32(seed),
        "seen": jnp.arange(8) % 2 == 0,
        "rng": jax.random.split(jax.random.key(7), 8),
    }


def abstract(state: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def save_steps(folder: Path, steps: range, **options) -> None:
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        assert checkpoints.save(step, make_state(step), {"data": {"next_index": step}})
    checkpoints.close()


def biggest_file(folder: Path) -> Path:
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_round_trip(tmp_path):
    save_steps(tmp_path, range(1, 3))
    checkpoints = Checkpoints(tmp_path)
    step, state, meta = checkpoints.restore(abstract(make_state()))
    assert (step, meta) == (2, {"data": {"next_index": 2}})
    assert jax.tree.structure(state) == jax.tree.structure(make_state())
    assert tree_digests(state) == tree_digests(make_state(2))
    assert jax.random.key_impl(state["rng"]) == jax.random.key_impl(make_state()["rng"])
    checkpoints.close()


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.restore(abstract(make_state())) is None
    assert checkpoints.latest_step is None
    checkpoints.close()


ON_EIGHT = """
import sys, jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints import files
from rankclip_jax.checkpoints.digests import tree_digests
from tests.checkpoints.test_manager import make_state
mesh = jax.make_mesh((2, 4), ("replica", "fsdp"), axis_types=(AxisType.Auto,) * 2)
def sharding(x):
    return NamedSharding(mesh, P("fsdp") if x.ndim and x.shape[0] % 4 == 0 else P())
abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)), jax.eval_shape(make_state))
from_one = Checkpoints(sys.argv[1]).restore(abstract)
assert jax.tree.all(jax.tree.map(lambda x, a: x.sharding == a.sharding, from_one.state, abstract))
print(*tree_digests(from_one.state))
checkpoints = Checkpoints(sys.argv[2])
checkpoints.save(5, jax.tree.map(lambda x: jax.device_put(x, sharding(x)), make_state(5)))
checkpoints.close()
"""


def test_one_device_to_eight_and_eight_to_one(tmp_path):
    save_steps(tmp_path / "one", range(4, 5))
    code, out, err = processes.run(ON_EIGHT, tmp_path / "one", tmp_path / "eight", devices=8)
    assert code == 0, err
    assert out.split() == tree_digests(make_state(4))
    restored = Checkpoints(tmp_path / "eight").restore(abstract(make_state()))
    assert tree_digests(restored.state) == tree_digests(make_state(5))
    model, _ = load_model(tmp_path / "eight")
    assert tree_digests(model.params) == tree_digests(make_state(5)["params"])


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


DAMAGE = {
    "a flipped bit": lambda step: flip(biggest_file(step / "state")),
    "a truncated file": lambda step: os.truncate(biggest_file(step / "state"), 100),
    "a deleted file": lambda step: biggest_file(step / "state").unlink(),
    "no arrays": lambda step: shutil.rmtree(step / "state"),
    "an empty folder": lambda step: (shutil.rmtree(step), step.mkdir()),
    "a flipped bit in meta": lambda step: flip(step / "meta" / "metadata"),
    "a truncated meta": lambda step: os.truncate(step / "meta" / "metadata", 100),
    "an endless meta": lambda step: endless(step / "meta" / "metadata"),
    "no meta": lambda step: shutil.rmtree(step / "meta"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_step_is_set_aside(tmp_path, capfd, damage):
    save_steps(tmp_path, range(1, 4))
    DAMAGE[damage](tmp_path / "3")
    checkpoints = Checkpoints(tmp_path)
    step, state, meta = checkpoints.restore(abstract(make_state()))
    assert (step, meta) == (2, {"data": {"next_index": 2}})
    assert tree_digests(state) == tree_digests(make_state(2))
    assert (tmp_path / "3.damaged").exists() and not (tmp_path / "3").exists()
    warning = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warning) == 1 and "checkpoint 3 is damaged" in warning[0]
    assert checkpoints.save(3, make_state(30))  # the same step can be saved again
    checkpoints.close()
    assert tree_digests(Checkpoints(tmp_path).restore(abstract(make_state())).state) == tree_digests(make_state(30))


def test_a_flipped_bit_in_any_file_is_detected(tmp_path):
    save_steps(tmp_path / "intact", range(1, 2))
    files = [f.relative_to(tmp_path / "intact") for f in (tmp_path / "intact" / "1").rglob("*") if f.is_file()]
    assert len(files) > 5
    for file in files:
        shutil.rmtree(tmp_path / "flipped", ignore_errors=True)
        shutil.copytree(tmp_path / "intact", tmp_path / "flipped")
        flip(tmp_path / "flipped" / file)
        try:
            restored = Checkpoints(tmp_path / "flipped").restore(abstract(make_state()))
        except UserError as error:
            assert "no intact checkpoint" in str(error)
        else:
            assert tree_digests(restored.state) == tree_digests(make_state(1)), file
            assert restored.meta == {"data": {"next_index": 1}}


def test_without_an_intact_step_nothing_is_renamed(tmp_path):
    save_steps(tmp_path, range(1, 3))
    for step in ("1", "2"):
        flip(biggest_file(tmp_path / step / "state"))
    with pytest.raises(UserError, match=r"no intact checkpoint.*2: .*1: .*move the folder away to start over"):
        Checkpoints(tmp_path).restore(abstract(make_state()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_another_model_is_rejected_with_the_names_of_its_arrays(tmp_path):
    save_steps(tmp_path, range(1, 2))
    wider = abstract(make_state(width=32))
    with pytest.raises(UserError, match=r"params/tower/w float32\[64, 24\] -> float32\[64, 32\]"):
        Checkpoints(tmp_path).restore(wider)
    cast = abstract(make_state())
    cast["params"]["tower"]["w"] = jax.ShapeDtypeStruct((64, 24), jnp.bfloat16)
    cast["more"] = jax.ShapeDtypeStruct((), jnp.int32)
    with pytest.raises(UserError, match=r"more absent -> int32\[\]; params/tower/w float32.*bfloat16"):
        Checkpoints(tmp_path).restore(cast)
    assert (tmp_path / "1").exists()


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.mark.parametrize("mode, values, best", [("max", [1, 9, 2, 9, 3, 4], 4), ("min", [5, 1, 2, 2, 3, 4], 2)])
def test_the_newest_and_the_best_stay_over_a_restart(tmp_path, mode, values, best):
    options = {"keep": 2, "best_metric": "r1", "best_mode": mode}
    state = {"params": {"w": jnp.ones(3)}}
    for steps in (range(1, 6), range(6, 9)):  # two runs of the program
        checkpoints = Checkpoints(tmp_path, **options)
        for step in steps:
            value = values[step - 1] if step <= len(values) else float("nan")
            checkpoints.save(step, state, {"at": step}, {"r1": value, "loss": 1.0})
        checkpoints.close()
    assert steps_in(tmp_path) == [best, 7, 8]
    assert Checkpoints(tmp_path, **options).restore_best(abstract(state)).step == best
    assert load_model(tmp_path, "best")[1] == {"at": best, "step": best}


def test_without_a_metric_there_is_no_best(tmp_path):
    save_steps(tmp_path, range(1, 6), keep=2)
    assert steps_in(tmp_path) == [4, 5]
    assert Checkpoints(tmp_path).restore_best(abstract(make_state())) is None
    with pytest.raises(UserError, match=r"no intact checkpoint 'best'"):
        load_model(tmp_path, "best")


def test_existing_and_older_steps_are_not_saved(tmp_path):
    save_steps(tmp_path, range(5, 6))
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.save(5, make_state(9)) and not checkpoints.save(4, make_state(9))
    checkpoints.close()
    assert tree_digests(Checkpoints(tmp_path).restore(abstract(make_state())).state) == tree_digests(make_state(5))


def test_buffers_may_be_donated_at_once(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = advance({"params": {"w": jnp.zeros((256, 256))}})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    for _ in range(20):
        state = advance(state)
    checkpoints.close()
    np.testing.assert_array_equal(load_model(tmp_path)[0].params["w"], 1.0)


def test_load_model_skips_damaged_steps_and_writes_nothing(tmp_path, capfd):
    save_steps(tmp_path, range(1, 4))
    flip(biggest_file(tmp_path / "3" / "state"))
    model, meta = load_model(tmp_path)
    assert meta == {"data": {"next_index": 2}, "step": 2}
    assert isinstance(model.params["tower"]["w"], np.ndarray) and model.params["tower"]["b"].dtype == jnp.bfloat16
    assert tree_digests(model.params) == tree_digests(make_state(2)["params"])
    assert "skipped: 3:" in capfd.readouterr().err
    assert steps_in(tmp_path) == [1, 2, 3]
    assert load_model(tmp_path, 1)[1]["step"] == 1
    with pytest.raises(UserError, match=r"no intact checkpoint 3 in .*: 3: the digest differs from the saved one"):
        load_model(tmp_path, 3)
    with pytest.raises(UserError, match=r"no intact checkpoint 4 in .*: 4: its meta file is missing"):
        load_model(tmp_path, 4)
    with pytest.raises(UserError, match="neither a number nor 'best'"):
        load_model(tmp_path, "newest")


def bytes_read() -> int:
    return int(next(line for line in open("/proc/self/io") if line.startswith("rchar")).split()[1])


@pytest.mark.skipif(not os.access("/proc/self/io", os.R_OK), reason="counts bytes with Linux's /proc")
def test_the_optimizers_state_is_not_read_for_evaluation(tmp_path):
    noise = jax.random.normal(jax.random.key(0), (3, 1_000_000))  # cannot be compressed
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"params": {"w": noise[0]}, "opt_state": {"mu": noise[1], "nu": noise[2]}})
    checkpoints.close()
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    before = bytes_read()
    weights, _ = load_model(tmp_path)
    assert weights.params["w"].nbytes * 0.8 < bytes_read() - before < size / 2
    np.testing.assert_array_equal(weights.params["w"], noise[0])


def test_a_damaged_optimizer_state_does_not_matter_for_evaluation(tmp_path):
    """Only what is read is verified; training refuses the same checkpoint."""
    save_steps(tmp_path, range(1, 2))
    state = make_state(1)
    record = files.read_record(files.absolute(tmp_path), 1)
    for entry in record["arrays"]:
        if entry["path"][0] == "opt":
            entry["digest"] = "0" * 16
    (tmp_path / "1" / "meta" / "metadata").write_text(json.dumps(files.seal(record)))
    assert tree_digests(load_model(tmp_path)[0].params) == tree_digests(state["params"])
    with pytest.raises(UserError, match="the digest differs from the saved one in opt/"):
        Checkpoints(tmp_path).restore(abstract(state))
