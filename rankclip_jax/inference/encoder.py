"""Encode images and texts with a trained two-tower model.

Letters: N images or texts, L context length, D embedding, S side of the image tower's input.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import IO, Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.images.resize import make_resize
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.inference.inputs import image_items, read_image, text_items
from rankclip_jax.inference.placement import bucket, default_batch_size, make_place
from rankclip_jax.models.text import reads_padding
from rankclip_jax.parallel.mesh import block_if_cpu_collectives, put_batch, replicated

THREADS = min(16, os.cpu_count() or 1)
SHORTEST = 8  # tokens; texts are padded to at least this length
AHEAD = 2  # number of batches that the device may compute while the next one is read
ImageLike = str | os.PathLike | bytes | IO[bytes] | Image.Image | np.ndarray | jax.Array


class Encoder:
    """Encodes images and texts in batches that are split over the mesh.

    A call with at most `batch_size` rows pads them to the next power of two (times the number of devices). Longer calls
    are encoded in batches of `batch_size`, and the last batch is padded. Tokens of texts are padded to a power of two
    too, or to the context length. Each size is compiled once, at its first use.

    The same call gives the same bits every time. Sizes differ by float rounding: embeddings of one image alone and
    among others differ by about 1e-6 in float32, and by about 1e-3 in bfloat16.

    In a run of several processes, all processes must call it with the same arguments, and all get the whole result.

    Attributes:
      batch_size: largest number of rows that are encoded together, on all devices.
      weights: on the devices, see `make_place`. Set them to evaluate a later step with the same compiled programs.
      step: number of training steps of a loaded model; None for a model in training.
      image_size: S, or (height, width).
    """

    def __init__(
        self,
        towers: nn.Module,
        weights: Weights,
        tokenizer: Tokenizer,
        mesh: Mesh,
        *,
        batch_size: int | None = None,
        step: int | None = None,
    ):
        """Put the weights on the devices. `batch_size` is rounded up to a multiple of the number of devices.

        Without `batch_size`, it is chosen for the devices.
        """
        self._place = make_place(mesh)
        self.weights = weights
        self.step = step
        self.tokenizer = tokenizer
        self.image_size = towers.image.image_size
        self._text_tower = towers.text
        self._resize = make_resize(towers.resize, self.image_size)
        self._mesh = mesh
        self.batch_size = -(-(batch_size or default_batch_size(mesh)) // mesh.size) * mesh.size
        everywhere = NamedSharding(mesh, P())  # every process can read the whole result

        def compiled(method):
            def apply(variables, x):
                return towers.apply(replicated(variables, mesh), x, method=method)

            return jax.jit(apply, out_shardings=everywhere)

        self._image, self._text = compiled("encode_image"), compiled("encode_text")
        self._features = compiled("image_features")

    @property
    def weights(self) -> Weights:
        return self._weights

    @weights.setter
    def weights(self, weights: Weights) -> None:
        self._weights = self._place(weights)

    @property
    def temperature_scale(self) -> float:
        """exp(logit_scale): the factor of the cosines before the softmax; at most 100 in CLIP."""
        scalars = self.weights.params["scalars"]
        if "logit_scale" not in scalars:
            raise UserError("these weights have no logit_scale, as in weights of one tower.")
        return float(np.exp(np.asarray(scalars["logit_scale"])))

    def tokenize(self, texts: str | Iterable[str]) -> np.ndarray:
        """Return the token ids of texts, int32 [N, L]; errors as for `encode_text`."""
        return self.tokenizer(text_items(texts))

    def encode_image(self, images: ImageLike | Iterable[ImageLike], *, prepared: bool = False) -> np.ndarray:
        """Return unit-norm embeddings of images, float32 [N, D].

        Images are decoded as in training, and those of other sizes than S x S are resized like the model's
        preprocessing: CLIP resizes the shorter side (bicubic) and crops the centre, SigLIP resizes both sides.

        Args:
          images: [N, H, W, 3]; or one image or a collection of images. An image is a path, the bytes of a file, a file
            open for reading bytes, a PIL image, or an array [H, W, 3], [H, W, 4] with opacity or [H, W] of grey values.
            Arrays are uint8, or uint16 that uses the whole range; colours are in the order red, green, blue. Lazy
            sequences and iterators are read a few batches at a time.
          prepared: `images` are results of `pixels`, uint8 [N, S, S, 3], and are not resized or cropped again.

        Raises:
          UserError: an image cannot be read, has more than `MAX_PIXELS` of `data.images.decode`, or has values whose
            range is unknown, such as floats; or there is no image.
        """
        return self._encode_images(self._image, images, prepared)

    def image_features(self, images: ImageLike | Iterable[ImageLike], *, prepared: bool = False) -> np.ndarray:
        """Return the features for linear probes, float32 [N, D]; arguments and errors as for `encode_image`.

        They are the embeddings of `encode_image` before L2 normalisation; for distribution models, the head's input.
        """
        return self._encode_images(self._features, images, prepared)

    def encode_text(self, texts: str | Iterable[str]) -> np.ndarray:
        """Return unit-norm embeddings of texts, float32 [N, D].

        Raises:
          UserError: there is no text, or a value is not a string; numbers are not converted.
        """
        self._need("text")
        tokens = self._without_padding(self.tokenize(texts))
        return self._encode(self._text, len(tokens), tokens.__getitem__)

    def _without_padding(self, tokens_NL: np.ndarray) -> np.ndarray:
        """Remove columns that are padding in all texts, down to a power of two, unless the tower reads padding."""
        if reads_padding(self._text_tower.causal, self._text_tower.pool):
            return tokens_NL
        is_end = tokens_NL == self.tokenizer.eot_id
        ends = np.where(is_end.any(axis=1), is_end.argmax(axis=1) + 1, tokens_NL.shape[1])
        return tokens_NL[:, : bucket(ends.max(), SHORTEST, tokens_NL.shape[1])]

    def _encode_images(self, encode, images: ImageLike | Iterable[ImageLike], prepared: bool) -> np.ndarray:
        self._need("image")
        if prepared:
            return self._encode(encode, len(images), images.__getitem__)
        items = image_items(images)
        parts = _batches(items, AHEAD * self.batch_size) if isinstance(items, Iterator) else [(0, items)]
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow releases the interpreter lock

            def encoded(first: int, part: Sequence[Any]) -> np.ndarray:
                def read(rows: np.ndarray) -> np.ndarray:
                    return np.stack(list(pool.map(lambda row: self._row(part, row, first), rows.tolist())))

                return self._encode(encode, len(part), read, first)

            found = [encoded(first, part) for first, part in parts if len(part)]
        if not found:
            raise UserError("encode_image was given no images: pass at least one.")
        return np.concatenate(found)

    def _row(self, images: Sequence[ImageLike], row: int, first: int) -> np.ndarray:
        try:
            return self.pixels(images[row])
        except UserError as error:
            where = f"image {first + row}: " if len(images) > 1 or first else ""
            raise UserError(f"{where}{error}") from None

    def pixels(self, image: ImageLike) -> np.ndarray:
        """Return one image as input of the image tower, uint8 [S, S, 3]; errors as for `encode_image`."""
        return self._resize(read_image(image), self.image_size)

    def _need(self, tower: str) -> None:
        if tower not in self.weights.params["towers"]:
            raise UserError(f"these weights have no {tower} tower: load a model with both towers.")

    def _encode(self, encode, count: int, read: Callable[[np.ndarray], np.ndarray], earlier: int = 0) -> np.ndarray:
        """Encode `count` rows; `read` maps indices to rows, and is called once for each batch.

        `earlier` is the number of rows of the same call that were encoded before: it decides the size of batches.
        """
        size = bucket(earlier + count, self._mesh.size, self.batch_size)
        variables = {"params": self.weights.params["towers"], **self.weights.model_state}
        done, running = [], deque()
        for start in range(0, count, size):
            batch = put_batch(self._local_rows(start, size, count, read), self._mesh)
            running.append(block_if_cpu_collectives(encode(variables, batch)))
            if len(running) > AHEAD:  # more batches in flight would only fill the device's memory
                done.append(np.asarray(running.popleft()))
        return np.concatenate([*done, *map(np.asarray, running)])[:count]

    def _local_rows(self, start: int, size: int, count: int, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return this process's part of the batch of `size` rows from `start`, padded by repeating the last row."""
        local = size // jax.process_count() if self._mesh.is_multi_process else size
        first = start + (jax.process_index() * local if self._mesh.is_multi_process else 0)
        rows, repeats = np.unique(np.minimum(np.arange(first, first + local), count - 1), return_inverse=True)
        return read(rows)[repeats]


def _batches(items: Iterator[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    """Lists of `size` items, each with the index of its first item."""
    first = 0
    while part := list(islice(items, size)):
        yield first, part
        first += len(part)
