"""`python -m rankclip_jax.benchmark billions`: a synthetic index of any size. Full size: `slow`."""

import json

import pytest

from rankclip_jax.benchmark import billions
from rankclip_jax.errors import UserError
from tests.benchmark.test_step import PROGRAM
from tests.support import processes


def measured(tmp_path, *given, seconds=120):
    file = tmp_path / "rows.json"
    code, _, err = processes.run(PROGRAM, "billions", *given, f"--json={file}", seconds=seconds)
    assert code == 0, err
    (row,) = json.loads(file.read_text())
    assert (row["bad_records"], row["resumes"], row["same_batches"]) == (0, "yes", "yes")
    return row


def test_more_pairs_than_32_bits_have(tmp_path):
    """5 billion pairs in 2,000 tars: 140 GB of index, of which the pairs of some batches are on the disk."""
    given = ("--pairs=5000000000", "--shards=2000", "--batch=32", "--val_pairs=40", "--train_limit=4500000000")
    row = measured(tmp_path, *given, "--processes=4")
    assert row["seconds_to_open"] + row["seconds_to_first"] < 10 and row["peak_mib"] < 1024
    assert row["requests"] <= 1000 + 40 + 2  # a sample of the stamps, the held-out captions


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 400_000_000])
def test_two_billion_pairs_in_200_000_tars(tmp_path, limit):
    row = measured(tmp_path, f"--train_limit={limit}", seconds=600)
    assert (row["pairs"], row["shards"], row["processes"]) == (2_000_000_000, 200_000, 64)
    assert row["seconds_to_open"] < 30 and row["seconds_to_first"] < 10 and row["peak_mib"] < 1024


def test_shards_of_unequal_size_are_refused():
    class Chosen:
        pairs, shards = 1001, 10

    with pytest.raises(UserError, match="--pairs=1001 is no multiple of --shards=10"):
        next(billions.groups(Chosen()))
