"""Configurations, splits and shards by the names of files, as Hugging Face `datasets` and Spark write them."""

import pytest

from rankclip_jax.data.sources.hub_names import choose_shards, find_shards
from rankclip_jax.errors import UserError

HASH, OTHER = "8b7d2d5f1a7a4b0c", "0f7d2d5f1a7a4b0c"
UUID = "a5835434-5909-4f72-a89e-2fc1d17efc62"
LONG = "0123456789abcdef" * 4


def counts(*names):
    return {"/".join(filter(None, key)): len(files) for key, files in find_shards(names, "").items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"data/train-0000{i}-of-00002-{h}.parquet" for i, h in enumerate((HASH, OTHER))], {"train": 2}),
        ([f"data/{s}-00000-of-00001-{HASH}.parquet" for s in ("train", "test")], {"train": 1, "test": 1}),
        ([f"part-0000{i}-{UUID}-c000.snappy.parquet" for i in range(3)], {"train": 3}),
        ([f"part-0000{i}-{UUID}.c000.zstd.parquet" for i in range(3)], {"train": 3}),
        (["part.0.parquet", "part.1.parquet"], {"train": 2}),
        (["x-train-00000-of-00002.arrow", "x-train-00001-of-00002.arrow", f"cache-{HASH}.arrow"], {"train": 2}),
        ([f"cache-{HASH}_0000{i}_of_00002.arrow" for i in range(2)], {f"cache-{HASH}": 2}),
        ([f"default/0.0.0/{LONG}/x-{s}.arrow" for s in ("train", "validation")], {"train": 1, "validation": 1}),
        (["train.parquet", "train-1.parquet", "valid.parquet"], {"train": 2, "valid": 1}),
        (["train/0000.parquet", "train/0001.parquet", "val/0000.parquet"], {"train": 2, "val": 1}),
        (["000.parquet", "001.parquet"], {"train": 2}),
        (["test_a-00000-of-00001.parquet", "test_b-00000-of-00001.parquet"], {"test_a": 1, "test_b": 1}),
        (["cc3m-00000-of-00002.parquet", "cc3m-00001-of-00002.parquet"], {"cc3m": 2}),
        (["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"], {"train": 2}),
        # several configurations
        (["de/train-0.parquet", "en/train-0.parquet", "en/test.parquet"], {"de/train": 1, "en/train": 1, "en/test": 1}),
        (["en/train/0000.parquet", "de/train/0000.parquet"], {"en/train": 1, "de/train": 1}),
        (["x/en-train-00000-of-00001.parquet", "x/de-train-00000-of-00001.parquet"], {"en/train": 1, "de/train": 1}),
        (["train-0.parquet", "mini/train-0.parquet"], {"train": 1, "mini/train": 1}),
        (["lang=en/part-0.parquet", "lang=de/part-0.parquet"], {"lang=en/train": 1, "lang=de/train": 1}),
    ],
)  # fmt: skip
def test_files_by_configuration_and_split(names, expected):
    assert counts(*names) == expected


def test_a_configuration_is_named(tmp_path):
    found = find_shards(["de/train-0.parquet", "en/train-0.parquet", "en/test-0.parquet"], "")
    assert choose_shards(found, "de", "X") == choose_shards(found, "de/train", "X") == ["de/train-0.parquet"]
    assert choose_shards(found, "test", "X") == ["en/test-0.parquet"]
    known = "Known: de/train, en/train, en/test."
    for wanted in ("", "train", "en"):
        with pytest.raises(UserError, match=f"X holds several configurations: name one, as in X#.*{known}"):
            choose_shards(found, wanted, "X")
    with pytest.raises(UserError, match=f"unknown split of X 'fr'.*{known}"):
        choose_shards(found, "fr", "X")


def test_missing_and_old_shards_are_reported(caplog):
    choose_shards(find_shards(["train-00000-of-00003.parquet"], ""), "", "X")
    assert "X: 2 shards of 3 are missing: is the download complete?" in caplog.text
    names = [f"train-{number:05d}-of-{total:05d}.parquet" for total in (1, 2) for number in range(total)]
    choose_shards(find_shards(names, ""), "", "X")
    assert "X: shards of several versions, of [1, 2] files: delete the old ones" in caplog.text
