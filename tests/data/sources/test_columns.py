"""Pairs in Parquet files and in folders of Hugging Face `datasets`: random access, bounded memory, threads."""

import itertools
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import huggingface, parquet
from rankclip_jax.data.sources.parquet import ParquetCells
from rankclip_jax.errors import UserError
from tests.support.pair_files import COUNT, caption, jpeg, write_images, write_parquet, write_saved_dataset

BYTES = [jpeg(i) for i in range(COUNT)]
TEXTS = [caption(i) for i in range(COUNT)]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
NAMES = {
    "info": {"features": {"label": {"names": ["red_fox", "cat"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}}
}


def open_parquet(*files, **options):
    return parquet.open_pairs([str(file) for file in files], PairOptions(**options))


def open_folder(folder, **options):
    return huggingface.open_pairs([str(folder)], PairOptions(**options))


def check_all(pairs):
    """Compare every pair, in an order that jumps between row groups."""
    assert len(pairs) == COUNT
    for index in np.random.default_rng(0).permutation(COUNT).tolist():
        assert pairs.image_bytes(index) == BYTES[index] and pairs.captions(index) == (TEXTS[index],)
    assert len({pairs.key(index) for index in range(COUNT)}) == COUNT


# ---------------------------------------------------------------- Parquet


@pytest.mark.parametrize("group", [1, 5, 100])
def test_images_in_row_groups(tmp_path, group):
    check_all(open_parquet(write_parquet(tmp_path / "a.parquet", {"jpg": BYTES, "caption": TEXTS}, group)))


def test_several_files_are_one(tmp_path):
    cuts = (0, 7, 7, 20, COUNT)  # one of them is empty
    files = [
        write_parquet(
            tmp_path / f"{a}-{b}.parquet",
            {"image": pa.array(BYTES[a:b], pa.binary()), "text": pa.array(TEXTS[a:b], pa.string())},
        )
        for a, b in itertools.pairwise(cuts)
    ]
    pairs = open_parquet(*files)
    check_all(pairs)
    assert pairs.key(7) == "7-20.parquet:0"
    other = write_parquet(tmp_path / "other.parquet", {"photo": BYTES, "text": TEXTS})
    with pytest.raises(UserError, match=r"other.parquet has columns \['photo', 'text'\], .* has \['image', 'text'\]"):
        open_parquet(files[0], other)


def test_structs_of_bytes_or_paths(tmp_path):
    names = write_images(tmp_path)
    cells = [{"bytes": BYTES[i], "path": "x"} if i % 2 else {"bytes": None, "path": names[i]} for i in range(COUNT)]
    check_all(open_parquet(write_parquet(tmp_path / "a.parquet", {"image": pa.array(cells, STRUCT), "text": TEXTS})))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_columns_of_paths_are_a_table(tmp_path, kind):
    """Rows of one image are its captions."""
    names = write_images(tmp_path)
    columns = {"path": pa.array(names, pa.string()).cast(kind), "text": pa.array(TEXTS, pa.string()).cast(kind)}
    pairs = open_parquet(write_parquet(tmp_path / "a.parquet", columns))
    check_all(pairs)
    assert pairs.key(3) == names[3]
    lists = {"path": ["a", "b", "a"], "text": [["1", "2"], [], ["3"]], "blip": [["x"], ["y"], ["z"]]}
    pairs = open_parquet(write_parquet(tmp_path / "b.parquet", lists), second_caption_key="blip")
    assert pairs.captions(0) == ("1", "2", "3") and pairs.second_captions(0) == ("x", "z")
    with pytest.raises(ValueError, match="missing or empty"):
        pairs.captions(1)


def test_lists_of_captions_and_second_captions(tmp_path):
    columns = {"jpg": BYTES[:2], "txt": [["one", None, " "], ["two", "three"]], "alt": ["x", None]}
    file = write_parquet(tmp_path / "a.parquet", columns)
    assert not open_parquet(file).has_second_captions
    pairs = open_parquet(file, second_caption_key="alt")
    assert (pairs.captions(0), pairs.captions(1), pairs.second_captions(0)) == (("one",), ("two", "three"), ("x",))
    with pytest.raises(ValueError, match="missing or empty"):
        pairs.second_captions(1)


def test_classes_of_hugging_face(tmp_path):
    metadata = {"huggingface": json.dumps(NAMES)}
    file = write_parquet(tmp_path / "a.parquet", {"image": BYTES[:3], "label": [1, 0, -1]}, metadata=metadata)
    pairs = open_parquet(file, templates=("a {}.", "the {}"))
    assert pairs.class_names == ("red fox", "cat")
    assert pairs.label(0) == 1 and pairs.captions(1) == ("a red fox.", "the red fox")
    with pytest.raises(ValueError, match="label -1 is invalid for 2 classes"):
        pairs.captions(2)
    assert pairs.digest() != open_parquet(file, templates=("{}",)).digest()


def test_a_bad_cell_is_one_bad_record(tmp_path):
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 5, 6], np.int32)), pa.py_buffer(b"acaf\xe9c")]
    )
    pairs = open_parquet(write_parquet(tmp_path / "a.parquet", {"jpg": [BYTES[0], None, b""], "txt": texts}))
    assert pairs.captions(0) == ("a",) and pairs.captions(2) == ("c",) and pairs.image_bytes(0) == BYTES[0]
    with pytest.raises(UnicodeDecodeError):
        pairs.captions(1)
    with pytest.raises(ValueError, match="image is missing"):
        pairs.image_bytes(1)


