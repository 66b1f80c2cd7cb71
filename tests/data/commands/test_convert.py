"""`python -m rankclip_jax.data convert`: the same pairs, in the same order, from any format."""

import pytest

from tests.support import processes
from tests.support.pair_files import COUNT, caption, jpeg, load, write_all, write_csv, write_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert")
    write_all(folder)
    return folder


def convert(*flags):
    command = ("-m", "rankclip_jax.data", "convert", "--config=configs/emoji.py:mu", "--config.data.train_limit=0")
    return processes.finish(processes.start_python(*command, *flags))


def opened(root, **data):
    return load("arrayrecord", root, **data).train


def test_pairs_of_two_locations(folder, tmp_path):
    """One of them in several files; bad and quarantined pairs are skipped and reported."""
    rows = [(f"pics/{number:03d}.jpg", caption(number)) for number in range(COUNT)] + [("none.jpg", "no image")]
    write_csv(folder, rows, name="broken.csv")
    bad = write_jsonl(tmp_path, [{"key": "pics/002.jpg", "reason": "x"}], "quarantine.jsonl")
    flags = (
        f"--config.data.root={folder}",
        "--config.data.name=csv",
        "--config.data.train=0.5 broken.csv | 0.5 parquet:pairs.parquet",
        f"--config.data.quarantine={bad}",
        f"--out={tmp_path}/out",
        "--shard_pairs=10",
    )
    code, out, err = convert(*flags)
    assert code == 0, err
    assert "skipped broken.csv:none.jpg: FileNotFoundError" in out
    assert (
        f"23 of 25 pairs in 3 files: --config.data.name=arrayrecord --config.data.train='{tmp_path}/out/train_1-" in out
    )
    first, second = (opened(tmp_path / "out", train=f"train_{number}-*.array_record") for number in (1, 2))
    numbers = [number for number in range(COUNT) if number != 2]
    assert [first.pairs.image_bytes(i) for i in range(23)] == [jpeg(number) for number in numbers]
    assert [first.captions(i) for i in range(23)] == [(caption(number),) for number in numbers]
    assert first.key(2) == "broken.csv:pics/003.jpg" and len(second) == COUNT
    code, _, err = convert(*flags)
    assert code == 2 and "holds train_1-00000.array_record already" in err and len(err.splitlines()) == 1
