"""The same pairs in any format give the same run: batches, parameters, resume, any number of processes."""

import jax
import numpy as np
import pytest

from configs import emoji
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.parallel.mesh import make_mesh, put_batch
from rankclip_jax.training import setup
from rankclip_jax.training.step import create_state, make_init
from tests.support import pair_files
from tests.support.loaders import make_loader
from tests.support.pair_files import write_all

FORMATS = ("csv", "tsv", "jsonl", "parquet", "coco", "huggingface", "arrayrecord", "webdataset")
BATCH = 8


@pytest.fixture(scope="module")
def locations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    written = write_all(folder)
    assert set(written) == set(FORMATS)
    return {name: (str(folder), location) for name, location in written.items()}


def config_of(locations, name):
    config = emoji.get_config("mu,clip")
    config.batch_size, config.duration, config.eval.report_split = BATCH, "4 steps", ""
    config.model.image.layers = config.model.text.layers = 1  # half of the compilation
    config.data.name, (config.data.root, config.data.train) = name, locations[name]
    config.data.val_pairs, config.data.train_limit = 3, 19
    config.data.augment = "random_resized_crop|flip|color_jitter"
    return config


def batches(source, tokenizer, steps, **options):
    keys = ("images", "tokens", "index")
    defaults = {"batch_size": BATCH, "seed": 1, "image_size": 16, "augment": "random_resized_crop|flip", "keys": keys}
    with make_loader(source, tokenizer, **(defaults | options)) as loader:
        return [next(loader) for _ in range(steps)]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.fixture(scope="module")
def parts(locations):
    """The setup of a run on each format."""
    return {name: setup.build(config_of(locations, name)) for name in FORMATS}


@pytest.fixture(scope="module")
def straight(parts):
    """Nine steps on the csv table, which are four and a half epochs."""
    return batches(parts["csv"].dataset.train, parts["csv"].tokenizer, 9)


@pytest.mark.parametrize("name", FORMATS)
def test_batches_and_resume_and_processes(parts, straight, name):
    """From the start; from the middle of an epoch; with 2 processes, then 4, then 1."""
    source, tokenizer = parts[name].dataset.train, parts["csv"].tokenizer
    assert len(source) == 19
    resumed_at = {name: 1 + 2 * number % 7 for number, name in enumerate(FORMATS)}[name]
    assert_same(straight[resumed_at:], batches(source, tokenizer, 9 - resumed_at, start_step=resumed_at))
    found = batches(source, tokenizer, 2)
    for start, count in ((2, 2), (4, 4), (6, 1)):
        of_each = [
            batches(source, tokenizer, 2, start_step=start, process_index=index, process_count=count)
            for index in range(count)
        ]
        found += [
            {key: np.concatenate([batch[key] for batch in together]) for key in together[0]}
            for together in zip(*of_each, strict=True)
        ]
    assert_same(straight[:8], found)


def test_parameters_are_the_same_bits(parts):
    """With one compiled step, and a tokenizer trained on the captions of each format."""
    first = parts["csv"]
    mesh = make_mesh(jax.devices()[:1])
    state = create_state(make_init(first.towers, first.objective, first.optimizer, 0.0), jax.random.key(0), mesh)
    shardings = jax.tree.map(lambda array: array.sharding, state)
    begin, ends = jax.tree.map(np.asarray, state), {}
    step = setup.train_step(first._replace(mesh=mesh), state)
    for name, own in parts.items():
        assert own.tokenizer.vocabulary == first.tokenizer.vocabulary
        state = jax.device_put(begin, shardings)
        options = {"image_size": own.config.model.image.image_size, "augment": own.config.data.augment}
        for batch in batches(own.dataset.train, own.tokenizer, own.config.duration, **options):
            state, metrics = step(state, put_batch({key: batch[key] for key in ("images", "tokens")}, mesh))
        assert np.isfinite(metrics["loss"])
        ends[name] = jax.tree.map(np.asarray, state["params"])
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), begin["params"], ends["csv"])
    assert any(jax.tree.leaves(changed))
    for name in FORMATS:
        jax.tree.map(np.testing.assert_array_equal, ends[name], ends["csv"])


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "coco"])
@pytest.mark.parametrize("text", ["", " \n", "nan"])
def test_a_missing_caption_is_a_bad_record_in_every_format(tmp_path, monkeypatch, name, text):
    """Not in COCO: there it is an image without captions, which is left out."""
    monkeypatch.setattr(pair_files, "caption", lambda number: text if number == 5 else f"number {number}")
    source = pair_files.load(name, tmp_path, train=write_all(tmp_path)[name]).train
    assert len(source) == pair_files.COUNT and source.captions(6) == ("number 6",)
    with pytest.raises(ValueError, match="the caption is missing or empty"):
        source.captions(5)


def test_held_out_pairs_are_the_same(parts):
    splits = [own.dataset.evals["val"] for own in parts.values()]
    for split in splits:
        assert split.texts == splits[0].texts and len(split.images) == 3
        for own, first in zip(split.images, splits[0].images, strict=True):
            np.testing.assert_array_equal(np.asarray(own), np.asarray(first))


def test_all_formats_of_files_are_here():
    """Formats of folders and of prepared data sets have their own tests."""
    assert set(SOURCES) - set(FORMATS) == {"emoji", "image_folder", "tfds"}
