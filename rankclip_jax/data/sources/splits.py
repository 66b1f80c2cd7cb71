"""Pairs as a split to evaluate on.

Letters: N images, M texts, K classes.
"""

import logging

import numpy as np
from tqdm import tqdm

from rankclip_jax.data.class_records import LABELLING
from rankclip_jax.data.images.lazy import LazyImages
from rankclip_jax.data.mixture import Subset
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Classes, EvalSplit, fill_template
from rankclip_jax.errors import UserError
from rankclip_jax.parallel import processes

LOG = logging.getLogger(__name__)


def eval_split(name: str, pairs: PairSource, templates: tuple[str, ...]) -> EvalSplit:
    """A split of all pairs that have a caption, or a class.

    Images with captions match their own captions. Images of classes match the caption of their class, and
    have a labelling "class" for zero-shot classification.

    Raises:
      UserError: no pair has any.
    """
    is_labelled = hasattr(pairs, "class_names")
    found, kept = _read(name, pairs, pairs.label if is_labelled else pairs.captions)
    images = LazyImages(pairs if len(kept) == len(pairs) else Subset(pairs, kept))
    if is_labelled:
        return _of_classes(name, images, np.array(found, np.int32), pairs.class_names, templates)
    counts = [len(captions) for captions in found]
    return EvalSplit(
        name=name,
        images=images,
        image_ids=np.arange(len(found), dtype=np.int32),
        texts=tuple(caption for captions in found for caption in captions),
        text_ids=np.repeat(np.arange(len(found), dtype=np.int32), counts),
    )


def _read(name: str, pairs: PairSource, read) -> tuple[list, np.ndarray]:
    """What `read` gives for the pairs for which it gives something, and their numbers."""
    found, kept, bad = [], [], []
    hidden = None if processes.is_main() else True
    bar = tqdm(range(len(pairs)), desc=f"captions of {name}", delay=2, leave=False, disable=hidden)
    for index in bar:
        try:
            found.append(read(index))
            kept.append(index)
        except Exception as error:  # whatever a reader raises
            bad.append(f"{pairs.key(index)} ({type(error).__name__}: {error})")
    if bad:
        LOG.warning("split %s: %d of %d pairs left out, first %s", name, len(bad), len(pairs), bad[0])
    if not found:
        raise UserError(
            f"none of the {len(pairs)} pairs of split {name!r} has a caption. First: {(bad or ['none'])[0]}"
        )
    return found, np.array(kept, np.int64)


def _of_classes(
    name: str, images: LazyImages, labels: np.ndarray, names: tuple[str, ...], templates: tuple[str, ...]
) -> EvalSplit:
    numbers = np.arange(len(names), dtype=np.int32)
    return EvalSplit(
        name=name,
        images=images,
        image_ids=labels,
        texts=tuple(fill_template(templates[0], class_name) for class_name in names),
        text_ids=numbers,
        classes={LABELLING: Classes(names, labels, numbers, tuple(templates))},
    )
