"""`captions`: writes a file of second captions, `config.data.second_captions`, for objectives such as ALIP.

``--by=keywords`` makes a sentence from the content words of a caption. ``--by=MODEL`` runs an image captioning model
of the `transformers` library: a folder, or a name on the hub such as Salesforce/blip-image-captioning-base (needs
``pip install -e '.[torch]'``). If the file exists, the command continues after its last line.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from rankclip_jax.data.commands.sections import MakeTokenizer, sections_of
from rankclip_jax.data.images.decode import decode
from rankclip_jax.data.images.types import as_array
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.sources.formats import FORMATS
from rankclip_jax.data.text.words import STOP_WORDS, letters
from rankclip_jax.errors import UserError, install_hint
from rankclip_jax.files.text_files import parse_json
from rankclip_jax.terminal.show import printable, show

Captioner = Callable[[PairSource, Sequence[int]], list[str]]
KEYWORDS = "keywords"


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("out", "second_captions.jsonl", "file to write or to continue")
    flags.DEFINE_string("by", KEYWORDS, "keywords, or the folder or name of a captioning model")
    flags.DEFINE_string("template", "a picture of {}", "keywords: the sentence; the keywords replace {}")
    flags.DEFINE_integer("keywords", 5, "keywords: maximum number per caption", lower_bound=1)
    flags.DEFINE_integer("batch", 32, "pairs per batch", lower_bound=1)
    flags.DEFINE_integer("max_tokens", 30, "model: maximum number of tokens of a caption", lower_bound=1)


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Caption all training pairs; unreadable pairs are skipped."""
    out, by, template = Path(flags.FLAGS.out), flags.FLAGS.by, flags.FLAGS.template
    max_words, max_tokens, batch_size = flags.FLAGS.keywords, flags.FLAGS.max_tokens, flags.FLAGS.batch
    if config.data.name not in FORMATS:
        raise UserError(f"data {config.data.name!r} has second captions: name your own data in config.data.train.")
    sources = [section.pairs for section in sections_of(config) if section.name.startswith("train")]
    if not sources:
        raise UserError("config.data.train is empty: name the pairs to caption there.")
    if by == KEYWORDS and template.count("{}") != 1:
        raise UserError(f"--template={template!r} must have one {{}}, which the keywords replace.")
    caption = _by_keywords(template, max_words) if by == KEYWORDS else _by_model(by, max_tokens)
    done = _known_keys(out)
    try:
        with open(out, "a", encoding="utf-8") as file:
            counts = [_write(file, source, caption, done, batch_size) for source in sources]
    except OSError as error:
        raise UserError(f"cannot write --out={out} ({error.strerror}): name a file in an existing folder.") from None
    written, skipped = np.sum(counts, axis=0)
    show(f"{written:,} second captions written to {out}, {len(done):,} existed, {skipped:,} pairs are unreadable")
    show(f"train with them: --config.data.second_captions={out}")


def _write(file: IO, source: PairSource, caption: Captioner, done: set[str], batch_size: int) -> tuple[int, int]:
    """Write the captions of one source, except for keys in `done`; return the numbers of written and skipped pairs."""
    written = skipped = 0
    with tqdm(total=len(source), unit="pair", leave=False, delay=1) as bar:
        for start in range(0, len(source), batch_size):
            indices = range(start, min(start + batch_size, len(source)))
            lines = _lines(source, [index for index in indices if source.key(index) not in done], caption)
            file.writelines(filter(None, lines))
            written, skipped = written + sum(map(bool, lines)), skipped + lines.count("")
            bar.update(len(indices))
    return written, skipped


def _lines(source: PairSource, indices: Sequence[int], caption: Captioner) -> list[str]:
    """One line for each pair, "" for a pair that cannot be read."""
    if not indices:
        return []
    try:
        captions = caption(source, indices)
    except Exception as error:
        if len(indices) > 1:  # find the pair that fails
            return [line for index in indices for line in _lines(source, [index], caption)]
        tqdm.write(printable(f"{source.key(indices[0])} skipped: {error}"))
        return [""]
    rows = [{"key": source.key(i), "second_caption": text} for i, text in zip(indices, captions, strict=True)]
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def _known_keys(out: Path) -> set[str]:
    """Keys in the file. An incomplete last line is removed from the file."""
    if not out.exists():
        return set()
    data = out.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) < len(data):
        os.truncate(out, len(complete))
    try:
        return {parse_json(line)["key"] for line in complete.splitlines()}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--out={out} is not a file of second captions: name another file.") from None


def _by_keywords(template: str, max_words: int) -> Captioner:
    return lambda source, indices: [sentence(source.captions(i), template, max_words) for i in indices]


def sentence(captions: Sequence[str], template: str, max_words: int) -> str:
    """The first content words of all captions, such as "a picture of dog, snow and field"; `ValueError` for none."""
    words = [word for caption in captions for word in letters(caption).split() if word not in STOP_WORDS]
    chosen = list(dict.fromkeys(words))[:max_words]
    if not chosen:
        raise ValueError(f"no keyword in {captions!r}")
    together = " and ".join(filter(None, (", ".join(chosen[:-1]), chosen[-1])))
    return template.replace("{}", together)


def _by_model(name: str, max_tokens: int) -> Captioner:
    """A captioner that runs a model of `transformers`."""
    try:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise UserError(f"--by={name} needs PyTorch: {install_hint('torch')}, or use --by=keywords.") from None
    try:
        processor, model = AutoProcessor.from_pretrained(name), AutoModelForImageTextToText.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--by={name} is neither keywords nor a captioning model ({reason}).") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()

    def caption(source: PairSource, indices: Sequence[int]) -> list[str]:
        images = [as_array(decode(source.image_bytes(i))) for i in indices]
        inputs = processor(images=images, return_tensors="pt").to(device)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=max_tokens)
        return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return caption
