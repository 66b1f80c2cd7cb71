"""One device, eight devices, and two processes with four each: the same loss and gradient, and a sharded state."""

import math

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from rankclip_jax.config.base import get_config
from rankclip_jax.errors import UserError
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective
from rankclip_jax.parallel.mesh import _sizes, block_if_cpu_collectives, make_mesh, state_shardings
from rankclip_jax.training.optimizer import make_optimizer
from rankclip_jax.training.step import abstract_state, make_init
from tests.support import processes
from tests.support.gradients import OBJECTIVES

RUN = "import sys; from tests.support import gradients; gradients.main(*sys.argv[1:])"
# OBJECTIVE:FSDP:BLOCK_ROWS; each device has 16 rows, more than the blocks of 4 and 8.
ON_EIGHT = ("exact:1:0", "exact:2:4", "exact:8:0", "released:8:8")
ON_TWO_TIMES_FOUR = ("clip:2:4", "exact:8:0")


def read(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    out = tmp_path_factory.mktemp("gradients") / "one.npz"
    code, _, err = processes.run(RUN, out, *(f"{name}:1:0" for name in OBJECTIVES), seconds=240)
    assert code == 0, err
    return read(out)


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    out = tmp_path_factory.mktemp("gradients") / "eight.npz"
    code, _, err = processes.run(RUN, out, *ON_EIGHT, devices=8, seconds=240)
    assert code == 0, err
    return read(out)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("gradients") / "two.npz"
    results = processes.run_together(RUN, out, *ON_TWO_TIMES_FOUR, count=2, devices=4, seconds=240)
    assert [code for code, _, _ in results] == [0, 0], results
    return read(out)


def distance(expected: np.ndarray, found: np.ndarray) -> float:
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def assert_same(expected: dict, found: dict, case: str) -> None:
    """Compare the loss, the gradient, and the temperature's part of it, which is small beside the rest."""
    reference = f"{case.split(':')[0]}:1:0"
    names = [name.removeprefix(f"{case}/") for name in found if name.startswith(f"{case}/gradient")]
    assert len(names) > 30 and any("logit_scale" in name for name in names)
    wanted = {name: expected[f"{reference}/{name}"] for name in ("loss", *names)}
    given = {name: found[f"{case}/{name}"] for name in ("loss", *names)}
    temperature = next(name for name in names if "logit_scale" in name)
    whole = [np.concatenate([x[name].ravel() for name in names]) for x in (wanted, given)]
    errors = {
        "loss": distance(wanted["loss"], given["loss"]),
        "gradient": distance(*whole),
        "temperature": distance(wanted[temperature], given[temperature]),
    }
    print(case, errors)
    assert max(errors.values()) < 1e-5, errors
    assert np.linalg.norm(whole[0]) > 0.1
    assert (expected[f"{reference}/state"] == found[f"{case}/state"]).all()  # the same initial state, bit by bit


@pytest.mark.xdist_group("gradients")
@pytest.mark.parametrize("case", ON_EIGHT)
def test_eight_devices_equal_one(one_device, eight_devices, case):
    assert_same(one_device, eight_devices, case)


@pytest.mark.xdist_group("gradients")
@pytest.mark.parametrize("case", ON_TWO_TIMES_FOUR)
def test_two_processes_equal_one_device(one_device, two_processes, case):
    assert_same(one_device, two_processes, case)


@pytest.mark.xdist_group("gradients")
def test_the_state_is_split_over_devices(eight_devices, two_processes):
    whole = eight_devices["exact:1:0/bytes"]
    assert len(set(whole)) == 1 and whole[0] > 3 * 4 * 50_000  # parameters and two moments
    for held, fsdp in ((eight_devices["exact:2:4/bytes"], 2), (eight_devices["exact:8:0/bytes"], 8)):
        assert np.all(held < whole[0] / fsdp * 1.1)
    assert np.all(two_processes["exact:8:0/bytes"] < whole[0] / 8 * 1.1)


ON_A_MESH = """
import jax, numpy as np, sys
from rankclip_jax.parallel import mesh as sharding
from rankclip_jax.checkpoints.digests import tree_digests
mesh = sharding.make_mesh(fsdp=4)
abstract = {
    "largest axis": jax.ShapeDtypeStruct((512, 1024), np.float32),
    "first does not divide": jax.ShapeDtypeStruct((1023, 512), np.float32),
    "nothing divides": jax.ShapeDtypeStruct((513, 1023), np.float32),
    "small": jax.ShapeDtypeStruct((16, 16), np.float32),
    "scalar": jax.ShapeDtypeStruct((), np.int32),
}
for name, found in sorted(sharding.state_shardings(abstract, mesh).items()):
    print(name, *found.spec)
rows = np.arange(16).reshape(16, 1)
print("rows", *(int(shard.data[0, 0]) for shard in sharding.put_batch(rows, mesh).addressable_shards))
# Many programs with collectives that do not depend on each other: all in flight, they would deadlock.
state = [sharding.put_batch(np.full((64, 8), i), mesh) for i in range(100)]
print("digests", len(set(tree_digests(state))))
"""


def test_placement_of_arrays():
    code, out, err = processes.run(ON_A_MESH, devices=8)
    assert code == 0, err
    assert out.splitlines() == [
        "first does not divide None fsdp",
        "largest axis None fsdp",
        "nothing divides None None",
        "scalar",
        "small None None",
        "rows 0 2 4 6 8 10 12 14",
        "digests 100",
    ]


def test_fsdp_must_divide_the_devices():
    with pytest.raises(UserError, match=r"config\.mesh\.fsdp=2 does not divide the 1 devices found"):
        make_mesh(jax.devices()[:1], fsdp=2)


def test_one_device_shards_nothing():
    mesh = make_mesh(jax.devices()[:1])
    found = state_shardings({"w": jax.ShapeDtypeStruct((1024, 1024), np.float32)}, mesh)
    assert found["w"].spec == P(None, None)
    assert block_if_cpu_collectives({"x": jax.numpy.ones(3)})["x"].sum() == 3


class Device:
    """What `make_mesh` reads of a device of a TPU slice."""

    platform, device_kind, process_index = "cpu", "cpu", 0

    def __init__(self, number: int, slice_index: int):
        self.id, self.slice_index = number, slice_index


@pytest.mark.parametrize(
    "replica, fsdp, shape", [(-1, 1, (1, 1)), (1, -1, (1, 1)), (1, 1, (1, 1)), (-1, 4, (2, 4)), (2, -1, (2, 4))]
)
def test_sizes_of_the_mesh(replica, fsdp, shape):
    count = int(np.prod(shape))
    assert _sizes(count, replica, fsdp) == shape


@pytest.mark.parametrize(
    "replica, fsdp, message",
    [
        (-1, 3, "config.mesh.fsdp=3 does not divide the 8 devices found: set it to a divisor of 8"),
        (3, -1, "config.mesh.replica=3 does not divide the 8 devices found"),
        (2, 2, "config.mesh.replica=2 x config.mesh.fsdp=2 is not the 8 devices found"),
        (-1, -1, "one of them may be -1"),
        (0, 1, "must be at least 1"),
        (1, -2, "must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit(replica, fsdp, message):
    with pytest.raises(UserError, match=message):
        _sizes(8, replica, fsdp)


def test_parameters_are_gathered_inside_a_slice():
    devices = [Device(number, number // 4) for number in range(8)]
    mesh = make_mesh(devices, fsdp=2)
    assert mesh.shape == {"replica": 4, "fsdp": 2}
    assert all(len({device.slice_index for device in row}) == 1 for row in mesh.devices)
    with pytest.raises(UserError, match=r"config\.mesh\.fsdp=8 does not divide the 4 devices of each of the 2 slices"):
        make_mesh(devices, fsdp=8)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
@pytest.mark.parametrize("model", ["ViT-B/32", "RN50"])
def test_each_device_holds_its_part_of_parameters_and_moments(model, optimizer):
    """At most 1.1 / n of the whole: what is too small or too odd to be split is little."""
    config = get_config(model)
    config.optimizer.name = optimizer
    towers = build_towers(config.model, 49_408, 49_407)
    rule = make_optimizer(config.optimizer, lambda step: 1e-3)
    init = make_init(towers, build_objective(config.objective, RunInfo(100, 10)), rule)
    mesh = AbstractMesh((1, 8), ("replica", "fsdp"))
    state = abstract_state(init, jax.random.key(0), mesh)
    leaves = jax.tree.leaves([state["params"], state["opt_state"]])
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    part = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    assert 1 / 8 < part / whole < 1.1 / 8
