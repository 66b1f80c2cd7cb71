"""Check that another library computes the same as this package from the same weights.

transformers or open_clip opens the folder with its own code, tokenizer and preprocessing. Images and texts come from
the embedded data set. Embeddings and logits are compared on the same pixels and tokens. The pixels and tokens that each
library computes are compared too. Other libraries do not clean texts (mojibake, HTML), so texts are cleaned first; raw
texts with different tokens are counted for information only.

Pixels are compared on images of other sizes than the tower's too, and on images with transparency or a palette. An
imported model follows its library in both. A run was trained by the rules of this package, which a preprocessor file
cannot state, so what differs between the rules has no limit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.data.images.resize import LIBRARIES, make_resize, parse_resize
from rankclip_jax.data.sources.emoji import load as load_emoji
from rankclip_jax.data.text.tokenizer import CLEANINGS
from rankclip_jax.errors import UserError
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.inference.load import encoder_of, is_run, read_model
from rankclip_jax.inference.model import Model
from rankclip_jax.models.pixels import normalize_pixels
from rankclip_jax.terminal.tables import text_table
from rankclip_jax.weights.formats.source import locate, model_folder
from rankclip_jax.weights.reference import ReferenceModel, open_reference

LIMIT = 1e-4  # largest accepted difference of embeddings and of logits
GREY_LEVEL = 1 / 255  # largest accepted difference of pixels in [0, 1]: two resizers may round differently
SIZES = ((101, 75), (75, 101), (64, 97), (97, 64), (40, 41), (333, 120))  # (width, height); odd and even margins
MODES = ("RGBA", "LA", "P")


class Row(NamedTuple):
    """One comparison: what was compared, how many of them, the largest error, and the largest accepted error."""

    what: str
    count: str
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.error <= self.limit


def check(source: str | Path, against: str | Path = "", step: int | str | None = None, count: int = 32) -> list[Row]:
    """Compare the embeddings of another library with those of this package.

    Args:
      source: a folder of transformers or open_clip.
      against: the run or weights that it was exported from; "" imports `source` itself.
      step: for a run in `against`: a step number, "best", or None for the newest.
      count: number of images and texts.

    Raises:
      UserError: the other library is not installed or cannot open `source`, or there is nothing to compare.
    """
    folder = model_folder(locate(str(source)))
    if is_run(folder):
        raise UserError(f"{source} is a run folder of rankclip_jax: give an exported folder, and --against={source}.")
    model = read_model(against or source, step)
    images, texts = _examples(count)
    return compare(encoder_of(model), model, open_reference(folder, model), images, texts)


def _examples(count: int) -> tuple[list[Image.Image], list[str]]:
    """Images of the embedded validation split, and their captions."""
    if count < 1:
        raise UserError(f"--images={count} must be at least 1.")
    split = load_emoji().evals["val"]
    captions = dict(zip(split.text_ids.tolist(), split.texts, strict=True))
    chosen = np.linspace(0, len(split.images) - 1, min(count, len(split.images))).astype(int)
    return [Image.fromarray(split.images[i]) for i in chosen], [captions[int(split.image_ids[i])] for i in chosen]


def compare(
    encoder: Encoder, model: Model, reference: ReferenceModel, images: Sequence[Image.Image], texts: Sequence[str]
) -> list[Row]:
    """Return the rows of the table."""
    config = model.config.image
    resized, tokens = _resized(config, images), encoder.tokenize(texts)
    pixels = _normalized(config, resized)
    ours, theirs = _outputs(encoder, model, resized, texts), reference.embed(pixels, tokens)
    some_images, some_texts = f"{len(images)} images", f"{len(texts)} texts"
    clean = CLEANINGS[model.tokenizer.special.cleaning]
    cleaned = [clean(text) for text in texts]
    names = ("image embeddings", "text embeddings", "logits")
    counts = (some_images, some_texts, f"{len(images)} x {len(texts)}")
    rows = [Row(*row, LIMIT) for row in zip(names, counts, map(_largest_error, ours, theirs), strict=True)]
    for kind, given, limit in (("cleaned", cleaned, 0.0), ("raw", texts, float("inf"))):
        differing = sum(_differ(a, b, model) for a, b in zip(tokens, reference.tokens(given), strict=True))
        rows.append(Row(f"different tokens, {kind} texts", some_texts, float(differing), limit))
    own_tokens = reference.embed(pixels, reference.tokens(cleaned))[1]
    rows.append(Row("text embeddings, its own tokens", some_texts, _largest_error(ours[1], own_tokens), LIMIT))
    return rows + (_pixel_rows(config, reference, images) if reference.pixels is not None else [])


def _pixel_rows(config: ConfigDict, reference: ReferenceModel, images: Sequence[Image.Image]) -> list[Row]:
    our, their = LIBRARIES[parse_resize(config.resize).library], LIBRARIES[reference.library.partition(" ")[0]]
    sizes = [image.resize(SIZES[i % len(SIZES)]) for i, image in enumerate(images)]
    modes = [_in_mode(image, MODES[i % len(MODES)]) for i, image in enumerate(images)]
    same_colours = (our.rgb_first, our.on_white) == (their.rgb_first, their.on_white)
    rows = []
    for name, examples, same in (
        ("pixels", images, True),
        ("pixels, other sizes", sizes, our.round_down == their.round_down),
        ("pixels, transparency and palettes", modes, same_colours),
    ):
        error = _largest_error(_normalized(config, _resized(config, examples)), reference.pixels(examples))
        limit = 1.01 * GREY_LEVEL / min(config.pixel_std) if same else float("inf")
        rows.append(Row(name, f"{len(examples)} images", error, limit))
    return rows


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image with a palette, or with opacity that grows from left to right."""
    if mode == "P":
        return image.quantize(64)
    image = image.convert(mode)
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


