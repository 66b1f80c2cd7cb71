"""`preview`: shows pairs as the towers get them, as text and as a grid of images."""

from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.commands.grid import image_grid
from rankclip_jax.data.commands.sections import MakeTokenizer, make_loader, training_set
from rankclip_jax.data.images.types import height_width
from rankclip_jax.data.records import RecordSource
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import printable, show

SHOWN_CAPTIONS = 5


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_integer("pairs", 5, "number of pairs", lower_bound=1)
    flags.DEFINE_string("out", "preview.png", "image file to write")


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Print and draw the first pairs of a run, augmented as in the run."""
    num_pairs, out = flags.FLAGS.pairs, Path(flags.FLAGS.out)
    dataset = training_set(config)
    train, tokenizer = dataset.train, make_tokenizer(config, dataset.train)
    sizes = {"batch_size": min(num_pairs, len(train)), "num_threads": 0, "prefetch": 0}
    with make_loader(config, train, tokenizer, **sizes) as loader:
        batch = next(loader)
    show(f"{dataset.name} {dataset.digest[:12]}: " + ", ".join(f"{k} {v:,}" for k, v in dataset.counts.items()))
    for index, image, tokens in zip(batch["index"], batch["images"], batch["tokens"], strict=True):
        show("\n" + _as_text(train, int(index), image, tokens, tokenizer))
    try:
        image_grid(batch["images"], [tokenizer.decode(tokens) for tokens in batch["tokens"]]).save(out)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write --out={out} ({error}): name a .png or .jpg in an existing folder.") from None
    show(f"\nimages as the image tower gets them: {out}")


def _as_text(train: RecordSource, index: int, image: np.ndarray, tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    try:
        record = train[index]
    except Exception as error:  # the loader found no readable replacement either
        problem = f"cannot be read ({error}), nor can the records that replace it: see `validate`"
        return f"{printable(train.key(index))}\n  {printable(problem)}"
    old, new = (" x ".join(map(str, height_width(image)[::-1])) for image in (record.image, image))
    lines = [("image", f"{old} pixels, to the tower {new}")]
    lines += _first("caption", record.captions) + _first("second", record.second_captions)
    used = int(np.argmax(tokens == tokenizer.eot_id)) + 1
    lines.append(("tokens", f"{used} of {tokenizer.context_length}: {tokenizer.decode(tokens)}"))
    return "\n".join([printable(record.key), *(f"  {name:<8} {printable(value)}" for name, value in lines)])


def _first(name: str, captions: tuple[str, ...]) -> list[tuple[str, str]]:
    rest = len(captions) - SHOWN_CAPTIONS
    return [(name, caption) for caption in captions[:SHOWN_CAPTIONS]] + ([("", f"and {rest} more")] if rest > 0 else [])
