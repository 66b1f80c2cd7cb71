"""A run with all the state there is: running statistics, micro-batches, averaged weights; continued, and loaded."""

import json
import shutil

import numpy as np
import pytest

import rankclip_jax
from rankclip_jax.data.sources.emoji import load as load_emoji
from tests.support import processes, runs

STEPS = 8
FLAGS = (
    "-m",
    "rankclip_jax.train",
    "--config=configs/base.py:mu-rn",
    *runs.SMALL,
    "--config.batch_size=16",
    "--config.tokenizer.name=bpe",
    "--config.tokenizer.vocab_size=512",
    f"--config.duration={STEPS} steps",
    "--config.micro_batches=2",
    "--config.model.image.batch_norm=local",
    "--config.model.image.image_size=32",
    "--config.model.image.layers=(1, 1, 1, 1)",
    "--config.model.image.width=4",
    "--config.model.image.heads=2",
    "--config.model.text.layers=1",
    "--config.optimizer.learning_rate=0.01",
    "--config.optimizer.ema_decay=0.5",
    "--config.checkpoint.every=4",
    "--config.checkpoint.best_metric=",
    "--config.eval.train_splits=()",
    "--config.log.diagnostics=False",
)
pytestmark = pytest.mark.xdist_group("train_resnet")


def train(workdir):
    return processes.finish(processes.start_python(*FLAGS, f"--workdir={workdir}"), 240)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("resnet") / "run"
    code, out, err = train(workdir)
    assert code == 0, err
    assert "16 pairs, 16 per device, in 2 micro-batches" in out and "evaluates an average with decay 0.5" in out
    return workdir


def test_a_continued_run_ends_with_the_same_bits(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / str(STEPS))  # as if killed before it was saved
    code, out, err = train(tmp_path)
    assert code == 0 and "resumed from step 4" in out, err
    expected, found = runs.arrays(whole, STEPS), runs.arrays(tmp_path, STEPS)
    assert expected.keys() == found.keys()
    assert not [path for path in found if found[path].tobytes() != expected[path].tobytes()]
    assert runs.history(tmp_path) == runs.history(whole)
    assert json.loads((tmp_path / "eval.json").read_text()) == json.loads((whole / "eval.json").read_text())


def test_all_of_the_state_moves_and_is_kept(whole):
    first, last = runs.arrays(whole, 4), runs.arrays(whole, STEPS)
    for part in ("['model_state']['batch_stats']['image']", "['ema']['params']", "['ema']['model_state']"):
        paths = [path for path in last if path.startswith(part)]
        assert paths and any(not np.array_equal(first[path], last[path]) for path in paths), part
    weight = "['params']['towers']['image']['layer2']['0']['conv2']['kernel']"
    assert not np.allclose(last[weight], last[f"['ema']{weight}"], rtol=1e-3)


def test_what_is_evaluated_is_what_is_loaded_the_average_with_running_statistics(whole):
    encoder, images = rankclip_jax.load(whole), load_emoji().evals["val"].images
    found = encoder.encode_image(images)
    with np.load(whole / "embeddings.npz") as kept:
        np.testing.assert_array_equal(found.astype(np.float16), kept["image_embeds"])
    np.testing.assert_allclose(encoder.encode_image(images[:3]), found[:3], atol=1e-6)  # whatever is beside it
    last = runs.arrays(whole, STEPS)
    mean = encoder.weights.model_state["batch_stats"]["image"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, last["['ema']['model_state']['batch_stats']['image']['bn1']['mean']"])
