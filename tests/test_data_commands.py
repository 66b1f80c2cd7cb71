"""`python -m rankclip_jax.data`: what each command says and writes, on a folder of sound and broken pictures."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from configs import emoji
from rankclip_jax.data.commands import COMMANDS, command_of
from rankclip_jax.data.commands.captions import sentence
from rankclip_jax.data.commands.grid import picture_grid
from rankclip_jax.data.commands.sections import in_parallel, sample
from rankclip_jax.data.commands.stats import histogram
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.errors import UserError
from tests import processes
from tests.test_data_pictures import CLEAR, COLOURED, encoded

GOOD = 12


def animation():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(COLOURED, "JPEG", exif=exif)


LONG = "a word " * 60
ROWS = {
    **{f"good{i}.jpg": (encoded(COLOURED.rotate(i), "JPEG"), f"a picture of number {i % 10}") for i in range(GOOD)},
    "cmyk.jpg": (encoded(COLOURED.convert("CMYK"), "JPEG"), "printed"),
    "palette.png": (encoded(COLOURED.quantize(16), "PNG"), "painted"),
    "grey.png": (encoded(COLOURED.convert("L"), "PNG"), "old"),
    "clear.png": (encoded(CLEAR, "PNG"), "glass"),
    "turned.jpg": (turned(), "on its side"),
    "moving.gif": (animation(), "moving"),
    "long.jpg": (encoded(COLOURED, "JPEG"), LONG),
    "cut.jpg": (encoded(COLOURED, "JPEG")[:900], "cut off"),
    "page.jpg": (b"<html>not found</html>", "a page"),
    "pixel.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), "a spacer"),
    "nothing.jpg": (b"", "nothing"),
    "silent.jpg": (encoded(COLOURED, "JPEG"), ""),
    "latin.jpg": (encoded(COLOURED, "JPEG"), "caf\udce9"),
    "gone.jpg": (None, "gone"),
}
BAD = {
    "cut.jpg": "truncated: JPEG of 900 bytes",
    "page.jpg": "unidentified: 22 bytes that begin with b'<html>no'",
    "pixel.png": "tiny: the shorter side is 1 pixels",
    "nothing.jpg": "empty: no bytes",
    "silent.jpg": "caption: the caption is missing or empty",
    "latin.jpg": "caption is not UTF-8",
    "gone.jpg": "picture cannot be read: ",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["filepath", "caption"])
    for name, (data, caption) in ROWS.items():
        writer.writerow([name, caption])
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "pairs.csv").write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return folder


def config_of(folder, **data):
    config = emoji.get_config("mu")
    config.data.update({"name": "csv", "train": str(folder / "pairs.csv"), "train_limit": 0, **data})
    config.tokenizer = {"name": "clip", "vocab_size": 0}
    return config


@pytest.fixture
def run(capsys):
    """Run a command in this process; give what it prints."""

    def run(name, config, *arguments):
        command = command_of(name)
        command.define_flags()
        try:
            flags.FLAGS(["test", *arguments])
            command.run(config)
        finally:
            for flag in list(flags.FLAGS.flags_by_module_dict()[command.__name__]):
                delattr(flags.FLAGS, flag.name)
        return capsys.readouterr().out

    return run


def test_validate_lists_what_is_broken_and_only_that(run, folder, tmp_path):
    out = tmp_path / "bad.jsonl"
    text = run("validate", config_of(folder), f"--out={out}", "--threads=3")
    found = {line["key"]: line["reason"] for line in map(json.loads, out.read_text().splitlines())}
    assert set(found) == set(BAD)
    for name, reason in BAD.items():
        assert found[name].startswith(reason), found[name]
    assert f"{len(ROWS)} pairs, {len(BAD)} of them bad" in text
    assert "1 truncated: cut.jpg" in text and f"--config.data.quarantine={out}" in text
    for kind in ("CMYK", "grey", "transparency", "EXIF orientation", "animation", "over-long caption"):
        assert f" 1 {kind}" in text, text
    assert " 2 palette" in text  # and every GIF has one
    assert not list(tmp_path.glob("*.partial"))


def test_strict_lists_the_odd_ones_too(run, folder, tmp_path):
    out = tmp_path / "bad.jsonl"
    run("validate", config_of(folder), f"--out={out}", "--strict", "--min_side=1")
    found = {json.loads(line)["key"] for line in out.read_text().splitlines()}
    assert found == set(BAD) - {"pixel.png"} | {"long.jpg", "moving.gif"}


def test_what_is_listed_is_left_out_of_training(run, folder, tmp_path):
    out = tmp_path / "bad.jsonl"
    run("validate", config_of(folder), f"--out={out}")
    train = SOURCES["csv"](config_of(folder, quarantine=str(out)).data).train
    assert [train.key(i) for i in range(len(train))] == [name for name in ROWS if name not in BAD]
    for i in range(len(train)):
        assert train[i].captions


def test_the_same_key_at_two_places_is_told(run, folder, tmp_path):
    twice = config_of(folder, train=f"{folder / 'pairs.csv'} | {folder / 'pairs.csv'}", pictures=str(folder))
    text = run("validate", twice, f"--out={tmp_path / 'bad.jsonl'}")
    assert f"{2 * len(ROWS)} pairs, {2 * len(BAD)} of them bad" in text
    assert f"{len(ROWS)} key of several pairs" in text


def test_a_place_that_cannot_be_written_is_named(run, folder):
    for name in ("validate", "preview", "captions"):
        with pytest.raises(UserError, match=r"cannot write --out=/nowhere/x\.png"):
            run(name, config_of(folder), "--out=/nowhere/x.png")


def test_preview_shows_pairs_as_the_towers_get_them(run, folder, tmp_path):
    out = tmp_path / "grid.png"
    text = run("preview", config_of(folder, augment="none"), f"--out={out}", "--pairs=7")
    assert text.count("pixels, to the tower") == 7 and f"gets them: {out}" in text
    assert "csv " in text and "train 26" in text
    assert text.count("caption  ") == 7 and text.count("tokens ") == 7
    grid = np.asarray(Image.open(out))
    assert grid.shape[1] > 5 * 224 and grid.shape[0] > 2 * 224  # two rows


def test_preview_with_a_vocabulary_of_captions_that_cannot_all_be_read(run, folder, tmp_path):
    config = config_of(folder)
    config.tokenizer = {"name": "bpe", "vocab_size": 300}
    assert "tokens" in run("preview", config, f"--out={tmp_path / 'grid.png'}")


def test_preview_of_the_embedded_set(run, tmp_path):
    text = run("preview", emoji.get_config("mu"), f"--out={tmp_path / 'grid.png'}")
    assert "64 x 64 pixels" in text and "second " in text


def test_a_grid_has_every_picture_in_its_place():
    images = np.zeros((7, 10, 10, 3), np.uint8)
    images[:, :, :, 0] = 30 * np.arange(7)[:, None, None] + 20
    grid = np.asarray(picture_grid(images, ["a caption " * 20, "b", "", "狐狸", "e", "f", "g"]))
    centres = [(16 + 112, 16 + 112 + 240 * column) for column in range(5)]
    assert [int(grid[centre][0]) for centre in centres] == [20, 50, 80, 110, 140]
    below = int(np.flatnonzero((grid[:, 128] == (170, 0, 0)).all(axis=1))[0])
    assert below > 16 + 224 + 4 * 19 and (grid[below, 128 + 240] == (200, 0, 0)).all()


def test_stats_count_what_is_there(run, folder):
    text = run("stats", config_of(folder))
    lines = text.splitlines()
    readable = len(ROWS) - 2  # one caption is empty and one is no UTF-8
    repeats = GOOD - 10
    assert SOURCES["csv"](config_of(folder).data).digest in lines[0]
    assert f"captions: {readable}, 1.00 a picture (at most 1)" in lines
    assert f"repeated captions: {repeats / readable:.2%} ({repeats} are those of another pair)" in lines
    assert "unreadable captions: 2; see `validate`" in lines
    assert "of 26 pairs, 5 of them unreadable:" in lines
    assert any(line.startswith("pictures: JPEG 76.2%, PNG 19.0%, GIF 4.8%") for line in lines), text
    assert any(
        line.split() == ["width", "least", "1,", "5%", "40,", "median", "120,", "95%", "120,", "most", "120"]
        for line in lines
    ), text
    assert "(4.76% are longer and cut)" in text


def test_histogram_has_every_length_once():
    text = histogram([3, 3, 16, 17, 40], 16)
    counts = [float(line.split("%")[0].split()[-1]) for line in text.splitlines()]
    assert sum(counts) == 100 and counts[-1] == 40 and "over 16" in text
    assert counts[1] == 40 and "3 to 4" in text.splitlines()[1]
    assert "15 to 16" in text and text.splitlines()[7].split()[3] == "20.0%"


def test_bench_times_every_stage(run, folder):
    text = run("bench", config_of(folder, augment="none"), "--pairs=20", "--threads=2", "--seconds=0.2")
    for stage in ("read", "decode", "transform", "tokenize", "all"):
        assert any(line.startswith(f"{stage} ") for line in text.splitlines()), text
    assert "x bare Pillow" in text and "  1 threads" in text and "  2 threads" in text
    assert "most of the time goes into" in text


@pytest.mark.parametrize("name", ["preview", "stats", "bench", "captions"])
def test_without_anything_to_train_on(run, folder, tmp_path, name):
    config = config_of(folder, train="", test=str(folder / "pairs.csv"))
    with pytest.raises(UserError, match=r"config\.data\.train is empty"):
        run(name, config)


def test_bench_of_what_cannot_be_read(run, tmp_path):
    (tmp_path / "pairs.csv").write_text("filepath,caption\na.jpg,one\nb.jpg,two\n")
    config = config_of(tmp_path)
    with pytest.raises(UserError, match="none of the pairs can be read"):
        run("bench", config)


def test_there_is_nothing_to_index_in_a_table(run, folder):
    assert "nothing to index: csv is read without an index" in run("index", config_of(folder))
    assert "nothing to index: emoji" in run("index", emoji.get_config("mu"))


def test_captions_of_keywords_are_second_captions(run, folder, tmp_path):
    out = tmp_path / "second.jsonl"
    text = run("captions", config_of(folder), f"--out={out}", "--template=this shows {}.", "--batch=5")
    assert "24 second captions written" in text and "2 pairs cannot be read" in text
    train = SOURCES["csv"](config_of(folder, second_captions=str(out)).data).train
    numbers = {train.key(i): i for i in range(len(train))}
    assert train.second_captions(numbers["cmyk.jpg"]) == ("this shows printed.",)
    assert train[numbers["good3.jpg"]].second_captions == ("this shows picture and number.",)
    with pytest.raises(ValueError, match="no second caption"):
        train.second_captions(numbers["silent.jpg"])
    whole = out.read_text()
    out.write_text(whole[: len(whole) // 2])  # killed in the middle of a line
    run("captions", config_of(folder), f"--out={out}", "--template=this shows {}.")
    assert out.read_text() == whole


def test_a_sentence_of_keywords():
    assert sentence(["A dog on the snow.", "The dog runs"], "a picture of {}", 5) == "a picture of dog, snow and runs"
    assert sentence(["A dog on the snow."], "{}!", 1) == "dog!"
    with pytest.raises(ValueError, match="no keyword"):
        sentence(["of the 42"], "{}", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--template=nothing",), "must have one {}"),
        (("--by=no/such-model",), "no/such-model"),
    ],
)
def test_mistakes_of_captions(run, folder, tmp_path, arguments, message):
    with pytest.raises(UserError) as caught:
        run("captions", config_of(folder), f"--out={tmp_path / 'x.jsonl'}", *arguments)
    assert message in str(caught.value)


def test_captions_never_spoil_another_file(run, folder, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    with pytest.raises(UserError, match="holds something else"):
        run("captions", config_of(folder), f"--out={other}")
    assert other.read_text() == "my notes\n"
    with pytest.raises(UserError, match="'emoji' come with their captions"):
        run("captions", emoji.get_config("mu"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a"}', "line 1: expected"),
        ("nonsense", "line 1: expected"),
        ('{"key": "a", "second_caption": 3}', "line 1: expected"),
    ],
)
def test_a_file_of_something_else_is_named(folder, tmp_path, line, message):
    (tmp_path / "second.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        SOURCES["csv"](config_of(folder, second_captions=str(tmp_path / "second.jsonl")).data)
    with pytest.raises(UserError, match=r"cannot read config\.data\.second_captions"):
        SOURCES["csv"](config_of(folder, second_captions=str(tmp_path / "missing.jsonl")).data)


def test_the_digest_knows_second_captions(folder, tmp_path):
    digests = set()
    for name in ("one", "two"):
        (tmp_path / "second.jsonl").write_text(json.dumps({"key": "cmyk.jpg", "second_caption": name}) + "\n")
        digests.add(SOURCES["csv"](config_of(folder, second_captions=str(tmp_path / "second.jsonl")).data).digest)
    assert len(digests | {SOURCES["csv"](config_of(folder).data).digest}) == 3


def test_parallel_work_keeps_its_order():
    numbers = np.arange(1000)
    found = list(in_parallel(lambda chunk: chunk * 2, numbers, 3, "x"))
    np.testing.assert_array_equal(np.concatenate(found), numbers * 2)
    assert list(in_parallel(len, np.arange(0), 2, "x")) == []
    assert len(sample(10, 0)) == 10 == len(sample(10, 20)) and len(set(sample(1000, 50).tolist())) == 50


def test_the_command_line(folder, tmp_path):
    """One process each, as a user starts them: overrides reach the command, and mistakes are one line."""
    command = ("-m", "rankclip_jax.data")
    flags_ = ("--config=configs/emoji.py:mu", "--config.data.name=csv", f"--config.data.train={folder}/pairs.csv")
    code, out, err = processes.finish(processes.start_python(*command, "index", *flags_), 60)
    assert (code, out) == (0, "nothing to index: csv is read without an index.\n"), err
    for arguments, words in (
        ((), "name a command: python -m rankclip_jax.data COMMAND"),
        (("vaildate",), "unknown command 'vaildate'. Did you mean 'validate'"),
        (("index", "more", *flags_), "unexpected argument 'more'"),
        (("index", *flags_, "--config.data.trian=x"), "Did you mean 'data.train'"),
    ):
        code, _, err = processes.finish(processes.start_python(*command, *arguments), 60)
        assert code == 2 and words in err and err.count("\n") == 1, err


def test_every_command_is_in_the_help():
    text = Path("rankclip_jax/data/__main__.py").read_text()
    for name, line in COMMANDS.items():
        assert f"\n{name:<10} {line}\n" in text
        assert command_of(name).define_flags and command_of(name).run


def test_tars_are_indexed_now_and_not_at_the_start(run, tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number:05d}.tar", "w") as tar:
            for name, data in (("a.jpg", encoded(COLOURED, "JPEG")), ("a.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    config = config_of(tmp_path, name="webdataset", train=str(tmp_path / "{00000..00001}.tar"))
    text = run("index", config)
    assert text.startswith(f"train {tmp_path}") and "shards" in text and "nothing" not in text
    index = next(line.removeprefix("index: ") for line in text.splitlines() if line.startswith("index: "))
    made = Path(index).stat().st_mtime_ns
    run("index", config)
    assert Path(index).stat().st_mtime_ns == made
    run("index", config, "--rebuild")
    assert Path(index).stat().st_mtime_ns > made
    text = run("validate", config, f"--out={tmp_path / 'bad.jsonl'}")
    assert "2 pairs, 0 of them bad" in text
