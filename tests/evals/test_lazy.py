"""Splits with lazily decoded images: memory, threads, processes, and the files in the run folder."""

import io
import json
import threading

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.images.lazy import LazyImages
from rankclip_jax.data.images.resize import resize_and_crop
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Dataset, EvalSplit, RecordSource
from rankclip_jax.data.text.tokenizer import train_tokenizer
from rankclip_jax.evals.embeddings import SplitEmbeddings
from rankclip_jax.evals.evaluate_dataset import evaluate_splits, shown_split
from rankclip_jax.evals.results import strings_of, write_embeddings
from rankclip_jax.evals.split import metric_names
from rankclip_jax.inference.encoder import AHEAD, Encoder
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.report.run_folder import read_run
from rankclip_jax.training.step import make_init
from tests.support import processes
from tests.support.pair_files import jpeg


class Pairs(PairSource):
    """Images of many sizes; those in `bad` are broken. Records which images were read."""

    def __init__(self, count=40, bad=()):
        self.count, self.bad, self.reads, self.lock = count, bad, [], threading.Lock()

    def __len__(self):
        return self.count

    def key(self, index):
        return f"p{index}"

    def captions(self, index):
        return (f"caption {index}",)

    def image_bytes(self, index):
        with self.lock:
            self.reads.append(index)
        return jpeg(index)[: 100 if index in self.bad else None]


def split_of(pairs, name="test"):
    ids = np.arange(len(pairs))
    return EvalSplit(name, LazyImages(pairs), ids, tuple(f"caption {i}" for i in ids), ids)


def make_encoder(devices, batch_size=16):
    model = get_preset("mu")
    model.image.layers = model.text.layers = 1
    tokenizer = train_tokenizer(["caption 0 1 2 3 4 5 6 7 8 9"], 300, model.text.context_length)
    towers = build_towers(model, tokenizer.vocab_size, tokenizer.eot_id)
    objective = build_objective(objective_config("clip"), RunInfo(20, 5))
    params = jax.jit(make_init(towers, objective, optax.identity()))(jax.random.key(0))["params"]
    return Encoder(towers, Weights(params, {}), tokenizer, make_mesh(devices), batch_size=batch_size)


@pytest.fixture(scope="module")
def encoder():
    return make_encoder(jax.devices()[:1])


def dataset_of(*splits):
    return Dataset("some", RecordSource(), {split.name: split for split in splits}, "digest", {})


def test_embeddings_equal_those_of_images_in_memory(encoder):
    pairs = Pairs()
    images = [np.asarray(Image.open(io.BytesIO(jpeg(i)))) for i in range(40)]
    fitted = np.stack([resize_and_crop(image, encoder.image_size) for image in images])
    expected = encoder.encode_image(fitted)
    np.testing.assert_array_equal(encoder.encode_image(LazyImages(pairs)), expected)
    assert sorted(pairs.reads) == list(range(40))  # each once, though the last batch is padded
    np.testing.assert_allclose(encoder.encode_image(LazyImages(pairs)[[7, 3]]), expected[[7, 3]], atol=1e-6)


def test_only_a_few_batches_are_in_memory(encoder, monkeypatch):
    """When a batch is encoded, at most two earlier batches have no result yet."""
    pairs, finished, behind = Pairs(160), [], []
    encode, asarray = encoder._image, np.asarray

    def noted(variables, batch):
        behind.append(len(behind) - len(finished))
        return encode(variables, batch)

    def fetched(array, *args, **options):
        if isinstance(array, jax.Array):
            finished.append(1)
        return asarray(array, *args, **options)

    monkeypatch.setattr(encoder, "_image", noted)
    monkeypatch.setattr("rankclip_jax.inference.encoder.np.asarray", fetched)
    assert encoder.encode_image(LazyImages(pairs)).shape == (160, 16)
    assert len(behind) == 10 and max(behind) == AHEAD


def test_metric_names_read_no_image():
    pairs = Pairs()
    names = metric_names(split_of(pairs), ("retrieval", "rank_consistency", "geometry"))
    assert "test/image_to_text_R@1" in names and not pairs.reads


def test_unreadable_images_are_counted(encoder, caplog):
    """They are counted in every evaluation, and logged once. Without unreadable images there is no such metric."""
    dataset = dataset_of(split_of(Pairs(bad=(3, 20)), "val"), split_of(Pairs(), "test"))
    for _ in range(2):
        metrics, embeds = evaluate_splits(encoder, dataset, ("val", "test"), ("retrieval",))
        assert metrics["val/unreadable_images"] == 2 and "test/unreadable_images" not in metrics
    assert caplog.text.count("is evaluated as white") == 2
    white = encoder.encode_image(np.full((1, 4, 4, 3), 255, np.uint8))
    np.testing.assert_allclose(embeds["val"].image_embeds[[3, 20]], np.repeat(white, 2, 0), atol=1e-6)


def test_thumbnails_of_images_of_different_sizes(tmp_path):
    pairs = Pairs(30, bad=(4,))
    embeds = np.eye(30, 8, dtype=np.float32) + 0.1
    write_embeddings(tmp_path, SplitEmbeddings(embeds, embeds), split_of(pairs), max_kept=10)
    assert len(set(pairs.reads)) == 10
    with np.load(tmp_path / "embeddings.npz") as kept:
        assert kept["cell"].tolist() == [64, 64] and len(strings_of(kept)["texts"]) == 10
        sheet = np.asarray(Image.open(io.BytesIO(kept["sheet"].tobytes())))
        for position, index in enumerate(kept["image_ids"]):
            row, column = divmod(position, int(kept["columns"]))
            cell = sheet[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
            image = np.full((8, 8, 3), 255, np.uint8) if index == 4 else np.asarray(Image.open(io.BytesIO(jpeg(index))))
            assert np.abs(cell.astype(int) - resize_and_crop(image, 64)).mean() < 20
    assert read_run(tmp_path).split.name == "test"


def test_the_split_that_the_report_shows():
    first, last = split_of(Pairs(), "val"), split_of(Pairs(), "test")
    assert shown_split(dataset_of(first, last), "") is last and shown_split(dataset_of(first, last), "val") is first
    assert shown_split(dataset_of(), "") is None


TOGETHER = """
import json, sys
import jax
from rankclip_jax import cli
from rankclip_jax.parallel import processes as distributed
def main(argv):
    distributed.initialize()
    from tests.evals.test_lazy import Pairs, dataset_of, evaluate_splits, make_encoder, split_of
    pairs = Pairs(bad=(3, 12, 39))
    encoder = make_encoder(jax.devices())
    metrics, _ = evaluate_splits(encoder, dataset_of(split_of(pairs)), ("test",), ("retrieval",))
    print(json.dumps([metrics, sorted(pairs.reads)]))
cli.run(main)
"""


@pytest.mark.slow  # tests/parallel/test_processes.py covers what the processes do together
def test_two_processes_read_half_of_the_images_each_and_agree(encoder):
    expected, _ = evaluate_splits(encoder, dataset_of(split_of(Pairs(bad=(3, 12, 39)))), ("test",), ("retrieval",))
    results = processes.run_together(TOGETHER, count=2)
    assert [code for code, _, _ in results] == [0, 0], results
    (first, reads), (second, others) = (json.loads(out.splitlines()[-1]) for _, out, _ in results)
    assert first == second and first["test/unreadable_images"] == 3
    assert first == pytest.approx(expected, abs=1e-6)
    assert set(reads) | set(others) == set(range(40)) and len(reads) + len(others) <= 42
