"""The plan command, on eight CPU devices and with mistakes."""

import json

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.models.flops import train_flops
from rankclip_jax.models.presets import get_preset
from rankclip_jax.plan.hlo import parse
from rankclip_jax.plan.step import bytes_needed
from tests.support import commands, processes
from tests.support.programs import batch_arrays, gathered

BATCH, DEVICES = 512, 8
ROWS = BATCH // DEVICES  # of one device
CONFIG = "--config=configs/emoji.py:mu"


def plan(tmp_path, *flags):
    """The results of a plan on eight CPU devices, and the programs it compiled."""
    arguments = ("-m", "rankclip_jax.plan", CONFIG, "--topology=cpu:8", f"--batch_sizes={BATCH}")
    outputs = (f"--out={tmp_path / 'plan.json'}", f"--hlo={tmp_path / 'hlo'}")
    process = processes.start_python(*arguments, *outputs, *flags, devices=DEVICES)
    code, out, err = processes.finish(process, seconds=240)
    assert code == 0, err
    results = json.loads((tmp_path / "plan.json").read_text())
    return results, [parse(path.read_text()) for path in sorted((tmp_path / "hlo").iterdir())], out


def test_a_plan_for_eight_cpus(tmp_path):
    (result,), (program,), out = plan(tmp_path, "--fsdp=8", "--config.objective.block_rows=16")
    assert result["mesh"] == {"replica": 1, "fsdp": DEVICES}
    # The towers of 64 pairs, without the gradient of the images, and at most 20 products of 64 x 512 similarities.
    patches = 2 * 16 * (3 * 16 * 16) * 32
    towers = (train_flops(get_preset("mu")) - patches) * ROWS
    assert towers < result["flops"] < towers + 20 * 2 * ROWS * BATCH * 16
    memory = result["memory_bytes"]
    images = ROWS * 64 * 64 * 3
    assert images < memory["arguments"] < memory["total"] < 2**28
    assert "all-gather" in out and "per device" in out
    # The loss is split by rows: a block has 16 rows, and no array has half of the 64 rows of this device.
    assert batch_arrays(program, rows=ROWS // 2 + 1, batch=BATCH) == []
    # Two gathers of all embeddings, and one of the only parameter that is large enough to be split.
    assert gathered(program) == {("f32", (BATCH, 16)): 2, ("f32", (2048, 32)): 1}


def test_an_array_of_all_rows_of_a_device_is_seen():
    text = """ENTRY %main (p: f32[64,512]) -> f32[64,512] {
  %p = f32[64,512]{1,0} parameter(0)
  %on_the_chip = f32[512,512]{1,0:S(1)} exponential(%p)
  ROOT %e = f32[64,512]{1,0} exponential(%on_the_chip)
}
"""
    assert [shape.dims for shape in batch_arrays(parse(text), rows=64, batch=512)] == [(64, 512)]
    assert batch_arrays(parse(text), rows=65, batch=512) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topology=v5x:4x4"], "--topology=v5x:4x4: unknown. Known: cpu:8, v5e:4x4"),
        (["--topology=v5e"], "unknown. Known"),
        (["--topology=v5e:0x4"], "unknown. Known"),
        (["--topology=cpu:-1"], "unknown. Known"),
        (["--topology=v5e:4"], "v5e has 2 dimensions, such as v5e:4x4"),
        (["--topology=v5p:4x4"], "v5p has 3 dimensions, such as v5p:4x4x4"),
        (["--topology=v5e:32x16"], "at most 16x16 chips"),
        (["--topology=gpu:8"], "only with NVIDIA's plugin"),
        (["--topology=cpu:1", "--batch_sizes=8,many"], "--batch_sizes: 'many' is not a positive whole number"),
        (["--topology=cpu:1", "--fsdp=0"], "--fsdp: '0' is not a positive whole number"),
        (["--topology=cpu:1", "--objectives=clop"], "unknown objective 'clop'"),
        (["--topology=cpu:1", "--fsdp=3"], "config.mesh.fsdp=3"),
        ([], "--topology is required"),
    ],
)
def test_mistakes_are_one_line(capsys, flags, said):
    code, _, err = commands.run_module(capsys, "rankclip_jax.plan", CONFIG, *flags)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_missing_compiler_names_its_extra(capsys, monkeypatch):
    monkeypatch.setattr("rankclip_jax.plan.topology.find_spec", lambda name: None)
    code, _, err = commands.run_module(capsys, "rankclip_jax.plan", CONFIG, "--topology=v5e:4x4")
    assert (code, err.splitlines()) == (
        2,
        ["error: --topology=v5e:4x4 needs libtpu, the compiler for TPUs: pip install -e '.[tpu]'."],
    )


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm. Exceeded hbm capacity by 8.75G.",
        "Ran out of memory on HBM, the memory required for HLO temporaries (24.50G) exceeds available HBM (15.75G).",
    ],
)
def test_the_bytes_of_a_program_that_does_not_fit(message):
    assert bytes_needed(f"RESOURCE_EXHAUSTED: {message}") == 24.5 * 2**30


def test_another_failure_of_the_compiler_is_one_line():
    with pytest.raises(UserError, match="the compiler failed: INTERNAL: no such instruction"):
        bytes_needed("INTERNAL: no such instruction\n\nat line 3")
