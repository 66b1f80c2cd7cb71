"""Encode images and texts with a trained two-tower model.

Letters: N images or texts, L context length, D embedding, S side of the image tower's input.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image, UnidentifiedImageError

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.images.transforms import RESIZES
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.parallel.mesh import block_if_cpu_collectives, put_batch, replicated

THREADS = min(16, os.cpu_count() or 1)
AHEAD = 2  # number of batches that the device may compute while the next one is read
ImageLike = np.ndarray | Image.Image | str | os.PathLike


class Encoder:
    """Encodes images and texts in batches of one fixed size, split over the mesh; the last batch is padded.

    In a run of several processes, all processes must call it with the same arguments, and all get the whole result.

    Attributes:
      weights: replace them to evaluate a later step with the same compiled programs.
      step: number of training steps of a loaded model; None for a model in training.
      image_size: S.
    """

    def __init__(
        self,
        towers: nn.Module,
        weights: Weights,
        tokenizer: Tokenizer,
        mesh: Mesh,
        *,
        batch_size: int = 256,
        step: int | None = None,
    ):
        self.weights = weights
        self.step = step
        self.tokenizer = tokenizer
        self.image_size = towers.image.image_size
        self._resize = RESIZES[towers.resize]
        self._mesh = mesh
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        everywhere = NamedSharding(mesh, P())  # every process can read the whole result

        def compiled(method):
            def apply(variables, x):
                return towers.apply(replicated(variables, mesh), x, method=method)

            return jax.jit(apply, out_shardings=everywhere)

        self._image, self._text = compiled("encode_image"), compiled("encode_text")
        self._features = compiled("image_features")

    @property
    def temperature_scale(self) -> float:
        """exp(logit_scale): the factor of the cosines before the softmax; at most 100 in CLIP."""
        scalars = self.weights.params["scalars"]
        if "logit_scale" not in scalars:
            raise UserError("these weights have no logit_scale, as in weights of one tower.")
        return float(np.exp(np.asarray(scalars["logit_scale"])))

    def tokenize(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return the token ids of texts, int32 [N, L]."""
        return self.tokenizer(texts)

    def encode_image(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Return unit-norm embeddings of images, float32 [N, D].

        Images of other sizes than S x S are resized like the model's preprocessing: CLIP resizes the shorter side
        (bicubic) and crops the centre, SigLIP resizes both sides.

        Args:
          images: uint8 [N, H, W, 3]; or one image or a sequence of images, each uint8 [H, W, 3], a PIL image or a
            path. Lazy sequences are read a few batches at a time.

        Raises:
          UserError: a file is missing or is not an image, an array has another shape or dtype, or there is no image.
        """
        return self._encode_images(self._image, images)

    def image_features(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Return the features for linear probes, float32 [N, D]; arguments and errors as for `encode_image`.

        They are the embeddings of `encode_image` before L2 normalisation; for distribution models, the head's input.
        """
        return self._encode_images(self._features, images)

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return unit-norm embeddings of texts, float32 [N, D]."""
        if len(texts) == 0 and not isinstance(texts, str):
            raise UserError("encode_text was given no texts: pass at least one.")
        self._need("text")
        tokens = self.tokenizer(texts)
        return self._encode(self._text, len(tokens), tokens.__getitem__)

    def _encode_images(self, encode, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        single = isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", 0) == 3
        images = [images] if single else images
        if len(images) == 0:
            raise UserError("encode_image was given no images: pass at least one.")
        self._need("image")
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow releases the interpreter lock

            def read(rows: np.ndarray) -> np.ndarray:
                return np.stack(list(pool.map(lambda row: self.pixels(images[row]), rows)))

            return self._encode(encode, len(images), read)

    def pixels(self, image: ImageLike) -> np.ndarray:
        """Return one image as input of the image tower, uint8 [S, S, 3]; errors as for `encode_image`."""
        if isinstance(image, str | os.PathLike):
            image = _open(Path(image))
        if isinstance(image, Image.Image):
            return self._resize(image if image.mode == "RGB" else image.convert("RGB"), self.image_size)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(
                f"an image must be uint8 [H, W, 3], found {image.dtype} {list(image.shape)}: convert it to RGB."
            )
        return self._resize(image, self.image_size)

    def _need(self, tower: str) -> None:
        if tower not in self.weights.params["towers"]:
            raise UserError(f"these weights have no {tower} tower: load a model with both towers.")

    def _encode(self, encode, count: int, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Encode `count` rows; `read` maps indices to rows, and is called once for each batch."""
        variables = {"params": self.weights.params["towers"], **self.weights.model_state}
        done, running = [], deque()
        for start in range(0, count, self._batch_size):
            batch = put_batch(self._local_rows(start, count, read), self._mesh)
            running.append(block_if_cpu_collectives(encode(variables, batch)))
            if len(running) > AHEAD:  # more batches in flight would only fill the device's memory
                done.append(np.asarray(running.popleft()))
        return np.concatenate([*done, *map(np.asarray, running)])[:count]

    def _local_rows(self, start: int, count: int, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return this process's part of the batch from `start`, padded by repeating the last row."""
        local = self._batch_size // jax.process_count() if self._mesh.is_multi_process else self._batch_size
        first = start + (jax.process_index() * local if self._mesh.is_multi_process else 0)
        rows, repeats = np.unique(np.minimum(np.arange(first, first + local), count - 1), return_inverse=True)
        return read(rows)[repeats]


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"no image at {path}: check the path.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"cannot read {path} as an image ({error}): convert it to PNG or JPEG.") from None
