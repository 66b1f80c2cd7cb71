"""A linear probe of a model on a data set: features of its labelled training images, then accuracies on its splits.

Letters: N training images, D features, K classes.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.records import Classes, Dataset, EvalSplit, RecordSource
from rankclip_jax.errors import UserError
from rankclip_jax.evals.linear_probe import Probe, accuracies, checked_options, commonest_class, fit, logits_of
from rankclip_jax.evals.pixels import pixel_vectors
from rankclip_jax.inference.encoder import Encoder

CHUNK = 1024  # training images in memory at a time
Metrics = dict[str, float]


class Labelled(NamedTuple):
    """Training images of one labelling: which records they are, int [N], and their classes."""

    rows: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class Test(NamedTuple):
    """A labelling of a split, with the class of each image as a column of the probe's logits (`columns_of`)."""

    split: EvalSplit
    kind: str
    columns: np.ndarray


def linear_probe(
    encoder: Encoder, dataset: Dataset, splits: Sequence[str], options: Mapping[str, Any], data: Any
) -> dict[str, Metrics]:
    """Fit a probe for each labelling of the training images, and evaluate it on the splits that have it too.

    Args:
      encoder: whose features to probe.
      dataset: its training images, read without augmentation, and evaluation splits.
      splits: names of those to evaluate on.
      options: those of `evals.linear_probe.DEFAULTS` that are other.
      data: `config.data`, for `num_threads` and `max_bad_fraction`.

    Returns:
      {"metrics", "chance", "pixels"}, each flat: ``<split>/linear_probe_<labelling>_top1`` and ``_per_class``. Chance
      is what a classifier that looks at no image reaches, pixels what the same probe does that is fitted to their
      pixels, averaged down, where the training images are in memory.

    Raises:
      UserError: there are no labels to train on, or none of the splits has a class with training images.
    """
    options = checked_options(options)
    tests = _tests(dataset, splits)
    kept, features_ND = training_features(encoder, dataset.train, data)
    wanted = {test.kind: readable(labelled(dataset, test.kind), kept) for test in tests}
    features = {"metrics": lambda split: encoder.image_features(split.images)}
    probes = {"metrics": _fit_all(kept, features_ND, wanted, options)}
    if dataset.train.images is not None:
        features["pixels"] = lambda split: pixel_vectors(split.images)
        probes["pixels"] = _fit_all(kept, pixel_vectors(dataset.train.images[kept]), wanted, options)
    found: dict[str, Metrics] = {"metrics": {}, "chance": {}, "pixels": {}}
    for split, of_split in itertools.groupby(tests, key=lambda test: test.split):
        made = {part: of(split) for part, of in features.items()}
        for _, kind, columns in of_split:
            scores = {part: np.asarray(logits_of(probes[part][kind]._asdict(), made[part])) for part in made}
            scores["chance"] = commonest_class(wanted[kind].labels, len(wanted[kind].names), len(columns))
            for part, of_part in scores.items():
                values = accuracies(of_part, columns)
                found[part] |= {f"{split.name}/linear_probe_{kind}_{key}": value for key, value in values.items()}
    return found


def _tests(dataset: Dataset, splits: Sequence[str]) -> list[Test]:
    """What there is to evaluate: labellings of splits, some of whose classes have training images."""
    trained = {kind: labelled(dataset, kind) for kind in dataset.train.classes}
    tests = [
        Test(split, kind, columns_of(split, kind, trained[kind].names))
        for split in map(dataset.evals.__getitem__, splits)
        for kind in split.classes
        if kind in trained
    ]
    tests = [test for test in tests if np.isin(test.columns, trained[test.kind].labels).any()]
    if not tests:
        raise UserError(
            f"a linear probe needs labels, and data set {dataset.name!r} has no labelling with classes both of "
            f"training images and of {', '.join(splits)}: give labelled data, such as --config=configs/emoji.py."
        )
    return tests


def _fit_all(
    kept: np.ndarray, features_ND: np.ndarray, wanted: Mapping[str, Labelled], options: Mapping[str, Any]
) -> dict[str, Probe]:
    """A probe for each labelling; `features_ND` are those of the records `kept`."""
    bar = tqdm(wanted.items(), desc="fitting probes", leave=False, disable=None)
    return {
        kind: fit(features_ND[np.searchsorted(kept, part.rows)], part.labels, len(part.names), options)
        for kind, part in bar
    }


def labelled(dataset: Dataset, kind: str) -> Labelled:
    """The training images that have a label of this kind."""
    labels, names = np.asarray(dataset.train.labels(kind)), tuple(dataset.train.classes[kind])
    rows = np.flatnonzero(labels >= 0)
    return Labelled(rows, labels[rows], names)


def readable(part: Labelled, kept: np.ndarray) -> Labelled:
    """Without the records that could not be read."""
    among = np.isin(part.rows, kept)
    return part._replace(rows=part.rows[among], labels=part.labels[among])


def columns_of(split: EvalSplit, kind: str, names: Sequence[str]) -> np.ndarray:
    """The number, among the training images' classes, of each image's class in a split; negative for none.

    Raises:
      UserError: the two number their classes differently and names do not tell which is which.
    """
    classes: Classes = split.classes[kind]
    if tuple(classes.names) == tuple(names):
        return np.asarray(classes.image_labels)
    number = {name: i for i, name in enumerate(names)}
    if len(number) < len(names) or len(set(classes.names)) < len(classes.names):
        raise UserError(
            f"the classes of {split.name!r} by {kind} are other than those of the training images, and some have the "
            "same name: give both the same list of classes."
        )
    of_class = np.array([number.get(name, -1 - i) for i, name in enumerate(classes.names)])
    return of_class[np.asarray(classes.image_labels)]


def training_features(encoder: Encoder, train: RecordSource, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features of every training image that can be read: their rows, int [N], and float32 [N, D].

    Raises:
      UserError: more than `data.max_bad_fraction` of them cannot be read.
    """
    chunks = _chunks(encoder, train, data.get("num_threads", 2) or 1)
    bar = tqdm(total=len(train), desc="features", unit="images", leave=False, disable=None)
    rows, features, bad = [], [], []
    for start, images in chunks:
        good = [i for i, image in enumerate(images) if isinstance(image, np.ndarray)]
        bad += [(start + i, image) for i, image in enumerate(images) if isinstance(image, Exception)]
        if good:
            rows.append(start + np.array(good))
            features.append(encoder.image_features(np.stack([images[i] for i in good])))
        bar.update(len(images))
    bar.close()
    if len(bad) > data.get("max_bad_fraction", 0.0) * len(train) or not rows:
        index, error = bad[0]
        raise UserError(
            f"{len(bad)} of {len(train)} training images cannot be read, above max_bad_fraction; the first is "
            f"{train.key(index)} ({type(error).__name__}: {error}). Mend or remove them."
        )
    return np.concatenate(rows), np.concatenate(features)


def _chunks(encoder: Encoder, train: RecordSource, threads: int) -> Iterator[tuple[int, list]]:
    """(first row, images as the tower sees them, or the exception of one that cannot be read), in order."""

    def image(index: int) -> np.ndarray | Exception:
        try:
            return encoder.pixels(train[index].image)
        except Exception as error:  # whatever a decoder raises
            return error

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(train), CHUNK):
            yield start, list(pool.map(image, range(start, min(start + CHUNK, len(train)))))
