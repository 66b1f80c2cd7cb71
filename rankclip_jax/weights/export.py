"""Write weights as a folder that another library opens, with tokenizer, preprocessing and results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.inference.load import read_model
from rankclip_jax.inference.model import Model
from rankclip_jax.weights.folder import check_new, new_folder
from rankclip_jax.weights.formats import huggingface_export, open_clip_export
from rankclip_jax.weights.model_card import model_card


class Format(NamedTuple):
    """How a format is written.

    Attributes:
      library: the library that opens it.
      weights: name of the file with the tensors.
      tensors: (model) -> state dict, and notes on what it omits; raises UserError if the format cannot hold the model.
      write: (model, folder, name of the folder) writes config, tokenizer and preprocessing.
      usage: (model, name of the folder) -> Python code that opens it, for the model card.
    """

    library: str
    weights: str
    tensors: Callable[[Model], tuple[Mapping[str, np.ndarray], list[str]]]
    write: Callable[[Model, Path, str], None]
    usage: Callable[[Model, str], str]


FORMATS = {
    "hf": Format(
        library="transformers",
        weights="model.safetensors",
        tensors=huggingface_export.tensors,
        write=huggingface_export.write_files,
        usage=huggingface_export.usage,
    ),
    "open_clip": Format(
        library="open_clip",
        weights="open_clip_pytorch_model.safetensors",
        tensors=open_clip_export.tensors,
        write=open_clip_export.write_files,
        usage=open_clip_export.usage,
    ),
}


def export(source: str | Path, name: str, out: str | Path, step: int | str | None = None) -> list[str]:
    """Write weights in the format of another library. After an error nothing is left behind.

    Args:
      source: a run or other weights, anything that `rankclip_jax.load` reads.
      name: a key of `FORMATS`.
      out: the folder to create; it must not exist.
      step: for a run: a step number, "best", or None for the newest.

    Returns:
      notes on what the format cannot hold, one line each.

    Raises:
      UserError: the format cannot hold these towers, or `out` exists.
    """
    fmt = lookup(FORMATS, name, "format")
    check_new(out)
    model = read_model(source, step)
    if model.config.embeds == "distribution":
        raise UserError(f"{source} encodes to distributions over prototypes, and {fmt.library} has no such model.")
    tensors, omitted = fmt.tensors(model)
    omitted += [
        f"{side} (distribution head) is left out: {fmt.library} has no such head"
        for side in ("image_head", "text_head")
        if side in model.weights.params["towers"]
    ]
    with new_folder(out) as folder:
        save_file(dict(tensors), folder / fmt.weights, metadata={"format": "pt"})
        fmt.write(model, folder, Path(out).name)
        usage = fmt.usage(model, Path(out).name)
        (folder / "README.md").write_text(model_card(model, fmt.library, usage, omitted), encoding="utf-8")
    return omitted
