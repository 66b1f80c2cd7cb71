"""Pairs of img2dataset's tars: content, order, and reports of damaged tars."""

import json
import logging
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import webdataset
from rankclip_jax.data.sources.webdataset import open_pairs
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from tests.support.pair_files import load
from tests.support.tar_files import sample, write_shards, write_tar

JSON = PairOptions(caption_key="json.caption")


def by_tarfile(files):
    """(image, caption) of complete samples, in order. A sample is neighbours of one key, as for webdataset."""
    pairs = []
    for file in files:
        with tarfile.open(file) as tar:
            found, last = [], None
            for member in tar:
                key, _, extension = member.name.partition(".")
                if key != last:
                    found.append({})
                    last = key
                found[-1][extension] = tar.extractfile(member).read()
        pairs += [(one["jpg"], (one["txt"].decode(),)) for one in found if {"jpg", "txt"} <= one.keys()]
    return pairs


def read(pairs):
    return [(pairs.image_bytes(i), pairs.captions(i)) for i in range(len(pairs))]


def test_pairs_are_in_the_order_of_the_tars(tmp_path):
    files = write_shards(tmp_path, [7, 1, 12])
    pairs = open_pairs(files, PairOptions())
    assert read(pairs) == by_tarfile(files) and len(pairs) == 20
    assert [pairs.key(i) for i in (0, 7, 19)] == [
        "00000.tar/000000000.jpg",
        "00001.tar/000000007.jpg",
        "00002.tar/000000019.jpg",
    ]
    assert read(open_pairs(files[::-1], PairOptions())) == by_tarfile(files[::-1])
    for index in (-1, 20):
        with pytest.raises(IndexError):
            pairs.image_bytes(index)


def test_captions_from_members_and_from_fields(tmp_path):
    files = write_shards(tmp_path, [3])
    assert open_pairs(files, JSON).captions(2) == ("number 2",)
    assert open_pairs(files, PairOptions(caption_key=".TXT", image_key=".JPG")).captions(2) == ("number 2",)
    both = open_pairs(files, PairOptions(second_caption_key="json.other.long"))
    assert both.captions(1) == ("number 1",) and both.second_captions(1) == ("the image 1", "it")
    same = open_pairs(files, PairOptions(caption_key="json.other.long", second_caption_key="json.caption"))
    assert same.captions(1) == ("the image 1", "it") and same.second_captions(1) == ("number 1",)
    assert not open_pairs(files, PairOptions()).has_second_captions


def test_images_of_one_extension(tmp_path):
    members = [("a.seg.png", b"mask"), ("a.jpg", b"jpg"), ("a.png", b"png"), ("a.txt", b"x")]
    file = [str(write_tar(tmp_path / "0.tar", members))]
    for image_key, expected in (("", b"jpg"), ("png", b"png"), ("seg.png", b"mask")):
        assert open_pairs(file, PairOptions(image_key=image_key)).image_bytes(0) == expected


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (b"{", "Expecting property name"),
        (b'{"title": "x", "url": "y"}', "no field caption in the json member: found title, url"),
        (b"[1]", "it is not an object"),
        (b'{"caption": null}', "caption in the json member is not text: None"),
        (b'{"caption": []}', "is not text"),
        (b'{"caption": ["a", 3]}', "is not text"),
        (b"\xff\xff", "codec can't decode"),
    ],
)
def test_an_unreadable_caption_is_one_bad_record(tmp_path, about, message):
    good = b'{"caption": "good"}'
    members = [
        (f"{key}.{part}", data)
        for key, text in (("a", about), ("b", good))
        for part, data in (("jpg", b""), ("json", text))
    ]
    pairs = open_pairs([str(write_tar(tmp_path / "0.tar", members))], JSON)
    with pytest.raises(Exception, match=message):
        pairs.captions(0)
    assert pairs.captions(1) == ("good",)


