"""The options of a `Loader`, checked, with compiled augmentation pipelines.

Letters: S image side in pixels, L tokens of a caption.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.config.resolve import check_batch
from rankclip_jax.data.images.transforms import Augment, make_augment
from rankclip_jax.data.text.augment import TextAugment, make_text_augment
from rankclip_jax.errors import UserError
from rankclip_jax.image_size import Size, height_width_of

PLAIN = ("images", "tokens")
MAX_CHUNK = 32  # examples that a thread makes at a time: much less than a batch, but enough to reduce overhead


@dataclass(frozen=True)
class LoaderOptions:
    """How a `Loader` makes its batches.

    Attributes:
      batch_size: B, rows of the global batch.
      seed: non-negative; seed and step determine every random draw.
      image_size: S, or (height, width).
      augment: image augmentation, compiled by `make_augment`; it returns uint8 [S, S, 3].
      text_augment: caption augmentation by `make_text_augment`, or None. Second captions are not augmented.
      view_augment, view_text_augment: the same for second views, if `keys` has them.
      keys: keys of a batch, a subset of the keys of `example_arrays`.
      process_index, process_count: this process makes slice `process_index` of `process_count` equal slices.
      num_threads: threads that decode, augment and tokenize; 0 for the calling thread.
      prefetch: local batches to make ahead and to keep in memory.
      max_bad_fraction: the run stops if a larger fraction of the records is unreadable.

    Raises:
      UserError: the processes do not divide the batch, or a number is negative.
    """

    batch_size: int
    seed: int
    image_size: Size
    augment: Augment
    text_augment: TextAugment | None = None
    view_augment: Augment | None = None
    view_text_augment: TextAugment | None = None
    keys: tuple[str, ...] = PLAIN
    process_index: int = 0
    process_count: int = 1
    num_threads: int = 2
    prefetch: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self):
        check_batch(self.batch_size, process_count=self.process_count)
        for name in ("seed", "num_threads"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; use 0 or a positive number.")

    @property
    def local_batch(self) -> int:
        """Rows of a batch that this process makes."""
        return self.batch_size // self.process_count

    @property
    def chunk(self) -> int:
        """Rows that a thread makes at a time."""
        return math.gcd(self.local_batch, MAX_CHUNK)


def loader_options(config: ConfigDict, keys: Sequence[str] = PLAIN, **changes: Any) -> LoaderOptions:
    """The options in a config. `changes` are fields of `LoaderOptions` that replace the values of the config.

    Raises:
      UserError: an invalid pipeline or size; see `make_augment`, `make_text_augment` and `LoaderOptions`.
    """
    data, image = config.data, config.model.image
    if min(height_width_of(image.image_size)) < 1:
        raise UserError(f"model.image.image_size={image.image_size} must be at least 1.")
    fit = {"size": image.image_size, "resize": image.resize}
    augment, text_augment = make_augment(data.augment, **fit), make_text_augment(data.text_augment)
    options = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "image_size": image.image_size,
        "augment": augment,
        "text_augment": text_augment,
        # If the second view has no pipeline, it is another draw from the pipeline of the first view.
        "view_augment": make_augment(data.view_augment, **fit) if data.view_augment else augment,
        "view_text_augment": make_text_augment(data.view_text_augment) if data.view_text_augment else text_augment,
        "num_threads": data.num_threads,
        "prefetch": data.prefetch,
        "max_bad_fraction": data.max_bad_fraction,
    }
    return LoaderOptions(keys=tuple(keys), **options | changes)


def example_arrays(options: LoaderOptions, context_length: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of one example in each array of a batch, with L = `context_length`."""
    image, text = ((*height_width_of(options.image_size), 3), np.uint8), ((context_length,), np.int32)
    known = {"images": image, "augmented_images": image, "index": ((), np.int64)}
    known |= {"tokens": text, "caption_tokens": text, "augmented_tokens": text}
    return {key: known[key] for key in options.keys}


def held_bytes(options: LoaderOptions, context_length: int) -> int:
    """Upper bound of the bytes of all examples in a loader and its last batch, without the original images."""
    arrays = example_arrays(options, context_length).values()
    example = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays)
    ahead = max(options.num_threads * options.chunk, options.prefetch * options.local_batch)
    # The returned batch exists twice for a moment: as chunks, and concatenated.
    return example * (ahead + 2 * options.local_batch)
