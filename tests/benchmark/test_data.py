"""`python -m rankclip_jax.benchmark data`: rows, generated tars, invalid flags."""

import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.benchmark import noise_tars, runner, webdataset_reference
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.webdataset import open_pairs
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from tests.benchmark.test_step import PROGRAM
from tests.support import processes


def test_rows_of_a_real_run(tmp_path):
    file = tmp_path / "rows.json"
    given = ("--loaders=rankclip_jax", "--pairs=40", "--batch=8", "--batches=2", "--rounds=2", "--pixels=32-40")
    code, out, err = processes.run(PROGRAM, "data", *given, "--image_size=24", f"--json={file}", seconds=120)
    assert code == 0, err
    (row,) = json.loads(file.read_text())
    assert row | {"benchmark": "data", "case": "rankclip_jax", "pairs": 40, "batch": 8, "workers": 2} == row
    assert len(row["seconds_all"]) == 2 and row["ratio"] == 1
    assert row["pairs_per_second"] == pytest.approx(16 / row["seconds"])
    assert out.startswith("batches: pairs 40, batch 8, ") and runner.cell(row["pairs_per_second"], 1) in out


def test_tars_of_noise(tmp_path):
    location = noise_tars.write_tars(tmp_path, 41, (64, 96))
    pairs = open_pairs(locations.expand(location), PairOptions())
    assert len(pairs) == 41 and len({pairs.key(i) for i in range(41)}) == 41
    sizes = np.array([Image.open(io.BytesIO(pairs.image_bytes(i))).size for i in range(41)])
    assert sizes.min() >= 64 and sizes.max() <= 96 and len(np.unique(sizes)) > 10
    again = tmp_path / "again"
    again.mkdir()
    noise_tars.write_tars(again, 41, (64, 96))
    assert all((again / name).read_bytes() == (tmp_path / name).read_bytes() for name in os.listdir(again))


@pytest.mark.parametrize("text", ["", "256x256", "384-256", "4-5", "-256"])
def test_invalid_sides(text):
    with pytest.raises(UserError, match="expected the lowest and the highest side, such as 256-384"):
        noise_tars.read_sides(text)


def test_the_reference_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[webdataset\]', or use --loaders=rankclip_jax"):
        webdataset_reference.import_both()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loaders=ours",), "unknown loader 'ours'"),
        (("--tars=/none/*.tar",), "no file at /none/*.tar"),
        (("--pixels=9-8",), "--pixels=9-8: expected the lowest"),
        (("more",), "unexpected argument 'more'"),
        (("--json=/none/x.json",), "no writable folder"),
    ],
)
def test_mistakes(arguments, message):
    code, out, err = processes.run(PROGRAM, "data", *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