def _resized(config: ConfigDict, images: Sequence[Image.Image]) -> np.ndarray:
    """uint8 [N, S, S, 3]."""
    resize = make_resize(config.resize, config.image_size)
    return np.stack([resize(image, config.image_size) for image in images])


def _normalized(config: ConfigDict, images: np.ndarray) -> np.ndarray:
    """float32 [N, 3, S, S]."""
    normalized = normalize_pixels(jnp.asarray(images), tuple(config.pixel_mean), tuple(config.pixel_std))
    return np.asarray(normalized).transpose(0, 3, 1, 2)


def _outputs(encoder: Encoder, model: Model, images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Image embeddings [N, D], text embeddings [M, D] and logits [N, M]."""
    image, text = encoder.encode_image(images, prepared=True), encoder.encode_text(texts)
    scalars = model.weights.params["scalars"]
    scale, bias = np.exp(np.asarray(scalars["logit_scale"])), np.asarray(scalars.get("logit_bias", 0))
    return image, text, scale * image @ text.T + bias


def _largest_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise UserError(
            f"the libraries return arrays of different shapes, {list(ours.shape)} and {list(theirs.shape)}: these are "
            "different models."
        )
    error = np.abs(np.float64(ours) - np.float64(theirs)).max()
    return float(np.inf if np.isnan(error) else error)


def _differ(ours: np.ndarray, theirs: np.ndarray, model: Model) -> bool:
    """Whether two rows of ids differ up to the end-of-text token. Padding may have other ids with equal embeddings."""
    length = int(np.argmax(ours == model.tokenizer.eot_id)) + 1
    return not np.array_equal(ours[:length], theirs[:length])


def table(rows: Sequence[Row]) -> str:
    """The comparison as text."""
    cells = [("", "compared", "largest error", "limit", "")]
    cells += [(r.what, r.count, f"{r.error:.2g}", f"{r.limit:.2g}", "ok" if r.holds else "DIFFERS") for r in rows]
    return text_table(cells)
