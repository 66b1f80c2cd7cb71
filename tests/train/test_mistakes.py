"""Every mistake of a user's ends training with exit code 2 and one line that says what to do."""

import pytest

from configs import emoji
from rankclip_jax.data import sources
from rankclip_jax.data.emoji import FOLDER, STYLES
from rankclip_jax.errors import UserError
from rankclip_jax.train import train
from tests.support import commands, runs

# Changes of the config, and a part of the one line.
MISTAKES = [
    ({"batch_size": 512}, "batch_size=512 is more than the 256 training examples; lower it"),
    ({"data.name": "emojy"}, "unknown data source 'emojy'. Did you mean 'emoji'?"),
    ({"data.styles": "noto"}, "split 'test_style' of emoji is empty with styles=noto; add styles."),
    ({"data.styles": "nato"}, "unknown emoji style 'nato'. Did you mean 'noto'?"),
    ({"data.augment": "flop"}, "unknown augmentation 'flop'. Did you mean 'flip'?"),
    ({"data.num_threads": -1}, "num_threads is -1; use 0 or a positive number."),
    ({"seed": -1}, "seed is -1; use 0 or a positive number."),
    ({"tokenizer.name": "bpo"}, "unknown tokenizer 'bpo'. Did you mean 'bpe'?"),
    ({"tokenizer.vocab_size": 100}, "vocab_size is 100; a byte-level tokenizer needs at least 258."),
    ({"model.image.tower": "vat"}, "unknown model.image.tower 'vat'. Did you mean 'vit'?"),
    ({"model.image.tower": "convnet"}, "unknown key of the convnet tower, model.image: 'activation'. Known: depths,"),
    ({"model.image.patch_size": 24}, "patch_size=24 does not divide model.image.image_size=64"),
    ({"model.image.image_size": 0}, "image_size=0 must be at least 1"),
    ({"model.text.heads": 5}, "model.text.heads=5 does not divide model.text.width=32"),
    ({"model.text.context_length": 2}, "context_length is 2; it must be at least 3."),
    ({"model.dtype": "float8"}, "unknown model.dtype 'float8'."),
    ({"objective.name": "rankclap"}, "unknown objective 'rankclap'. Did you mean 'rankclip'?"),
    ({"objective.arithmetic": "exakt"}, "unknown objective.arithmetic 'exakt'. Did you mean 'exact'?"),
    ({"objective.cross_weight": 0.0, "objective.in_modal_weight": 0.0}, "raise one of them, or use"),
    ({"objective.ramp": "epoch", "duration": "1epochs"}, "the released epoch ramp needs at least 2 epochs"),
    ({"objective.block_rows": -5}, "objective.block_rows=-5: use a number of rows, or 0 to choose by memory"),
    ({"optimizer.schedule": "cosin"}, "unknown config.optimizer.schedule 'cosin'. Did you mean 'cosine'?"),
    ({"optimizer.warmup": "20"}, "optimizer.warmup is 20 steps and the whole run 20; shorten the warm-up"),
    (
        {"optimizer.freeze": "image/.*"},
        "config.optimizer.freeze='image/.*' matches no parameter; it must match a whole",
    ),
    ({"optimizer.freeze": "("}, "config.optimizer.freeze='(' is not a regular expression"),
    ({"model.image.pool": "average"}, "unknown model.image.pool 'average'."),
    ({"model.image.patch_dropout": 1.5}, "model.image.patch_dropout=1.5 must be at least 0 and less than 1"),
    ({"duration": "0"}, "duration='0' must be at least one step"),
    ({"eval.every": "-5"}, "eval.every='-5' is not a duration"),
    ({"eval.train_splits": ("vall",)}, "unknown config.eval.train_splits split 'vall'. Did you mean 'val'?"),
    ({"eval.train_splits": ()}, "but nothing is evaluated during training: name splits in config.eval.train_splits"),
    (
        {"eval.report_split": "val_style"},
        "unknown config.eval.report_split split 'val_style'. Did you mean 'test_style'?",
    ),
    ({"eval.metrics": ("retreival",)}, "unknown config.eval.metrics evaluation 'retreival'. Did you mean 'retrieval'?"),
    (
        {"checkpoint.best_metric": "val/image_to_text_R1"},
        "unknown config.checkpoint.best_metric 'val/image_to_text_R1'. Did you mean 'val/image_to_text_R@1'?",
    ),
    ({"checkpoint.best_metric": "test_style/image_to_text_R@1"}, "unknown config.checkpoint.best_metric 'test_style/"),
    ({"skip.stop_after": 0}, "config.skip.stop_after=0 must be at least 1"),
    ({"skip.median_factor": 0.5}, "config.skip.median_factor=0.5 must be 0 (no limit) or more than 1"),
    ({"mesh.fsdp": 2}, "config.mesh.fsdp=2 does not divide the 1 devices found"),
    ({"log.wandb": True}, "wandb is not installed"),
]