def test_text_that_is_not_utf_8(tmp_path):
    pairs = open_pairs(
        [str(write_tar(tmp_path / "0.tar", [("a.jpg", b""), ("a.txt", "é".encode("latin-1"))]))], PairOptions()
    )
    with pytest.raises(UnicodeDecodeError):
        pairs.captions(0)


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_keys_from_all_kinds_of_headers(tmp_path, format_):
    names = [
        "./a/b.c/0",
        "1",
        "d" * 60 + "/" + "e" * 60,
        *(["f" * 150, "é" * 70] if format_ != tarfile.USTAR_FORMAT else []),
    ]
    file = write_tar(
        tmp_path / "0.tar", [(f"{name}.{e}", e.encode()) for name in names for e in ("jpg", "txt")], format_
    )
    pairs = open_pairs([str(file)], PairOptions())
    assert [pairs.key(i) for i in range(len(pairs))] == [f"0.tar/{name}.jpg" for name in names]
    assert read(pairs) == [(b"jpg", ("txt",))] * len(names)


def test_keys_contain_the_folder(tmp_path):
    files = write_shards(tmp_path / "a", [1]) + write_shards(tmp_path / "b" / "c", [1])
    pairs = open_pairs(files, PairOptions())
    assert [pairs.key(0), pairs.key(1)] == ["a/00000.tar/000000000.jpg", "b/c/00000.tar/000000000.jpg"]


def test_pairs_are_found_by_key(tmp_path):
    """Keys of other data sets are ignored, as in a quarantine list."""
    files = write_shards(tmp_path, [50, 60, 70])
    pairs = open_pairs(files, PairOptions())
    chosen = [3, 49, 50, 109, 110, 179]
    others = ["00000.tar/000000050.jpg", "00009.tar/000000003.jpg", "pairs.csv/3", "", "00001.tar", "é/\ud800"[:2]]
    np.testing.assert_array_equal(pairs.find([*map(pairs.key, chosen), *others]), chosen)
    assert pairs.find([]).tolist() == []


def test_the_digest_covers_the_pairs(tmp_path):
    write_shards(tmp_path / "a", [5, 6])
    moved = write_shards(tmp_path / "b", [5, 6])
    files = write_shards(tmp_path / "a", [5, 6])  # again: other times, the same pairs
    digest = open_pairs(files, PairOptions()).digest()
    assert open_pairs(moved, PairOptions()).digest() == digest
    assert open_pairs(moved, PairOptions(index_dir=str(tmp_path / "i"))).digest() == digest
    others = [open_pairs(files[::-1], PairOptions()), open_pairs(files[:1], PairOptions()), open_pairs(files, JSON)]
    write_tar(Path(moved[0]), [member for number in range(1, 6) for member in sample(number)])
    others.append(open_pairs(moved, PairOptions()))
    others.append(open_pairs(files, PairOptions(caption_key="json.other.long")))
    assert len({digest, *(other.digest() for other in others)}) == 6


def test_threads_read_the_same_pairs(tmp_path):
    files = write_shards(tmp_path, [40, 40, 40])
    pairs, expected, wrong = open_pairs(files, PairOptions()), by_tarfile(files), []

    def check(seed):
        for index in np.random.default_rng(seed).integers(0, 120, 400).tolist():
            if (pairs.image_bytes(index), pairs.captions(index)) != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---------------------------------------------------------------- damaged tars


def messy(folder):
    """Four shards: complete, cut off, empty, with an incomplete and a repeated sample. Two numbers are missing."""
    files = write_shards(folder, [4, 4])
    with tarfile.open(files[1]) as tar:
        cut = tar.getmember("000000007.json").offset_data + 10
    os.truncate(files[1], cut)
    write_tar(folder / "00002.tar", [])
    write_tar(folder / "00005.tar", [*sample(8), *sample(9)[:1], *sample(8), *sample(10)])
    return locations.expand(str(folder / "*.tar"))


def test_problems_are_logged_and_the_rest_is_used(tmp_path, caplog):
    files = messy(tmp_path)
    with caplog.at_level(logging.WARNING):
        pairs = open_pairs(files, PairOptions())
    captions = [pairs.captions(i)[0] for i in range(len(pairs))]
    assert captions == [f"number {i}" for i in (0, 1, 2, 3, 4, 5, 6, 8, 10)]
    cut = f"{os.path.getsize(files[1]):,}"
    assert [record.message for record in caplog.records] == [
        f"1 of 4 shards have problems; the pairs before the problem are used: 00001.tar (cut off at byte {cut})",
        "2 shard numbers are missing: 00003.tar, 00004.tar",
        "2 samples without image or caption are skipped, in 00001.tar, 00005.tar",
        "2 members with a repeated name are skipped, in 00005.tar",
    ]


