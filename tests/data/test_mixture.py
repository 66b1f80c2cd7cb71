"""Mixtures and subsets: how often each pair occurs, and which captions and labels are kept."""

from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.data.mixture import Mixture, Subset
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.evals.probe_dataset import linear_probe
from tests.support import pair_files
from tests.support.pair_files import keys


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables without images, of 100 and 30 pairs: a0 ... and b0 ..."""
    folder = tmp_path_factory.mktemp("mixture")
    pair_files.write_tables(folder, a=100, b=30)
    return folder


def load(folder, name="csv", **options):
    return pair_files.load(name, folder, **options)


# ---------------------------------------------------------------- how often a pair occurs


def test_without_weights_every_pair_is_there_once(folder):
    train = load(folder, train="a.csv | b.csv").train
    assert keys(train) == [f"a.csv:a{i}" for i in range(100)] + [f"b.csv:b{i}" for i in range(30)]
    assert train.captions(129) == ("caption of b29",)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1, 1), (0.9, 0.1), (3, 1), (0.2, 0.8), (1e-3, 1)])
def test_with_weights_each_part_has_its_share(folder, weights):
    """Every pair at least once, no longer than that takes, and each pair of a part as often as its others."""
    train = load(folder, train=f"{weights[0]} a.csv | {weights[1]} b.csv").train
    counts = Counter(keys(train))
    assert len(counts) == 130
    shares = np.array(weights) / sum(weights)
    length = max(100 / shares[0], 30 / shares[1])
    assert abs(len(train) - length) <= 1
    for letter, share in zip("ab", shares, strict=True):
        of_part = [count for key, count in counts.items() if key.startswith(letter)]
        assert abs(sum(of_part) - share * length) <= 1 and max(of_part) - min(of_part) <= 1


def test_pairs_that_are_there_more_often_are_spread(folder):
    train = load(folder, train="0.6 a.csv | 0.4 b.csv").train  # 67 positions for 30 pairs
    twice = [
        int(key.removeprefix("b.csv:b"))
        for key, count in Counter(keys(train)).items()
        if key.startswith("b") and count == 3
    ]
    assert len(twice) == 7 and max(np.diff([0, *twice, 30])) <= 5


# ---------------------------------------------------------------- captions and labels


class Labelled(PairSource):
    """Pairs with these labels and class names, and a second caption each."""

    has_second_captions = True

    def __init__(self, labels, names):
        self._labels, self.class_names = labels, names

    def __len__(self):
        return len(self._labels)

    def captions(self, index):
        return (self.class_names[self._labels[index]],)

    def second_captions(self, index):
        return (f"second {index}",)

    def label(self, index):
        return self._labels[index]


class Plain(PairSource):
    """Pairs without labels and second captions."""

    def __len__(self):
        return 2


def test_second_captions_need_all_parts():
    first, second = Labelled([0, 0], ("cat",)), Labelled([0, 0], ("cat",))
    assert Mixture([first, second]).has_second_captions and Mixture([first, second]).second_captions(3) == ("second 1",)
    assert not Mixture([first, Plain()]).has_second_captions
    part = Subset(Mixture([first, second]), np.array([3]))
    assert part.has_second_captions and part.second_captions(0) == ("second 1",)


@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
def test_classes_of_a_mixture_are_joined(weights):
    parts = [Labelled([0, 1, 2], ("cat", "crane", "crane")), Labelled([2, 1, 0], ("crane", "dog", "cat"))]
    mixture = Mixture(parts, weights)
    assert mixture.class_names == ("cat", "crane", "crane", "dog")
    names = [(mixture.class_names[mixture.label(i)],) for i in range(len(mixture))]
    assert names == [mixture.captions(i) for i in range(len(mixture))]
    assert [mixture.label(i) for i in range(3)] == [0, 1, 2]  # two classes of one name stay two
    part = Subset(mixture, np.array([len(mixture) - 1, 0]))
    assert part.class_names == mixture.class_names and [part.label(i) for i in range(2)] == [1, 0]
    same = Mixture([parts[0], Labelled([2], parts[0].class_names)])
    assert same.class_names == parts[0].class_names and same.label(3) == 2


def test_classes_need_all_parts():
    mixture = Mixture([Labelled([0], ("cat",)), Plain()])
    assert mixture.class_names == () and mixture.label(0) is None


COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}


class MeanColour:
    """Encodes an image to its mean colour."""

    def pixels(self, image):
        return np.asarray(image)

    def image_features(self, images, prepared=False):
        return np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]).astype(np.float32) / 255


def write_colours(folder, *names, count=20):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            colour = np.clip(np.array(COLOURS[name]) + np.random.default_rng(number).normal(0, 20, 3), 0, 255)
            Image.new("RGB", (8, 8), tuple(colour.astype(int))).save(folder / name / f"{number}.png")


@pytest.mark.parametrize("train", ["one | two", "0.3 one | 0.7 two"])
def test_a_linear_probe_on_a_mixture_of_labelled_sets(tmp_path, train):
    """The sets have different classes, so that equal labels mean different classes."""
    write_colours(tmp_path / "one", "red", "green")
    write_colours(tmp_path / "two", "blue", "green")
    write_colours(tmp_path / "test", *COLOURS, count=5)
    data = load(tmp_path, "image_folder", train=train, test="test", val_pairs=10)
    assert data.train.classes["class"] == data.evals["val"].classes["class"].names == ("green", "red", "blue")
    assert len(data.train.labels("class")) == len(data.train)
    options = ConfigDict({"num_threads": 2, "max_bad_fraction": 0.0})
    found = linear_probe(MeanColour(), data, ["val", "test"], {"learning_rate": 0.2}, options)
    assert found["metrics"] == {
        f"{split}/linear_probe_class_{key}": 1.0 for split in ("val", "test") for key in ("top1", "per_class")
    }