@pytest.fixture(scope="module")
def read_once():
    """The source that reads each data set from disk once for all tests here."""
    load, read = sources.SOURCES["emoji"], {}

    def source(data):
        key = str(data)
        if key not in read:
            read[key] = load(data)
        return read[key]

    return source


def changed(**changes):
    config = emoji.get_config("mu")
    size = {"batch_size": 32, "duration": "20 steps", "data.train_limit": 256, "data.augment": "none"}
    config.update_from_flattened_dict(size | changes)
    return config


@pytest.mark.parametrize("changes, message", MISTAKES, ids=[",".join(changes) for changes, _ in MISTAKES])
def test_a_mistake_in_the_config(tmp_path, monkeypatch, read_once, changes, message):
    monkeypatch.setitem(sources.SOURCES, "emoji", read_once)
    with pytest.raises(UserError) as caught:
        train(changed(**changes), str(tmp_path / "run"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())  # and nothing was begun


def test_data_that_cannot_be_read(tmp_path):
    for file in FOLDER.iterdir():
        if file.suffix in (".webp", ".tsv"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    sheet = tmp_path / f"{STYLES[0]}.webp"
    sheet.write_bytes(sheet.read_bytes()[:1000])
    config = changed(**{"data.root": str(tmp_path)})
    with pytest.raises(UserError, match=rf"cannot read the sprite sheet {sheet} \(.*\): restore or rebuild it"):
        train(config, str(tmp_path / "run"))


# The same through the command line, for what only it can tell, and one of each sort.
COMMANDS = {
    "--config.batchsize=64": "unknown config key 'batchsize'. Did you mean 'batch_size'?",
    "--config.batch_size=many": "--config.batch_size=many: expected a value of type int",
    "--config.data.root=/none": "cannot read /none/concepts.tsv",
    "--config.checkpoint.best_metric=val/R": "unknown config.checkpoint.best_metric 'val/R'.",
    "--workdir=gs://bucket/run": "--workdir=gs://bucket/run is a URL, and a run folder must be a path",
    "--workdir=pyproject.toml": "cannot write to --workdir=pyproject.toml (File exists): fix that or choose another",
}


@pytest.mark.parametrize("flags", COMMANDS)
def test_a_mistake_in_the_command(capsys, tmp_path, flags):
    code, out, err = runs.train_here(capsys, tmp_path, flags)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and COMMANDS[flags] in err


def test_a_batch_that_the_devices_do_not_divide(tmp_path):
    code, out, err = runs.train(tmp_path, "--config.batch_size=12", devices=8)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and "batch_size=12 is not divisible by 8 devices; use 8 or 16" in err


def test_an_unknown_preset(capsys, tmp_path):
    arguments = ("--config=configs/base.py:ViT-B32", f"--workdir={tmp_path}")
    code, out, err = commands.run_module(capsys, "rankclip_jax.train", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown model preset 'ViT-B32'. Did you mean 'ViT-B/32'?")