def test_few_groups_are_in_memory(tmp_path, caplog):
    """8 threads read groups of 100 kB through a cache of 250 kB: at most two groups are kept."""
    images = [np.random.default_rng(i).bytes(20_000) for i in range(100)]
    file = write_parquet(tmp_path / "a.parquet", {"jpg": images, "txt": [str(i) for i in range(100)]})
    cells = ParquetCells([str(file)], cache_bytes=250_000)
    before, worst, wrong = pa.total_allocated_bytes(), [0], []

    def read(seed):
        for index in np.random.default_rng(seed).integers(0, 100, 100):
            if cells.large_cell("jpg", int(index)) != images[index]:
                wrong.append(index)
            worst[0] = max(worst[0], sum(values.nbytes for values in list(cells._recent.values())))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and worst[0] < 350_000
    assert pa.total_allocated_bytes() - before < 500_000
    assert "convert" not in caplog.text  # these are small


def test_a_warning_if_each_image_reads_a_large_group(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(parquet, "LARGE_GROUP", 50_000)
    images = [np.random.default_rng(i).bytes(20_000) for i in range(20)]
    file = write_parquet(tmp_path / "a.parquet", {"jpg": images, "txt": ["x"] * 20})
    cells = ParquetCells([str(file)], cache_bytes=250_000)
    for index in (0, 19, 7):
        cells.large_cell("jpg", index)
    assert caplog.text.count("each image drawn at random reads a row group of 0 MB. Convert the files once") == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [], "text": []}, "has no rows"),
        ({"image": [b"x"], "label": [1]}, "no column has a usual name for captions.* Columns found: 'image', 'label'"),
        ({"image": [[1, 2]], "text": ["x"]}, "image column 'image' holds list<.*>; it must hold encoded bytes"),
        ({"image": [b"x"], "text": [3]}, "caption column 'text' holds int64; it must hold texts"),
        ({"url": ["x"], "text": ["x"]}, "no column has a usual name for images.* Columns found: 'url', 'text'"),
    ],
)
def test_invalid_columns(tmp_path, columns, message):
    with pytest.raises(UserError, match=message) as caught:
        open_parquet(write_parquet(tmp_path / "a.parquet", columns))
    assert "\n" not in str(caught.value)


