"""The train step compiled for TPUs, on a machine that has none; skipped where libtpu is not installed."""

import importlib.util
import json
import math

import pytest

from rankclip_jax.plan.hlo import parse
from tests.support import processes
from tests.support.programs import batch_arrays, gathered

BATCH, ROWS = 256, 64
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu: pip install -e '.[tpu]'"),
]


def test_the_loss_stays_split_by_rows(tmp_path):
    flags = ("--config=configs/emoji.py:mu", "--topology=v5e:2x2", f"--config.batch_size={BATCH}")
    outputs = (f"--out={tmp_path / 'plan.json'}", f"--hlo={tmp_path / 'hlo'}")
    command = ("-m", "rankclip_jax.plan", *flags, "--config.objective.block_rows=16", *outputs)
    process = processes.start_python(*command)
    code, _, err = processes.finish(process, seconds=600)
    assert code == 0, err
    (result,) = json.loads((tmp_path / "plan.json").read_text())
    (program,) = (parse(path.read_text()) for path in (tmp_path / "hlo").iterdir())
    # Both directions of a block of 16 rows are 32 rows; a device has 64.
    assert batch_arrays(program, rows=33, batch=BATCH) == []
    assert [math.prod(dims) for _, dims in gathered(program).elements()] == [BATCH * 16] * 2
    assert result["fits"] and result["hbm_bytes"] == 16 * 2**30
    assert 0 < result["roofline"]["seconds"] < result["compiler"]["seconds"]
