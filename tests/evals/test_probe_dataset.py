"""Linear probes of models on data sets: labels of training images and splits, unreadable images, the command."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.config import base
from rankclip_jax.data.records import Classes, Dataset, EvalSplit, Record, RecordSource
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.sources.emoji import load as load_emoji
from rankclip_jax.errors import UserError
from rankclip_jax.evals.probe_dataset import columns_of, linear_probe
from rankclip_jax.evals.results import PROBE_FILE, write_probe
from rankclip_jax.evaluate import describe, probe
from rankclip_jax.inference.load import load
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.report import write_report
from rankclip_jax.weights.folder import write_imported
from rankclip_jax.weights.formats.source import read_source
from tests.golden.make_weights import FOLDER
from tests.support import processes
from tests.support.run_folders import write_run

pytestmark = pytest.mark.xdist_group("probing")
CLIP = str(FOLDER / "clip")
COLOURS = ("red", "green", "blue")
DATA = ConfigDict({"num_threads": 2, "max_bad_fraction": 0.1})


class Mean:
    """Encodes an image to its mean colour."""

    def pixels(self, image):
        return image[:4, :4]

    def image_features(self, images, prepared=False):
        return np.asarray(images).reshape(len(images), -1, 3).mean(axis=1).astype(np.float32) / 255


class Images(RecordSource):
    """Training images of one colour each; `broken` cannot be read, `unlabelled` have no class."""

    def __init__(self, count=120, broken=(), unlabelled=(), names=COLOURS, noise=30):
        rng = np.random.default_rng(0)
        self._labels = rng.integers(0, 3, count)
        light = 200 * np.eye(3)[self._labels][:, None, None, :]
        self._images = np.clip(light + rng.normal(0, noise, (count, 4, 4, 3)) + 20, 0, 255).astype(np.uint8)
        self._broken, self._unlabelled = broken, list(unlabelled)
        self.classes = {"colour": names}

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        if index in self._broken:
            raise ValueError("no JPEG")
        return Record(self.key(index), self._images[index], ("an image",))

    def key(self, index):
        return f"image {index}"

    def labels(self, labelling):
        labels = {"colour": self._labels}[labelling].copy()
        labels[self._unlabelled] = -1
        return labels

    def split(self, name="test", names=COLOURS, rows=slice(60), labels=None):
        labels = self._labels[rows] if labels is None else labels
        ids, texts = np.arange(len(labels)), tuple(map(str, range(len(labels))))
        classes = {"colour": Classes(names, labels, labels, ("{}",))}
        return EvalSplit(name, self._images[rows], ids, texts, ids, classes)


def probed(train, *splits, options=None):
    dataset = Dataset("colours", train, {split.name: split for split in splits}, "digest", {})
    return linear_probe(Mean(), dataset, [split.name for split in splits], options or {"learning_rate": 0.2}, DATA)


def test_visible_classes_are_learned():
    train = Images()
    found = probed(train, train.split(), train.split("val", rows=slice(60, 120)))
    assert found["metrics"] == {
        f"{s}/linear_probe_colour_{k}": 1.0 for s in ("test", "val") for k in ("top1", "per_class")
    }
    commonest = np.bincount(train.labels("colour")).argmax()
    assert found["chance"]["test/linear_probe_colour_top1"] == np.mean(train.labels("colour")[:60] == commonest)
    assert found["pixels"] == {}  # these training images are not in memory


def test_nothing_is_learned_from_shuffled_labels():
    train = Images()
    train._labels = np.random.default_rng(1).permutation(train._labels)
    assert probed(train, Images().split())["metrics"]["test/linear_probe_colour_top1"] < 0.6


def test_unreadable_and_unlabelled_images_are_left_out():
    """If the labels were shifted by one image, the accuracy would be low."""
    train = Images(broken=(0, 7, 50), unlabelled=(3, 4, 5, 119))
    assert probed(train, Images().split())["metrics"]["test/linear_probe_colour_top1"] == 1.0


def test_too_many_unreadable_images():
    train = Images(broken=range(13))
    with pytest.raises(UserError, match=r"13 of 120 training images cannot be read.* image 0 \(ValueError: no JPEG\)"):
        probed(train, train.split())


def test_classes_are_matched_by_name():
    """A split may lack a class of the training images, or have one more."""
    train = Images()
    split = Images().split(names=("blue", "green", "mauve", "red"), labels=np.array([3, 1, 0, 2])[train._labels[:60]])
    assert probed(train, split)["metrics"]["test/linear_probe_colour_top1"] == 1.0
    columns = columns_of(split, "colour", COLOURS)
    np.testing.assert_array_equal(columns, np.asarray(train._labels[:60]))
    unknown = Images().split(names=("red", "mauve"), labels=np.array([0, 1, 1]))
    assert columns_of(unknown, "colour", COLOURS)[1] < 0


@pytest.mark.parametrize(
    "train, split, message",
    [
        (
            RecordSource(),
            Images().split(),
            "needs labels, and data set 'colours' has no labelling .* of test",
        ),
        (
            Images(),
            Images().split(names=("a", "b", "c")),
            "has no labelling with classes both of training images",
        ),
        (Images(), Images().split(names=("a", "red", "red")), "some have the same name: give both the same list"),
    ],
)
def test_labels_that_do_not_match(train, split, message):
    with pytest.raises(UserError, match=message):
        probed(train, split)


def test_labels_of_the_embedded_images_are_those_of_the_splits():
    """A concept has the same class in training and in every split."""
    data = load_emoji()
    for kind in ("group", "subgroup"):
        assert data.train.classes[kind] == data.evals["test_style"].classes[kind].names
        of_concept = dict(zip(data.train.concept_ids.tolist(), data.train.labels(kind).tolist(), strict=True))
        for name in ("val", "test_style"):
            split = data.evals[name]
            pairs = zip(split.image_ids.tolist(), split.classes[kind].image_labels.tolist(), strict=True)
            seen = [(of_concept[concept], label) for concept, label in pairs if concept in of_concept]
            assert len(seen) > 100 and all(a == b for a, b in seen)
    # No image of a held-out subgroup has a subgroup of the training images.
    held_out = data.evals["test_subgroup"].classes["subgroup"].image_labels
    assert not set(held_out) & set(data.train.labels("subgroup"))


# Features before normalisation.


def test_features_are_embeddings_before_normalisation():
    encoder, images = load(CLIP), np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    features, embeds = encoder.image_features(images), encoder.encode_image(images)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    assert features.dtype == np.float32 and np.abs(lengths - 1).min() > 0.05 and np.ptp(lengths) > 0
    np.testing.assert_allclose(features / lengths, embeds, atol=1e-6)
    np.testing.assert_array_equal(encoder.image_features(images[1]), encoder.image_features(images[1:2]))


def test_features_of_a_distribution_model_are_the_input_of_its_head():
    model = base.get_config("mu", "nclip").model
    model.embeds = "distribution"
    towers = build_towers(model, 300, 299)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    inputs, batch = ("image_logits",), {"images": images}
    variables = towers.init(jax.random.key(0), inputs, batch, method="compute")
    features = towers.apply(variables, images, method="image_features")
    logits = towers.apply(variables, inputs, batch, method="compute")["image_logits"]
    assert features.shape == (2, 32)
    found = towers.apply(variables, features, method=lambda self, x: self.image_head(x, train=False))
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)


# Runs, imported folders, weights of other libraries.


def small(**changes):
    config = base.get_config("mu")
    config.data.train_limit, config.eval.linear_probe.epochs = 300, 2
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probing") / "imported"
    write_imported(read_source(CLIP), folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """Foreign weights, as if a run on the embedded images had trained them."""
    model, config = read_source(CLIP), small()
    config = ConfigDict({"model": model.config, "data": config.data, "eval": config.eval})
    data = {"digest": SOURCES["emoji"](config.data).digest}
    return write_run(tmp_path / "run", config, data, model.tokenizer, {1: (model.weights._asdict(), 0.5)})


def test_a_run_is_probed_on_its_own_and_on_other_data(run, monkeypatch):
    own = probe(run)
    assert own == json.loads((run / PROBE_FILE).read_text())
    assert (
        "test_style/linear_probe_subgroup_per_class"
        in own["metrics"].keys() & own["chance"].keys() & own["pixels"].keys()
    )
    assert "test_subgroup/linear_probe_group_top1" in own["metrics"]
    assert not any(key.startswith("test_subgroup/linear_probe_subgroup") for key in own["metrics"])
    train = Images()
    colours = Dataset("colours", train, {"test": train.split()}, "0123", {})
    monkeypatch.setitem(SOURCES, "colours", lambda config: colours)
    other = probe(run, config=small(**{"data.name": "colours", "data.root": "/data/sets/paint"}))
    assert {key.rsplit("/", 1)[0] for key in other["metrics"]} == {"paint/test"}
    kept = json.loads((run / PROBE_FILE).read_text())
    assert kept["metrics"] == own["metrics"] | other["metrics"]
    shown = write_report(run).read_text()
    assert "Linear probe" in shown and "paint/test" in shown and "by subgroup" in shown


def test_results_of_named_splits_are_not_written(run):
    found = probe(run, splits=["val"])
    assert {key.split("/")[0] for key in found["metrics"]} == {"val"}
    assert not (run / PROBE_FILE).exists()
    with pytest.raises(UserError, match="unknown evaluation split 'vall'"):
        probe(run, splits=["vall"])


def test_foreign_weights_and_imported_folders(imported):
    config = small()
    found = probe(CLIP, config=config)
    assert found == probe(imported, config=config) == json.loads((imported / PROBE_FILE).read_text())
    assert {key.split("/")[0] for key in found["metrics"]} == {"emoji"}
    with pytest.raises(UserError, match="add --config="):
        probe(CLIP)


def test_an_image_folder_with_other_classes_in_the_test_split(tmp_path):
    """Another order of folders, an unreadable file, and a class without training images."""
    root, rng = tmp_path / "paint", np.random.default_rng(0)
    for split, names in (("train", COLOURS), ("test", ("amber", *COLOURS[1:]))):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for i in range(40):
                light = 200 * np.eye(3)[COLOURS.index(name)] if name in COLOURS else np.full(3, 90)
                noisy = np.clip(light + rng.normal(0, 20, (20, 24, 3)) + 20, 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(root / split / name / f"{i}.png")
    (root / "train" / "red" / "7.png").write_bytes(b"no image")
    config = small(**{"data.name": "image_folder", "data.root": str(root), "data.train": "train", "data.test": "test"})
    config.data.train_limit = 0
    config.eval.linear_probe.update(epochs=20, learning_rate=0.05)
    found = probe(CLIP, config=config)
    assert set(found["metrics"]) == {f"paint/test/linear_probe_class_{key}" for key in ("top1", "per_class")}
    assert found["metrics"]["paint/test/linear_probe_class_top1"] == pytest.approx(2 / 3, abs=0.03)
    assert found["chance"]["paint/test/linear_probe_class_per_class"] == pytest.approx(1 / 3)


def test_results_of_another_step_or_of_a_damaged_file_are_replaced(tmp_path):
    results = {"step": 1, "metrics": {"a/x": 1.0}, "chance": {}, "pixels": {}}
    write_probe(tmp_path, results)
    write_probe(tmp_path, results | {"metrics": {"b/x": 2.0}})
    read = lambda: json.loads((tmp_path / PROBE_FILE).read_text())  # noqa: E731
    assert read()["metrics"] == {"a/x": 1.0, "b/x": 2.0}
    write_probe(tmp_path, results | {"step": 2, "metrics": {"c/x": 3.0}})
    assert read() == results | {"step": 2, "metrics": {"c/x": 3.0}}
    (tmp_path / PROBE_FILE).write_text("{")
    write_probe(tmp_path, results)
    assert read() == results


def test_the_command(run):
    arguments = ("-m", "rankclip_jax.evaluate", run, "--linear_probe")
    code, out, err = processes.finish(processes.start_python(*arguments), 120)
    assert code == 0, err
    assert "Linear probe." in out and "linear_probe.json written" in out and "Retrieval" not in out
    assert out.startswith(describe(json.loads((run / PROBE_FILE).read_text())).splitlines()[0])
    code, _, err = processes.finish(
        processes.start_python(*arguments, "--config=configs/base.py:mu", "--splits=x"), 120
    )
    assert (code, err.count("\n")) == (2, 1) and "unknown evaluation split 'x'" in err
