"""ArrayRecord files in the documented layout, and TensorFlow Datasets without TensorFlow."""

import io
import subprocess
import sys

import msgpack
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from rankclip_jax.data.mixture import RedirectedPairs
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import array_record, tfds
from rankclip_jax.errors import UserError
from tests.support.pair_files import COUNT, caption, jpeg, write_array_record


def open_records(*files):
    return array_record.open_pairs([str(file) for file in files], PairOptions())


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record if isinstance(record, bytes) else msgpack.packb(record))
    writer.close()
    return path


# ---------------------------------------------------------------- ArrayRecord


def test_records_of_several_files(tmp_path):
    files = [write_array_record(tmp_path / "a", range(10)), write_array_record(tmp_path / "b", range(10, COUNT))]
    pairs = open_records(*files)
    assert len(pairs) == COUNT and not pairs.has_second_captions
    for index in (23, 0, 9, 10, 9):
        assert pairs.key(index) == f"k{index}" and pairs.captions(index) == (caption(index),)
        assert pairs.image_bytes(index) == jpeg(index)
    assert pairs.digest() != open_records(*files[:1]).digest()


class WithSecond(RedirectedPairs):
    has_second_captions = True

    def __init__(self, pairs):
        self._locate = lambda index: (pairs, index)

    def second_captions(self, index):
        return (f"second {index}", "more")


def test_written_records_have_the_layout(tmp_path):
    pairs = open_records(write_array_record(tmp_path / "a", range(COUNT)))
    pairs = WithSecond(pairs)
    records = (array_record.encode_pair(pairs, index) for index in (5, 3))
    assert array_record.write_records(tmp_path / "b", records) == 2
    reader = ArrayRecordReader(str(tmp_path / "b"))
    expected = {"key": "k5", "image": jpeg(5), "captions": [caption(5)], "second_captions": ["second 5", "more"]}
    assert msgpack.unpackb(reader.read([0])[0]) == expected
    again = open_records(tmp_path / "b")
    assert len(again) == 2 and again.second_captions(1) == ("second 3", "more") and again.image_bytes(1) == jpeg(3)


def test_a_bad_record_spoils_no_other(tmp_path):
    good = {"key": "a", "image": b"x", "captions": ["fine"]}
    bad = [{"key": "b", "image": b"x", "captions": []}, {"key": "c", "captions": ["d"]}, b"\xc1 no msgpack", [1]]
    pairs = open_records(write(tmp_path / "a", [good, *bad, good]))
    assert pairs.captions(0) == pairs.captions(5) == ("fine",)
    assert [pairs.key(i) for i in range(6)] == ["a", "b", "c", "record 3", "record 4", "a"]
    for index, error in ((1, ValueError), (3, Exception), (4, Exception)):
        with pytest.raises(error):
            pairs.captions(index)
    with pytest.raises(KeyError):
        pairs.image_bytes(2)
    raw = b"\x83\xa3key\xa1k\xa5image\xc4\x01x\xa8captions\x91\xa4caf\xe9"
    with pytest.raises(ValueError):
        open_records(write(tmp_path / "b", [good, raw])).captions(1)


def test_invalid_files(tmp_path):
    with pytest.raises(UserError, match="no local file at"):
        open_records(tmp_path / "none")
    with pytest.raises(UserError, match="no local file at https"):
        open_records("https://x.org/a.array_record")
    with pytest.raises(UserError, match="has no records"):
        open_records(write(tmp_path / "a", []))
    with pytest.raises(UserError, match="records need key, image, captions; found jpg, txt"):
        open_records(write(tmp_path / "a", [{"jpg": b"", "txt": ""}]))
    whole = write_array_record(tmp_path / "b", range(COUNT)).read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"x" * 70_000):
        (tmp_path / "c").write_bytes(broken)
        with pytest.raises(UserError, match=r"cannot read .* as ArrayRecord"):
            open_records(tmp_path / "c")


