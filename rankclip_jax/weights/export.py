"""Write weights as a folder that another library opens, with tokenizer, preprocessing and results."""

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from safetensors.numpy import save_file

from rankclip_jax.errors import UserError, lookup
from rankclip_jax.inference.load import read_model
from rankclip_jax.weights.folder import check_new, new_folder
from rankclip_jax.weights.formats import huggingface_export, open_clip_export
from rankclip_jax.weights.model_card import model_card


class Format(NamedTuple):
    """A format to export to.

    Attributes:
      library: the library that opens it.
      weights: name of the file with the tensors.
      writer: a module with three functions. `tensors` returns the state dict, and notes on what it omits. `write_files`
        writes config, tokenizer and preprocessing. `usage` returns Python code that opens the folder.
    """

    library: str
    weights: str
    writer: ModuleType


FORMATS = {
    "hf": Format("transformers", "model.safetensors", huggingface_export),
    "open_clip": Format("open_clip", "open_clip_pytorch_model.safetensors", open_clip_export),
}


def export(source: str | Path, name: str, out: str | Path, step: int | str | None = None) -> list[str]:
    """Write weights in the format of another library. After an error nothing is left behind.

    Args:
      source: a run or other weights, as for `rankclip_jax.load`.
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
    tensors, omitted = fmt.writer.tensors(model)
    omitted += [
        f"{side} (distribution head) is left out: {fmt.library} has no such head"
        for side in ("image_head", "text_head")
        if side in model.weights.params["towers"]
    ]
    with new_folder(out) as folder:
        save_file(tensors, folder / fmt.weights, metadata={"format": "pt"})
        fmt.writer.write_files(model, folder, Path(out).name)
        usage = fmt.writer.usage(model, Path(out).name)
        (folder / "README.md").write_text(model_card(model, fmt.library, usage, omitted), encoding="utf-8")
    return omitted
