"""`preview`: some pairs as the towers get them, in words and as a grid of images."""

from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.commands.grid import image_grid
from rankclip_jax.data.commands.sections import tokenizer_of, training_set
from rankclip_jax.data.images.types import height_width
from rankclip_jax.data.loader import Loader
from rankclip_jax.data.loader_options import loader_options
from rankclip_jax.data.records import RecordSource
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError

SHOWN_CAPTIONS = 5


def define_flags() -> None:
    """Flags of this command."""
    flags.DEFINE_integer("pairs", 5, "how many pairs", lower_bound=1)
    flags.DEFINE_string("out", "preview.png", "the image to write")


def run(config: ConfigDict) -> None:
    """Print and draw the first pairs of a run's data, augmented as the run would do it."""
    dataset = training_set(config)
    tokenizer = tokenizer_of(config, dataset.train)
    batch = _batch(config, dataset.train, tokenizer)
    print(f"{dataset.name} {dataset.digest[:12]}: " + ", ".join(f"{k} {v:,}" for k, v in dataset.counts.items()))
    titles = []
    for index, image, tokens in zip(batch["index"], batch["images"], batch["tokens"], strict=True):
        titles.append(tokenizer.decode(tokens))
        print("\n" + _in_words(dataset.train, int(index), image, tokens, tokenizer))
    out = Path(flags.FLAGS.out)
    try:
        image_grid(batch["images"], titles).save(out)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write --out={out} ({error}); name a .png or .jpg in a folder that exists.") from None
    print(f"\nimages as the image tower gets them: {out}")


def _batch(config: ConfigDict, train: RecordSource, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    here = {"batch_size": min(flags.FLAGS.pairs, len(train)), "num_threads": 0, "prefetch": 0, "max_bad_fraction": 1.0}
    options = loader_options(config, ("images", "tokens", "index"), **here)
    with Loader(train, tokenizer, options) as loader:
        return next(loader)


def _in_words(train: RecordSource, index: int, image: np.ndarray, tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    try:
        record = train[index]
    except Exception as error:  # only where even its many substitutes are bad
        return f"{train.key(index)}\n  cannot be read ({error}), nor the records in its place: see `validate`"
    old, new = (" x ".join(map(str, height_width(image)[::-1])) for image in (record.image, image))
    lines = [("image", f"{old} pixels, to the tower {new}")]
    lines += _some("caption", record.captions) + _some("second", record.second_captions)
    drawn = tokenizer.decode(tokens)
    used = int(np.argmax(tokens == tokenizer.eot_id)) + 1
    lines.append(("tokens", f"{used} of {tokenizer.context_length}: {drawn}"))
    return "\n".join([record.key, *(f"  {name:<8} {value}" for name, value in lines)])


def _some(name: str, captions: tuple[str, ...]) -> list[tuple[str, str]]:
    rest = len(captions) - SHOWN_CAPTIONS
    return [(name, caption) for caption in captions[:SHOWN_CAPTIONS]] + ([("", f"and {rest} more")] if rest > 0 else [])
