"""`python -m rankclip_jax.data`: the output of its commands, and the command line."""

import io
import tarfile
from pathlib import Path

import pytest

from configs import emoji
from rankclip_jax.data.commands import COMMANDS, command_of
from rankclip_jax.data.commands.sections import sample
from rankclip_jax.data.commands.stats import histogram
from rankclip_jax.data.in_parallel import in_parallel
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.errors import UserError
from tests.data.images.test_decode import COLOURED, encoded
from tests.support import commands, processes
from tests.support.data_commands import GOOD, ROWS, config_of
from tests.support.tar_files import write_tar


def test_a_file_that_cannot_be_written_is_named(run_data, pairs_folder):
    for name in ("validate", "preview", "captions"):
        with pytest.raises(UserError, match=r"cannot write --out=/nowhere/x\.png"):
            run_data(name, config_of(pairs_folder), "--out=/nowhere/x.png")


def test_stats(run_data, pairs_folder):
    config = config_of(pairs_folder)
    config.model.text.context_length = 7  # "an image of number 3" just fits
    text = run_data("stats", config)
    lines = text.splitlines()
    readable = len(ROWS) - 2  # one caption is empty and one is no UTF-8
    repeats = GOOD - 10
    assert SOURCES["csv"](config_of(pairs_folder).data).digest in lines[0]
    assert f"captions: {readable}, 1.00 per image (at most 1)" in lines
    assert f"repeated captions: {repeats / readable:.2%} ({repeats} equal the caption of another pair)" in lines
    assert "unreadable captions: 2; see `validate`" in lines
    assert "sample of 26 pairs, 5 unreadable:" in lines
    assert any(line.startswith("images: JPEG 76.2%, PNG 19.0%, GIF 4.8%") for line in lines), text
    assert any(
        line.split() == ["width", "min", "1,", "5%", "40,", "median", "120,", "95%", "120,", "max", "120"]
        for line in lines
    ), text
    assert "(4.76% of the captions are longer and cut)" in text


def test_the_full_digest_covers_everything(run_data, tmp_path):
    """The digest that a run stores covers the sizes of members only."""
    digests, stored = [], set()
    changes = [{}, {"a.jpg": encoded(COLOURED.rotate(1), "BMP")}, {"a.txt": b"b caption"}, {"c.txt": b"x"}]
    for number, changed in enumerate(changes):
        members = {"a.jpg": encoded(COLOURED, "BMP"), "a.txt": b"a caption", "b.jpg": b"none", "b.txt": b"x", **changed}
        folder = tmp_path / str(number)
        folder.mkdir()
        write_tar(folder / "0.tar", list(members.items()))
        config = config_of(folder, name="webdataset", train=str(folder / "0.tar"))
        lines = run_data("stats", config, "--full_digest").splitlines()
        digests.append(next(line for line in lines if line.startswith("full digest of train: ")))
        stored.add(lines[0])
    assert len(stored) == 1 and len(set(digests)) == 3 and digests[0] == digests[3]


def test_histogram_has_every_length_once():
    text = histogram([3, 3, 16, 17, 40], 16)
    counts = [float(line.split("%")[0].split()[-1]) for line in text.splitlines()]
    assert sum(counts) == 100 and counts[-1] == 40 and "over 16" in text
    assert counts[1] == 40 and "3 to 4" in text.splitlines()[1]
    assert "15 to 16" in text and text.splitlines()[7].split()[3] == "20.0%"


def test_bench_times_every_stage(run_data, pairs_folder):
    text = run_data("bench", config_of(pairs_folder, augment="none"), "--pairs=20", "--threads=2", "--seconds=0.2")
    for stage in ("read", "decode", "transform", "tokenize", "all"):
        assert any(line.startswith(f"{stage} ") for line in text.splitlines()), text
    assert "x bare Pillow" in text and "  1 threads" in text and "  2 threads" in text
    assert "the slowest stage is" in text


@pytest.mark.parametrize("name", ["preview", "stats", "bench", "captions"])
def test_commands_without_training_data(run_data, pairs_folder, tmp_path, name):
    config = config_of(pairs_folder, train="", test=str(pairs_folder / "pairs.csv"))
    with pytest.raises(UserError, match=r"config\.data\.train is empty"):
        run_data(name, config)


def test_bench_of_pairs_that_cannot_be_read(run_data, tmp_path):
    (tmp_path / "pairs.csv").write_text("filepath,caption\na.jpg,one\nb.jpg,two\n")
    config = config_of(tmp_path)
    with pytest.raises(UserError, match="none of the pairs can be read"):
        run_data("bench", config)


def test_a_table_needs_no_index(run_data, pairs_folder):
    assert "nothing to index: csv is read without an index" in run_data("index", config_of(pairs_folder))
    assert "nothing to index: emoji" in run_data("index", emoji.get_config("mu"))


def test_index_builds_once_and_again_on_rebuild(run_data, tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number:05d}.tar", "w") as tar:
            for name, data in (("a.jpg", encoded(COLOURED, "JPEG")), ("a.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    config = config_of(tmp_path, name="webdataset", train=str(tmp_path / "{00000..00001}.tar"))
    text = run_data("index", config)
    assert text.startswith(f"train {tmp_path}") and "shards" in text and "nothing" not in text
    index = next(line.removeprefix("index: ") for line in text.splitlines() if line.startswith("index: "))
    built = Path(index).stat().st_mtime_ns
    run_data("index", config)
    assert Path(index).stat().st_mtime_ns == built
    run_data("index", config, "--rebuild")
    assert Path(index).stat().st_mtime_ns > built
    text = run_data("validate", config, f"--out={tmp_path / 'bad.jsonl'}")
    assert "2 pairs, 0 of them bad" in text


def test_parallel_work_keeps_its_order():
    found = in_parallel(lambda chunk: [2 * index for index in chunk], range(1000), 3, "x")
    assert [double for chunk in found for double in chunk] == [*range(0, 2000, 2)]
    endless = in_parallel(len, range(5_000_000_000), 2, "x")  # a list of its chunks would not fit into memory
    assert next(endless) == 64
    endless.close()
    assert list(in_parallel(len, range(0), 2, "x")) == []
    assert len(sample(10, 0)) == 10 == len(sample(10, 20)) and len({*sample(1000, 50)}) == 50
    assert len({*sample(5_000_000_000, 50)}) == 50


def test_the_command_line(capsys, pairs_folder):
    """Overrides reach the command, and errors are one line."""
    command = ("-m", "rankclip_jax.data")
    flags_ = ("--config=configs/emoji.py:mu", "--config.data.name=csv", f"--config.data.train={pairs_folder}/pairs.csv")
    code, out, err = processes.finish(processes.start_python(*command, "index", *flags_), 60)
    assert (code, out) == (0, "nothing to index: csv is read without an index.\n"), err
    for arguments, words in (
        ((), "name a command: python -m rankclip_jax.data COMMAND"),
        (("vaildate",), "unknown command 'vaildate'. Did you mean 'validate'"),
        (("index", "more", *flags_), "unexpected argument 'more'"),
        (("index", *flags_, "--config.data.trian=x"), "Did you mean 'data.train'"),
    ):
        code, _, err = commands.run_module(capsys, "rankclip_jax.data", *arguments)
        assert code == 2 and words in err and err.count("\n") == 1, err


def test_every_command_is_in_the_help():
    text = Path("rankclip_jax/data/__main__.py").read_text()
    for name, line in COMMANDS.items():
        assert f"\n{name:<10} {line}\n" in text
        assert command_of(name).define_flags and command_of(name).run