def test_the_table_of_the_index_command(tmp_path):
    table = webdataset.index(messy(tmp_path), PairOptions())
    rows = dict(line.rsplit(None, 1) for line in table.splitlines()[:11] if "per pair" not in line)
    assert rows["shards"] == "4" and rows["pairs"] == "9" and rows["shards without pairs"] == "1"
    assert rows["incomplete samples, skipped"] == "2" and rows["missing shard numbers"] == "2"
    assert rows["shards with problems"] == "1"
    assert rows["members with a repeated name, skipped"] == "2"
    assert "(28 per pair)" in table and f"index: {tmp_path}" in table and "00003.tar, 00004.tar" in table


@pytest.mark.parametrize("name", ["0.tar.gz", "0.tgz", "0.TAR.GZ", "0.tar.zst"])
def test_compressed_files_are_refused_by_their_names(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="compressed and has no random access: decompress it, as in gunzip FILE"):
        open_pairs([str(tmp_path / name)], PairOptions())


def test_no_pairs_at_all(tmp_path):
    file = write_tar(tmp_path / "0.tar", [("a.jpg", b""), ("a.json", b"{}"), ("a.tif", b"")])
    with pytest.raises(UserError, match="has an image and txt: its members are jpg, json, tif; set") as caught:
        open_pairs([str(file)], PairOptions())
    assert "\n" not in str(caught.value)
    Path(tmp_path / "1.tar").touch()
    with pytest.raises(UserError, match="its members are none"):
        open_pairs([str(tmp_path / "1.tar")], PairOptions())


# ---------------------------------------------------------------- from options


def test_a_data_set_of_tars(tmp_path):
    write_shards(tmp_path / "cc3m", [30, 30])
    options = {"val_pairs": 10, "second_caption_key": "json.other.long"}
    dataset = load("webdataset", tmp_path, train="cc3m/{00000..00001}.tar", **options)
    assert dataset.counts == {"train": 50, "val": 10}
    assert dataset.train[3].second_captions[1] == "it" and dataset.train[3].image.size == (16, 16)
    folder = load("webdataset", tmp_path, train="cc3m", index_dir=str(tmp_path / "i"))
    assert len(folder.train) == 60 and (tmp_path / "i").is_dir()


def test_a_quarantine_list_leaves_pairs_out(tmp_path):
    write_shards(tmp_path / "d", [30, 30], broken=(7, 31))
    keys = ["00000.tar/000000007.jpg", "00001.tar/000000031.jpg"]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps({"key": key, "reason": "truncated"}) + "\n" for key in keys))
    dataset = load("webdataset", tmp_path, train="d/*.tar", quarantine=str(tmp_path / "bad.jsonl"))
    assert len(dataset.train) == 58
    assert [dataset.train[i].captions[0] for i in (6, 7, 29, 30)] == ["number 6", "number 8", "number 30", "number 32"]


@pytest.mark.parametrize("extension", ["jfif", "JPE", "jp2", "heic", "gif", "bmp", "tif", "TIFF", "avif", "webp"])
def test_images_of_any_format(tmp_path, extension):
    """The same list as for folders; a JPEG is preferred."""
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / f"a.{extension}").write_bytes(b"image")
    (tmp_path / "flat" / "a.txt").write_text("a caption")
    write_tar(tmp_path / "0.tar", [(f"a.{extension}", b"image"), ("a.txt", b"a caption")])
    write_tar(tmp_path / "1.tar", [(f"a.{extension}", b"image"), ("a.jpg", b"jpeg"), ("a.txt", b"a caption")])
    for name, location in (("webdataset", "0.tar"), ("image_folder", "flat")):
        pairs = load(name, tmp_path, train=location).train.pairs
        assert pairs.image_bytes(0) == b"image" and pairs.captions(0) == ("a caption",)
    assert load("webdataset", tmp_path, train="1.tar").train.pairs.image_bytes(0) == b"jpeg"