# ---------------------------------------------------------------- TensorFlow Datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two data sets prepared by the builders of TFDS: one with captions, one with classes."""
    import tensorflow_datasets as library

    class Small(library.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = library.core.Version("1.0.0")
        code_path = None  # there is no package with it

        def _info(self):
            features = {"image": library.features.Image(encoding_format="jpeg"), **self.texts()}
            return self.dataset_info_from_configs(features=library.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(20), "test": self._generate_examples(4)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"image": io.BytesIO(jpeg(number)), **self.values(number)}

    class Captioned(Small, skip_registration=True):
        name = "captioned"

        def texts(self):
            text = library.features.Text()
            return {"captions": library.features.Sequence(text), "other": text}

        def values(self, number):
            return {"captions": [caption(number), f"second of {number}"], "other": f"alt {number}"}

    class Classed(Small, skip_registration=True):
        name = "classed"

        def texts(self):
            return {"label": library.features.ClassLabel(names=["red_fox", "cat"])}

        def values(self, number):
            return {"label": number % 2}

    root = tmp_path_factory.mktemp("tfds")
    for kind in (Captioned, Classed):
        kind(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


def open_tfds(name, split="train", **options):
    return tfds.open_pairs([str(name)], PairOptions(split=split, **options))


def test_captions(prepared):
    pairs = open_tfds("captioned/1.0.0", root=str(prepared))
    assert len(pairs) == 20
    numbers = [int(pairs.captions(i)[1].split()[-1]) for i in range(20)]  # TFDS shuffles
    assert sorted(numbers) == list(range(20)) and numbers != sorted(numbers)
    for index, number in enumerate(numbers):
        assert pairs.image_bytes(index) == jpeg(number)  # the encoded bytes, not decoded
        assert pairs.captions(index) == (caption(number), f"second of {number}")
    second = open_tfds(prepared / "captioned/1.0.0", caption_key="other", second_caption_key="captions")
    assert second.captions(3) == (f"alt {numbers[3]}",) and second.second_captions(3) == pairs.captions(3)


def test_classes_and_parts_of_splits(prepared):
    pairs = open_tfds(prepared / "classed/1.0.0", split="train[:50%]+test", templates=("a {}.",))
    assert len(pairs) == 14 and pairs.class_names == ("red fox", "cat")
    for index in range(14):
        assert pairs.captions(index) == (f"a {pairs.class_names[pairs.label(index)]}.",)
    assert sum(pairs.label(index) for index in range(10, 14)) == 2
    assert pairs.digest() != open_tfds(prepared / "classed/1.0.0", templates=("a {}.",)).digest()


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "classed/1.0.0",
            "",
            r"holds several splits: name one, as in tfds:.*#train. Known: test, train|train, test",
        ),
        ("classed/1.0.0", "valid", "unknown split of tfds:classed/1.0.0 'valid'. Known: test, train"),
        ("classed/1.0.0", "train[:x]", "cannot read tfds:"),
        ("klassed", "train", "cannot open tfds:klassed"),
        ("cifar10", "train", r"cifar10.*prepare it once, by tfds.builder\('cifar10', file_format='array_record'\)"),
    ],
)
def test_invalid_data_sets(prepared, name, split, message):
    with pytest.raises(UserError, match=message) as caught:
        open_tfds(name, split, root=str(prepared))
    assert "\n" not in str(caught.value)


def test_tensorflow_is_not_imported(prepared):
    script = (
        "import sys\n"
        "from rankclip_jax.data.pairs import PairOptions\n"
        "from rankclip_jax.data.sources import tfds\n"
        f"name, options = {str(prepared / 'classed/1.0.0')!r}, PairOptions(split='train', templates=('{{}}',))\n"
        "pairs = tfds.open_pairs([name], options)\n"
        "assert len(pairs.image_bytes(0)) > 100\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_while_writing_leaves_no_file(tmp_path):
    def records():
        yield b"first"
        raise ValueError("unreadable pair")

    with pytest.raises(ValueError, match="unreadable pair"):
        array_record.write_records(tmp_path / "new.array_record", records())
    assert list(tmp_path.iterdir()) == []
    assert array_record.write_records(tmp_path / "new.array_record", [b"first", b"second"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["new.array_record"]
