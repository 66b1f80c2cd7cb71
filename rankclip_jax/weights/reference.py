"""Open exported weights in the library of their format, transformers or open_clip, with torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rankclip_jax.errors import UserError, install_hint
from rankclip_jax.inference.model import Model
from rankclip_jax.terminal.show import short
from rankclip_jax.weights.formats import huggingface, open_clip
from rankclip_jax.weights.formats.huggingface_table import KINDS
from rankclip_jax.weights.formats.processors import find_processor

# Types of models that transformers opens for a check: its class.
CLASSES = KINDS | {"metaclip_2": "MetaClip2Model"}


class ReferenceModel(NamedTuple):
    """A model as another library opens it.

    Attributes:
      library: name and version.
      tokens: M texts -> int [M, L].
      pixels: N PIL images -> normalised float [N, 3, S, S]; None if the folder has no preprocessor.
      embed: (pixels, tokens) -> unit-norm float [N, D] and [M, D], and logits [N, M].
    """

    library: str
    tokens: Callable[[Sequence[str]], np.ndarray]
    pixels: Callable[[Sequence[Image.Image]], np.ndarray] | None
    embed: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def open_reference(folder: Path, model: Model) -> ReferenceModel:
    """Open an exported or downloaded folder in the library of its format; `model` has the same weights.

    Raises:
      UserError: the library is not installed or cannot open the folder, or no library opens this format.
    """
    kind = huggingface.type_of(folder) if folder.is_dir() else None
    if kind in CLASSES:
        return _open_in_transformers(folder, model.config.text.context_length)
    if (folder / open_clip.CONFIG).is_file():
        return _open_in_open_clip(folder)
    if kind is not None:
        raise UserError(f"{folder} has one tower only: a check needs both.")
    raise UserError(
        f"{folder} is a bare state dict, which no other library opens: export it with --format=hf or open_clip, and "
        "check the exported folder."
    )


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(f"weights check needs torch: {install_hint('torch')}.") from None
    return torch


def _open_in_transformers(folder: Path, context_length: int) -> ReferenceModel:
    torch = _import_torch()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, CLASSES[huggingface.type_of(folder)])
    try:
        theirs, found = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        has_processor = bool(find_processor(folder)[1])
        processor = transformers.AutoImageProcessor.from_pretrained(folder) if has_processor else None
    except Exception as error:  # the library raises many types
        raise UserError(f"transformers cannot open {folder}: {type(error).__name__}: {short(error)}") from error

    if found["missing_keys"]:
        first = min(found["missing_keys"])
        raise UserError(
            f"transformers does not find {first} and {len(found['missing_keys']) - 1} more in {folder}, and would use "
            "random values: import the folder, and check an export of it."
        )
    theirs.eval()

    def tokens(texts):
        options = {"padding": "max_length", "truncation": True, "max_length": context_length}
        return np.asarray(tokenizer(list(texts), **options)["input_ids"])

    def pixels(images):
        return np.asarray(processor(list(images), return_tensors="np")["pixel_values"])

    def embed(pixels, tokens):
        with torch.no_grad():
            out = theirs(pixel_values=torch.tensor(pixels), input_ids=torch.tensor(tokens).long())
        return out.image_embeds.numpy(), out.text_embeds.numpy(), out.logits_per_image.numpy()

    return ReferenceModel(f"transformers {transformers.__version__}", tokens, pixels if processor else None, embed)


def _open_in_open_clip(folder: Path) -> ReferenceModel:
    torch = _import_torch()
    try:
        import open_clip as library
    except ImportError as error:
        raise UserError(
            f"checking {folder} needs open_clip ({error}): {install_hint('peers')}. A folder exported with --format=hf "
            "needs only transformers."
        ) from None
    name = f"local-dir:{folder}"
    try:
        theirs, _, preprocess = library.create_model_and_transforms(name)
        tokenizer = library.get_tokenizer(name)
    except Exception as error:  # the library raises many types
        raise UserError(f"open_clip cannot open {folder}: {type(error).__name__}: {short(error)}") from error
    theirs.eval()

    def tokens(texts):
        return tokenizer(list(texts)).numpy()

    def pixels(images):
        return np.stack([preprocess(image).numpy() for image in images])

    def embed(pixels, tokens):
        with torch.no_grad():
            image = theirs.encode_image(torch.tensor(pixels), normalize=True)
            text = theirs.encode_text(torch.tensor(tokens).long(), normalize=True)
            logits = theirs.logit_scale.exp() * image @ text.T
            logits = logits if theirs.logit_bias is None else logits + theirs.logit_bias
        return image.numpy(), text.numpy(), logits.numpy()

    return ReferenceModel(f"open_clip {library.__version__}", tokens, pixels, embed)
