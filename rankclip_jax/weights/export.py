"""A run's weights in the form that other libraries open, with its tokenizer, preprocessing and results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.inference.load import read_model
from rankclip_jax.inference.model import Model
from rankclip_jax.weights.folder import check_new, new_folder
from rankclip_jax.weights.formats import huggingface_export, openai_export
from rankclip_jax.weights.model_card import model_card


class Format(NamedTuple):
    """How a format is written.

    Attributes:
      library: whose it is.
      weights: name of the file with the tensors.
      tensors: (model) -> state dict and what it leaves out, a line each; refuses what it cannot hold.
      write: (model, folder) writes config, tokenizer and preprocessing.
      usage: (name of the folder) -> code that opens it, for the card.
    """

    library: str
    weights: str
    tensors: Callable[[Model], tuple[Mapping[str, np.ndarray], list[str]]]
    write: Callable[[Model, Path], None]
    usage: Callable[[Model, str], str]


FORMATS = {
    "hf": Format(
        "transformers",
        "model.safetensors",
        huggingface_export.tensors,
        huggingface_export.write_files,
        huggingface_export.usage,
    ),
    "open_clip": Format(
        "open_clip",
        "open_clip_pytorch_model.safetensors",
        openai_export.tensors,
        openai_export.write_files,
        openai_export.usage,
    ),
}


def export(run: str | Path, name: str, out: str | Path, step: int | str | None = None) -> list[str]:
    """Write weights as another library's folder, whole or not at all.

    Args:
      run: what `loading.load` reads.
      name: a key of `FORMATS`.
      out: the folder to make; it must not exist.
      step: of a run a step number, "best", or None for the newest.

    Returns:
      what the format does not hold, a line each.

    Raises:
      UserError: the format has no place for these towers, or `out` exists.
    """
    fmt = lookup(FORMATS, name, "format")
    check_new(out)
    model = read_model(run, step)
    if model.config.get("embeds", "") == "distribution":
        raise UserError(f"{run} encodes to distributions over prototypes, and {fmt.library} has no such model.")
    tensors, left_out = fmt.tensors(model)
    left_out += [
        f"{side} (distribution head) is left out: {fmt.library} has no place for it"
        for side in ("image_head", "text_head")
        if side in model.weights.params["towers"]
    ]
    with new_folder(out) as folder:
        save_file(dict(tensors), folder / fmt.weights, metadata={"format": "pt"})
        fmt.write(model, folder)
        usage = fmt.usage(model, Path(out).name)
        (folder / "README.md").write_text(model_card(model, fmt.library, usage, left_out), encoding="utf-8")
    return left_out