def test_invalid_files(tmp_path):
    whole = write_parquet(tmp_path / "a.parquet", {"image": BYTES, "text": TEXTS}).read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"x" * 100):
        (tmp_path / "broken.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*broken.parquet as Parquet .*: is it complete"):
            open_parquet(tmp_path / "broken.parquet")
    with pytest.raises(UserError, match="cannot read"):
        open_parquet(tmp_path / "none.parquet")


def test_a_damaged_group_is_bad_records(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", {"image": BYTES, "text": TEXTS})
    pairs = open_parquet(file)
    start = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(Exception, match=r"."):
        pairs.image_bytes(7)
    assert pairs.image_bytes(0) == BYTES[0] and pairs.image_bytes(20) == BYTES[20] and pairs.captions(7) == (TEXTS[7],)


def test_digests_differ_between_files(tmp_path):
    digests = {
        open_parquet(write_parquet(tmp_path / "a.parquet", {"image": images, "text": texts})).digest()
        for images, texts in ((BYTES, TEXTS), (BYTES[:-1], TEXTS[:-1]), (BYTES, ["other", *TEXTS[1:]]))
    }
    assert len(digests) == 3


# ---------------------------------------------------------------- folders of `datasets`


def test_a_folder_of_save_to_disk(tmp_path):
    folder = write_saved_dataset(tmp_path / "saved", range(COUNT))
    pairs = open_folder(folder)
    check_all(pairs)
    assert pairs.key(10) == "data-00001-of-00002.arrow:0"
    check_all(open_folder(folder / "train"))  # as Dataset.save_to_disk leaves it
    (folder / "train" / "data-00002-of-00003.arrow").write_bytes(b"left from an earlier, longer one")
    check_all(open_folder(folder, split="train"))
    write_saved_dataset(folder, range(12), split="test")
    assert len(open_folder(folder, split="test")) == 12
    with pytest.raises(UserError, match=r"holds several splits: name one, as in .*#test. Known: test, train"):
        open_folder(folder)
    with pytest.raises(UserError, match=r"unknown split of .*'trian'. Did you mean 'train'\?"):
        open_folder(folder, split="trian")


@pytest.mark.parametrize("layout", ["data/{}-{:05d}-of-00002.parquet", "default/{}/{:04d}.parquet"])
def test_a_folder_of_the_hub(tmp_path, layout):
    for split, cuts in (("train", (0, 10, COUNT)), ("test", (0, 3, 7))):
        for shard, (a, b) in enumerate(itertools.pairwise(cuts)):
            file = tmp_path / layout.format(split, shard)
            file.parent.mkdir(parents=True, exist_ok=True)
            images = pa.array([{"bytes": data, "path": None} for data in BYTES[a:b]], STRUCT)
            write_parquet(file, {"image": images, "text": TEXTS[a:b]})
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train-00001-of-00002.parquet").write_bytes(b"ignored")
    check_all(open_folder(tmp_path, split="train"))
    assert len(open_folder(tmp_path, split="test")) == 7
    with pytest.raises(UserError, match=r"Known: (test, train|train, test)\."):
        open_folder(tmp_path)


def test_files_named_as_their_split(tmp_path):
    write_parquet(tmp_path / "train.parquet", {"image": BYTES, "text": TEXTS})
    check_all(open_folder(tmp_path))
    check_all(open_folder(tmp_path, split="train"))


def test_invalid_folders(tmp_path):
    with pytest.raises(UserError, match=r"no .arrow or .parquet files or images in"):
        open_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not one local folder"):
        open_folder(tmp_path / "file")
    folder = write_saved_dataset(tmp_path / "saved", range(COUNT))
    shard = folder / "train" / "data-00001-of-00002.arrow"
    content = shard.read_bytes()
    for broken in (b"", content[:50], b"x" * 1000):
        shard.write_bytes(broken)
        with pytest.raises(UserError, match=r"cannot read .*00001-of-00002.arrow as Arrow"):
            open_folder(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"cannot read .*00001-of-00002.arrow as Arrow"):
        open_folder(folder)
    (folder / "train" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state.json is damaged"):
        open_folder(folder)
