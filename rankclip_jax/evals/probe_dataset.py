"""Linear probes of a model on a data set: fitted on features of its training images, evaluated on its splits.

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
from rankclip_jax.evals.linear_probe import Probe, accuracies, checked_options, fit, logits_of, majority_class
from rankclip_jax.evals.pixels import pixel_vectors
from rankclip_jax.inference.encoder import Encoder

CHUNK = 1024  # training images in memory at a time
Metrics = dict[str, float]


class Labelled(NamedTuple):
    """The labelled training images: int [N] record indices, int [N] labels (indices into `names`), K class names."""

    rows: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class Test(NamedTuple):
    """One labelling of a split; ``columns`` has the column of each image's class in the logits (`columns_of`)."""

    split: EvalSplit
    labelling: str
    columns: np.ndarray


def linear_probe(
    encoder: Encoder, dataset: Dataset, splits: Sequence[str], options: Mapping[str, Any], data: Any
) -> dict[str, Metrics]:
    """Fit a probe for each labelling of the training images, and evaluate it on the splits with the same labelling.

    Args:
      dataset: its training images are read without augmentation.
      splits: names of the splits to evaluate on.
      options: changes to `evals.linear_probe.DEFAULTS`.
      data: `config.data`, for `num_threads` and `max_bad_fraction`.

    Returns:
      {"metrics", "chance", "pixels"}, each flat: ``<split>/linear_probe_<labelling>_top1`` and ``_per_class``.
      "chance" is the accuracy of the majority class. "pixels" is the same probe fitted on downsampled pixels; it is
      empty if the training images are not in memory.

    Raises:
      UserError: the training images have no labels, or no split has a class with training images.
    """
    options = checked_options(options)
    tests = _tests(dataset, splits)
    kept, features_ND = training_features(encoder, dataset.train, data)
    wanted = {test.labelling: readable(labelled(dataset, test.labelling), kept) for test in tests}
    features = {"metrics": lambda split: encoder.image_features(split.images)}
    probes = {"metrics": _fit_all(kept, features_ND, wanted, options)}
    if dataset.train.images is not None:
        features["pixels"] = lambda split: pixel_vectors(split.images)
        probes["pixels"] = _fit_all(kept, pixel_vectors(dataset.train.images[kept]), wanted, options)
    found: dict[str, Metrics] = {"metrics": {}, "chance": {}, "pixels": {}}
    for split, tests_of_split in itertools.groupby(tests, key=lambda test: test.split):
        inputs = {part: features_of(split) for part, features_of in features.items()}
        for _, labelling, columns in tests_of_split:
            scores = {part: np.asarray(logits_of(probes[part][labelling]._asdict(), inputs[part])) for part in inputs}
            scores["chance"] = majority_class(wanted[labelling].labels, len(wanted[labelling].names), len(columns))
            for part, scores_MK in scores.items():
                values = accuracies(scores_MK, columns)
                found[part] |= {f"{split.name}/linear_probe_{labelling}_{key}": value for key, value in values.items()}
    return found


def _tests(dataset: Dataset, splits: Sequence[str]) -> list[Test]:
    """Return those labellings of the splits that have a class with training images."""
    trained = {labelling: labelled(dataset, labelling) for labelling in dataset.train.classes}
    tests = [
        Test(split, labelling, columns_of(split, labelling, trained[labelling].names))
        for split in map(dataset.evals.__getitem__, splits)
        for labelling in split.classes
        if labelling in trained
    ]
    tests = [test for test in tests if np.isin(test.columns, trained[test.labelling].labels).any()]
    if not tests:
        raise UserError(
            f"a linear probe needs labels, and data set {dataset.name!r} has no labelling with classes both of "
            f"training images and of {', '.join(splits)}: give labelled data, such as --config=configs/emoji.py."
        )
    return tests


def _fit_all(
    kept: np.ndarray, features_ND: np.ndarray, wanted: Mapping[str, Labelled], options: Mapping[str, Any]
) -> dict[str, Probe]:
    """Fit a probe for each labelling; `features_ND` are the features of the records `kept`."""
    bar = tqdm(wanted.items(), desc="fitting probes", leave=False, disable=None)
    return {
        labelling: fit(features_ND[np.searchsorted(kept, part.rows)], part.labels, len(part.names), options)
        for labelling, part in bar
    }


def labelled(dataset: Dataset, labelling: str) -> Labelled:
    """Return the training images that have a label of this labelling."""
    labels, names = np.asarray(dataset.train.labels(labelling)), tuple(dataset.train.classes[labelling])
    rows = np.flatnonzero(labels >= 0)
    return Labelled(rows, labels[rows], names)


def readable(part: Labelled, kept: np.ndarray) -> Labelled:
    """Return `part` with only those records that are in `kept`."""
    is_kept = np.isin(part.rows, kept)
    return part._replace(rows=part.rows[is_kept], labels=part.labels[is_kept])


def columns_of(split: EvalSplit, labelling: str, names: Sequence[str]) -> np.ndarray:
    """Return, for each image of a split, the index of its class in `names`; negative if `names` lacks the class.

    Raises:
      UserError: the classes of the split differ from `names`, and one of the lists has a duplicate.
    """
    classes: Classes = split.classes[labelling]
    if tuple(classes.names) == tuple(names):
        return np.asarray(classes.image_labels)
    index = {name: i for i, name in enumerate(names)}
    if len(index) < len(names) or len(set(classes.names)) < len(classes.names):
        raise UserError(
            f"the classes of {split.name!r} by {labelling} differ from those of the training images, and some have the "
            "same name: give both the same list of classes."
        )
    columns = np.array([index.get(name, -1 - i) for i, name in enumerate(classes.names)])
    return columns[np.asarray(classes.image_labels)]


def training_features(encoder: Encoder, train: RecordSource, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of all readable training images, int [N], and their features, float32 [N, D].

    Raises:
      UserError: the fraction of unreadable images is above `data.max_bad_fraction`.
    """
    bar = tqdm(total=len(train), desc="features", unit="images", leave=False, disable=None)
    rows, features, bad = [], [], []
    for start, images in _chunks(encoder, train, max(1, data.num_threads)):
        good = [i for i, image in enumerate(images) if isinstance(image, np.ndarray)]
        bad += [(start + i, image) for i, image in enumerate(images) if isinstance(image, Exception)]
        if good:
            rows.append(start + np.array(good))
            features.append(encoder.image_features(np.stack([images[i] for i in good]), prepared=True))
        bar.update(len(images))
    bar.close()
    if len(bad) > data.max_bad_fraction * len(train) or not rows:
        index, error = bad[0]
        raise UserError(
            f"{len(bad)} of {len(train)} training images cannot be read, above max_bad_fraction; the first is "
            f"{train.key(index)} ({type(error).__name__}: {error}). Repair or remove them."
        )
    return np.concatenate(rows), np.concatenate(features)


def _chunks(encoder: Encoder, train: RecordSource, threads: int) -> Iterator[tuple[int, list]]:
    """Yield (index of the first record, inputs of the image tower) in order, with an exception for each bad image."""

    def image(index: int) -> np.ndarray | Exception:
        try:
            return encoder.pixels(train[index].image)
        except Exception as error:  # decoders raise many types
            return error

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(train), CHUNK):
            yield start, list(pool.map(image, range(start, min(start + CHUNK, len(train)))))
