"""Builds evaluation splits from pairs.

Letters: N images, M texts, K classes.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rankclip_jax.data.caption_check import warnings_of
from rankclip_jax.data.class_records import LABELLING
from rankclip_jax.data.images.lazy import LazyImages
from rankclip_jax.data.in_parallel import READERS, in_parallel
from rankclip_jax.data.mixture import Subset
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Classes, EvalSplit, fill_template
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import short

LOG = logging.getLogger(__name__)


def eval_split(name: str, pairs: PairSource, templates: tuple[str, ...]) -> EvalSplit:
    """A split of all pairs with readable captions, or a readable label; `UserError` if there is none.

    An image with captions matches its own captions. A labelled image matches the caption of its class, and the split
    has a labelling "class" for zero-shot classification.
    """
    found, kept = _read(name, pairs, pairs.label if pairs.class_names else pairs.captions)
    images = LazyImages(pairs if len(kept) == len(pairs) else Subset(pairs, kept))
    if pairs.class_names:
        return _of_classes(name, images, np.array(found, np.int32), pairs.class_names, templates)
    for line in warnings_of(name, found):
        LOG.warning("%s", line)
    return EvalSplit(
        name=name,
        images=images,
        image_ids=np.arange(len(found), dtype=np.int32),
        texts=tuple(caption for captions in found for caption in captions),
        text_ids=np.repeat(np.arange(len(found), dtype=np.int32), [len(captions) for captions in found]),
    )


def _read(name: str, pairs: PairSource, read: Callable[[int], Any]) -> tuple[list, np.ndarray]:
    """The result of `read` for each pair without an error, and the indices of these pairs."""
    found, kept, bad = [], [], []
    for results in in_parallel(partial(_tried, pairs, read), range(len(pairs)), READERS, f"captions of {name}"):
        found += [result for _, result, error in results if not error]
        kept += [index for index, _, error in results if not error]
        bad += [error for _, _, error in results if error]
    if bad:
        LOG.warning("split %s: %d of %d pairs left out, first %s", name, len(bad), len(pairs), bad[0])
    if not found:
        raise UserError(
            f"none of the {len(pairs)} pairs of split {name!r} has a caption. First: {(bad or ['none'])[0]}"
        )
    return found, np.array(kept, np.int64)


def _tried(pairs: PairSource, read: Callable[[int], Any], indices: Sequence[int]) -> list[tuple[int, Any, str]]:
    """Each index with the result of `read`, or with its key and error as text."""
    results = []
    for index in indices:
        try:
            results.append((index, read(index), ""))
        except Exception as error:  # any error of a reader
            results.append((index, None, f"{pairs.key(index)} ({type(error).__name__}: {short(error)})"))
    return results


def _of_classes(
    name: str, images: LazyImages, labels: np.ndarray, names: tuple[str, ...], templates: tuple[str, ...]
) -> EvalSplit:
    class_ids = np.arange(len(names), dtype=np.int32)
    return EvalSplit(
        name=name,
        images=images,
        image_ids=labels,
        texts=tuple(fill_template(templates[0], class_name) for class_name in names),
        text_ids=class_ids,
        classes={LABELLING: Classes(names, labels, class_ids, templates)},
    )
