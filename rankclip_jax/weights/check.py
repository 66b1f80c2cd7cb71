"""Whether another library computes what we do: the same weights, opened by both, on real images and names.

transformers, or open_clip, opens the folder with its own code, tokenizer and preprocessing; images and names are
those of the embedded data set. Compared are, on the same pixels and tokens, embeddings and logits;
then what each side's tokenizer and preprocessing make of names and images. Names are mended first as ours does
(curly quotes, HTML, mojibake), which no other library does: raw ones are counted, and do not decide.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from rankclip_jax.data.images.transforms import RESIZES
from rankclip_jax.data.sources.emoji import load as load_emoji
from rankclip_jax.data.text.tokenizer import CLEANINGS
from rankclip_jax.errors import UserError, install_hint
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.inference.load import encoder_of, is_run, read_model
from rankclip_jax.inference.model import Model
from rankclip_jax.models.pixels import PIXEL_MEAN, PIXEL_STD, normalize_pixels
from rankclip_jax.text_table import text_table
from rankclip_jax.weights.formats import huggingface, openai
from rankclip_jax.weights.formats.source import locate

LIMIT = 1e-4  # of embeddings and of logits
GREY = 1 / 255  # one grey level: what two resizers may differ by


class ReferenceModel(NamedTuple):
    """A model in another library.

    Attributes:
      library: its name.
      tokens: names -> int [M, L].
      pixels: PIL images -> normalised float [N, 3, S, S]; None where the folder does not say how.
      embed: (pixels, tokens) -> unit-norm float [N, D] and [M, D], logits [N, M].
    """

    library: str
    tokens: Callable[[Sequence[str]], np.ndarray]
    pixels: Callable[[Sequence[Image.Image]], np.ndarray] | None
    embed: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


class Row(NamedTuple):
    """One comparison."""

    what: str
    count: str
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.error <= self.limit


def check(source: str | Path, against: str | Path = "", step: int | str | None = None, count: int = 32) -> list[Row]:
    """Compare another library's reading of `source` with ours of `against`.

    Args:
      source: a folder of transformers or open_clip.
      against: what it was exported from; by default `source` itself, imported.
      step: of a run in `against`.
      count: images and names to compare on.

    Raises:
      UserError: the other library is not installed or does not open it, or there is nothing to compare.
    """
    folder = locate(str(source))
    if is_run(folder):
        raise UserError(f"{source} is a folder of our own: give an exported one, and --against={source}.")
    model = read_model(against or source, step)
    images, names = _examples(count)
    witness = open_witness(folder, model)
    return compare(encoder_of(model), model, witness, images, names)


def _examples(count: int) -> tuple[list[Image.Image], list[str]]:
    """Images of the embedded validation split, and their names."""
    if count < 1:
        raise UserError(f"--images={count}: at least one is needed.")
    split = load_emoji().evals["val"]
    label = dict(zip(split.text_ids.tolist(), split.texts, strict=True))
    shown = np.linspace(0, len(split.images) - 1, min(count, len(split.images))).astype(int)
    return [Image.fromarray(split.images[i]) for i in shown], [label[int(split.image_ids[i])] for i in shown]


def compare(
    encoder: Encoder, model: Model, witness: ReferenceModel, images: Sequence[Image.Image], names: Sequence[str]
) -> list[Row]:
    """The rows of the table."""
    image, tokens = model.config.image, encoder.tokenize(names)
    fitted = np.stack([RESIZES[image.get("resize", "crop")](np.asarray(p), image.image_size) for p in images])
    mean_std = tuple(image.get("pixel_mean", PIXEL_MEAN)), tuple(image.get("pixel_std", PIXEL_STD))
    pixels = np.asarray(normalize_pixels(jax.numpy.asarray(fitted), *mean_std)).transpose(0, 3, 1, 2)
    theirs = witness.embed(pixels, tokens)
    ours = [encoder.encode_image(fitted), encoder.encode_text(names)]
    scalars = model.weights.params["scalars"]
    scale, bias = np.exp(np.asarray(scalars["logit_scale"])), np.asarray(scalars.get("logit_bias", 0))
    ours.append(scale * ours[0] @ ours[1].T + bias)
    mend = CLEANINGS[model.tokenizer.frame.cleaning]
    mended = _differing(tokens, witness.tokens([mend(name) for name in names]), model)
    raw = _differing(tokens, witness.tokens(names), model)
    found = [_largest(a, b) for a, b in zip(ours, theirs, strict=True)]
    rows = [
        Row("image embeddings", f"{len(images)} images", found[0], LIMIT),
        Row("text embeddings", f"{len(names)} names", found[1], LIMIT),
        Row("logits", f"{len(images)} x {len(names)}", found[2], LIMIT),
        Row("other tokens, mended names", f"{len(names)} names", mended, 0.0),
        Row("other tokens, raw names", f"{len(names)} names", raw, float("inf")),
    ]
    if witness.pixels is not None:
        limit = 1.01 * GREY / min(mean_std[1])
        rows.append(Row("pixels", f"{len(images)} images", _largest(pixels, witness.pixels(images)), limit))
    return rows


def _largest(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise UserError(f"the two give arrays of shape {list(ours.shape)} and {list(theirs.shape)}: other models.")
    error = np.abs(np.float64(ours) - np.float64(theirs)).max()
    return float(np.inf if np.isnan(error) else error)


def _differing(ours: np.ndarray, theirs: np.ndarray, model: Model) -> float:
    """How many texts have other tokens."""
    return float(sum(_differ(a, b, model) for a, b in zip(ours, theirs, strict=True)))


def _differ(ours: np.ndarray, theirs: np.ndarray, model: Model) -> bool:
    """Whether two rows of ids mean different texts: up to the end-of-text where the rest is not read."""
    if model.config.text.get("causal", True):
        ours = ours[: int(np.argmax(ours == model.tokenizer.eot_id)) + 1]
        theirs = theirs[: len(ours)]
    return not np.array_equal(ours, theirs)


def table(rows: Sequence[Row]) -> str:
    """The comparison as text."""
    cells = [("", "compared", "largest error", "limit", "")]
    cells += [(r.what, r.count, f"{r.error:.2g}", f"{r.limit:.2g}", "ok" if r.holds else "DIFFERS") for r in rows]
    return text_table(cells)


def open_witness(folder: Path, model: Model) -> ReferenceModel:
    """The folder in the library of its format.

    Raises:
      UserError: that library is not installed, does not open the folder, or there is none for its format.
    """
    if folder.is_dir() and huggingface.kind_of(folder):
        return _transformers(folder, model)
    if (folder / openai.CONFIG).is_file():
        return _open_clip(folder)
    raise UserError(
        f"{folder} is a bare state dict, which no other library opens by itself: export it with --format=hf or "
        "open_clip, and check that."
    )


def _torch():
    try:
        import torch
    except ImportError:
        raise UserError(f"to compare with another library needs torch: {install_hint('torch')}.") from None
    return torch


def _transformers(folder: Path, model: Model) -> ReferenceModel:
    torch = _torch()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = {"clip": "CLIP", "siglip": "Siglip"}[huggingface.kind_of(folder)]
    try:
        theirs = getattr(transformers, f"{kind}Model").from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        has_processor = (folder / "preprocessor_config.json").is_file()
        processor = transformers.AutoImageProcessor.from_pretrained(folder) if has_processor else None
    except Exception as error:  # whatever the other library says of a folder that it cannot open
        raise UserError(f"transformers does not open {folder}: {type(error).__name__}: {error}") from error
    length = model.config.text.context_length

    def tokens(names):
        return tokenizer(list(names), padding="max_length", truncation=True, max_length=length)["input_ids"]

    def pixels(images):
        return np.asarray(processor(list(images), return_tensors="np")["pixel_values"])

    def embed(pixels, tokens):
        with torch.no_grad():
            out = theirs(pixel_values=torch.tensor(pixels), input_ids=torch.tensor(tokens).long())
        return out.image_embeds.numpy(), out.text_embeds.numpy(), out.logits_per_image.numpy()

    return ReferenceModel(
        library=f"transformers {transformers.__version__}",
        tokens=lambda names: np.asarray(tokens(names)),
        pixels=pixels if processor else None,
        embed=embed,
    )


def _open_clip(folder: Path) -> ReferenceModel:
    torch = _torch()
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"to open {folder} needs open_clip ({error}): pip install open_clip_torch; --format=hf is checked with "
            "transformers alone."
        ) from None
    name = f"local-dir:{folder}"
    try:
        theirs, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # as above
        raise UserError(f"open_clip does not open {folder}: {type(error).__name__}: {error}") from error
    theirs.eval()

    def embed(pixels, tokens):
        with torch.no_grad():
            image = theirs.encode_image(torch.tensor(pixels), normalize=True)
            text = theirs.encode_text(torch.tensor(tokens).long(), normalize=True)
            logits = theirs.logit_scale.exp() * image @ text.T
            logits = logits if theirs.logit_bias is None else logits + theirs.logit_bias
        return image.numpy(), text.numpy(), logits.numpy()

    return ReferenceModel(
        library=f"open_clip {open_clip.__version__}",
        tokens=lambda names: tokenizer(list(names)).numpy(),
        pixels=lambda images: np.stack([preprocess(image).numpy() for image in images]),
        embed=embed,
    )
