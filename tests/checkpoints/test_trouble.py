"""Checkpoints in trouble: disk full, kills while saving, damage that only one process notices."""

import errno
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.checkpoints import files
from rankclip_jax.checkpoints.digests import tree_digests
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.weights import load_model
from rankclip_jax.errors import UserError
from tests.checkpoints.test_manager import abstract, biggest_file, make_state, save_steps, steps_in
from tests.support import processes

DISK_FULL = """
import resource, sys, jax.numpy as jnp
from rankclip_jax import cli
from rankclip_jax.checkpoints.manager import Checkpoints
def main(argv):
    checkpoints = Checkpoints(argv[1])
    state = {"params": {"w": jnp.sin(jnp.arange(1_000_000.0))}}
    checkpoints.save(1, state)
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # a real write error, without root
    checkpoints.save(2, state)
    checkpoints.save(3, state)
    checkpoints.close()
cli.run(main, positional=True)
"""


def test_a_full_disk_is_one_line_and_harms_no_earlier_step(tmp_path):
    code, _, err = processes.run(DISK_FULL, tmp_path)
    assert code == 2
    assert len(err.splitlines()) == 1 and err.startswith("error: no room to save in ")
    assert "earlier checkpoints are intact" in err
    model, meta = load_model(tmp_path)
    assert meta["step"] == 1
    np.testing.assert_array_equal(model.params["w"], jnp.sin(jnp.arange(1_000_000.0)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, {"params": {"w": jnp.ones(3)}})
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]  # the partial one is gone


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ENOENT, errno.EDQUOT])
def test_a_folder_that_fails_is_one_line(tmp_path, monkeypatch, number):
    """Where Orbax makes the folder of a step: real permissions do not stop root."""
    save_steps(tmp_path, range(1, 2))
    checkpoints, mkdir = Checkpoints(tmp_path), os.mkdir

    def fails(path, *args, **options):
        if "orbax-checkpoint-tmp" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return mkdir(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", fails)
    with pytest.raises(UserError) as caught:
        checkpoints.save(2, make_state(2))
        checkpoints.close()
    line = (
        f"({os.strerror(number)}); earlier checkpoints are intact: free some disk space and run the same command again"
    )
    if number != errno.EDQUOT:
        line = f"({os.strerror(number)}): make it writable again, and run the same command again"
    assert str(caught.value).endswith(line) and "\n" not in str(caught.value)
    monkeypatch.undo()
    assert Checkpoints(tmp_path).restore(abstract(make_state())).step == 1


def test_other_errors_of_a_save_are_no_users_mistakes():
    assert files.no_access(ValueError("a bug")) is None and files.no_access(TypeError()) is None
    try:
        try:
            raise FileNotFoundError(errno.ENOENT, "handled")
        except OSError:
            raise ValueError("a bug while an error was handled")  # noqa: B904
    except ValueError as error:
        assert files.no_access(error) is None


SAVE_FOREVER = """
import itertools, sys, jax.numpy as jnp
from rankclip_jax.checkpoints.manager import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
for step in itertools.count(1):
    checkpoints.save(step, {"params": {"w": step + jnp.sin(jnp.arange(4_000_000.0))}})
    checkpoints.wait()
    print(step, flush=True)
"""


@pytest.mark.parametrize("moment", [0.05, 0.2])
def test_kill_during_a_save(tmp_path, moment):
    process = processes.start_new(SAVE_FOREVER, tmp_path)
    done = int(process.stdout.readline())
    time.sleep(moment)
    process.kill()
    done = max([done, *map(int, process.communicate()[0].split())])
    abstract_state = {"params": {"w": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)}}
    checkpoints = Checkpoints(tmp_path, keep=2)
    restored = checkpoints.restore(abstract_state)
    assert restored.step in (done, done + 1)
    expected = restored.step + jnp.sin(jnp.arange(4_000_000.0))
    assert tree_digests(restored.state["params"]["w"]) == tree_digests(expected)
    assert checkpoints.save(restored.step + 1, restored.state)  # the killed step can be saved now
    checkpoints.close()
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]


TWO_PROCESSES = """
import sys, time, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rankclip_jax import cli
from rankclip_jax.parallel import processes as distributed
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.digests import tree_digests
def main(argv):
    distributed.initialize()
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P("fsdp"))
    abstract = {"params": {"w": jax.ShapeDtypeStruct((400_000,), jnp.float32, sharding=sharding)}}
    make = jax.jit(lambda k: {"params": {"w": k + jnp.sin(jnp.arange(400_000.0))}},
                   out_shardings={"params": {"w": sharding}})
    checkpoints = Checkpoints(argv[1], best_metric="r1")
    restored = checkpoints.restore(abstract)
    first = 1 if restored is None else restored.step + 1
    if restored is not None:
        print("restored", restored.step, *tree_digests(restored.state))
    for step in range(first, first + 2):
        checkpoints.save(step, make(step), {}, {"r1": step})
    checkpoints.close()
    print("digest", *tree_digests(make(2)))
cli.run(main, positional=True)
"""


def test_processes_agree_if_only_one_of_them_notices_the_damage(tmp_path):
    one = Checkpoints(tmp_path)
    one.save(0, {"params": {"w": jnp.sin(jnp.arange(400_000.0))}})
    one.close()
    first = processes.run_together(TWO_PROCESSES, tmp_path, count=2, devices=2)
    assert [code for code, _, _ in first] == [0, 0], first
    assert all(f"restored 0 {tree_digests(jnp.sin(jnp.arange(400_000.0)))[0]}" in out for _, out, _ in first)
    expected = tree_digests(2 + jnp.sin(jnp.arange(400_000.0)))[0]
    assert all(f"digest {expected}" in out for _, out, _ in first)
    shutil.copytree(tmp_path / "2", tmp_path / "3")  # a newer step that process 1 cannot read
    record = tmp_path / "3" / "state" / "ocdbt.process_1"
    os.truncate(biggest_file(record), 50)
    second = processes.run_together(TWO_PROCESSES, tmp_path, count=2, devices=2)
    assert [code for code, _, _ in second] == [0, 0], second
    assert all(f"restored 2 {expected}" in out for _, out, _ in second)
    assert (tmp_path / "3.damaged").exists() and steps_in(tmp_path) == [2, 3, 4]
    restored = Checkpoints(tmp_path).restore({"params": {"w": jax.ShapeDtypeStruct((400_000,), jnp.float32)}})
    assert restored.step == 4  # one process continues what two saved
    assert tree_digests(restored.state["params"]["w"]) == tree_digests(4 + jnp.sin(jnp.arange(400_000.0)))
    assert sum(err.count("is damaged") for _, _, err in second) == 1
    model, _ = load_model(tmp_path, 2)  # and one process reads what two wrote
    assert tree_digests(model.params["w"]) == [expected]
