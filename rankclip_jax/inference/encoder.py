"""A trained two-tower model as its user wants it: images and texts in, embeddings out.

Letters: N images or texts, L context length, D embedding.
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

from rankclip_jax.data.images.transforms import RESIZES
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.parallel.mesh import block_if_cpu_collectives, put_batch, replicated

THREADS = min(16, os.cpu_count() or 1)
AHEAD = 2  # batches in flight
ImageLike = np.ndarray | Image.Image | str | os.PathLike


class Encoder:
    """Encodes in batches of one fixed size, split over the mesh; the last one is padded.

    In a run of several processes all of them call it with the same arguments, and all get the whole
    result.

    Attributes:
      params: {"towers", "scalars"}; replace it, and `model_state`, to evaluate a later step.
      model_state: mutable collections of the towers, such as running statistics; they are only read.
      tokenizer: texts to int32 [N, L].
      image_size: side of the images the image tower sees.
      step: training steps behind a loaded model; None for one that is being trained.
    """

    def __init__(
        self,
        towers: nn.Module,
        params: dict,
        tokenizer: Tokenizer,
        mesh: Mesh,
        batch_size: int = 256,
        step: int | None = None,
        model_state: dict | None = None,
    ):
        self.params = params
        self.model_state = model_state or {}
        self.step = step
        self.tokenizer = tokenizer
        self.image_size = towers.image.image_size
        self._resize = RESIZES[towers.resize]
        self._mesh = mesh
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        # Results are gathered on every device, so that every process can read all of them.
        everywhere = NamedSharding(mesh, P())

        def compiled(method):
            def apply(variables, x):
                return towers.apply(replicated(variables, mesh), x, method=method)

            return jax.jit(apply, out_shardings=everywhere)

        self._image, self._text = compiled("encode_image"), compiled("encode_text")
        self._features = compiled("image_features")

    @property
    def temperature_scale(self) -> float:
        """exp(logit_scale), by which cosines are multiplied before a softmax; at most 100 in CLIP."""
        return float(np.exp(np.asarray(self.params["scalars"]["logit_scale"])))

    def tokenize(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts to token ids, int32 [N, L]."""
        return self.tokenizer(texts)

    def encode_image(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Encode images as unit-norm float32 [N, D].

        Args:
          images: uint8 [N, H, W, 3], or one or several of: uint8 [H, W, 3], PIL image, path. Anything
            but the tower's own size is resized as the model wants it: CLIP's the shorter side, bicubic, and
            centre-cropped; SigLIP's both sides. Of a sequence that makes its images when they are asked
            for, a few batches are in memory at a time.

        Raises:
          UserError: a file that is missing or no image, or an array of another shape or dtype.
        """
        return self._encode_images(self._image, images)

    def image_features(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Features of images before they are normalised, float32 [N, D], as a linear probe reads them.

        `encode_image` gives their directions; only where a model encodes to distributions they are what its head
        reads. Images and errors as there.
        """
        return self._encode_images(self._features, images)

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Encode texts as unit-norm float32 [N, D]."""
        if len(texts) == 0 and not isinstance(texts, str):
            raise UserError("encode_text was given no texts: pass at least one.")
        tokens = self.tokenizer(texts)
        return self._encode(self._text, len(tokens), tokens.__getitem__)

    def _encode_images(self, encode, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        single = isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", 0) == 3
        images = [images] if single else images
        if len(images) == 0:
            raise UserError("encode_image was given no images: pass at least one.")
        with ThreadPoolExecutor(THREADS) as pool:  # decoding and resizing release the interpreter lock

            def read(rows: np.ndarray) -> np.ndarray:
                return np.stack(list(pool.map(lambda row: self.pixels(images[row]), rows)))

            return self._encode(encode, len(images), read)

    def pixels(self, image: ImageLike) -> np.ndarray:
        """One image as the image tower sees it, uint8 [S, S, 3]; images and errors as of `encode_image`."""
        if isinstance(image, str | os.PathLike):
            image = _open(Path(image))
        if isinstance(image, Image.Image):  # stays one: the resize is Pillow's
            return self._resize(image if image.mode == "RGB" else image.convert("RGB"), self.image_size)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(
                f"an image must be uint8 [H, W, 3], found {image.dtype} {list(image.shape)}: convert it to RGB."
            )
        return self._resize(image, self.image_size)

    def _encode(self, encode, count: int, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Encode `count` rows, which `read` gives for their numbers when their batch is due."""
        variables = {"params": self.params["towers"], **self.model_state}
        done, running = [], deque()
        for start in range(0, count, self._batch_size):
            running.append(
                block_if_cpu_collectives(encode(variables, put_batch(self._local_rows(start, count, read), self._mesh)))
            )
            # The device works on one batch while the next is read; more of them would only fill its memory.
            if len(running) > AHEAD:
                done.append(np.asarray(running.popleft()))
        return np.concatenate([*done, *map(np.asarray, running)])[:count]

    def _local_rows(self, start: int, count: int, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """This process's part of the batch from `start`, padded by repeating its last row."""
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
