"""`captions`: write second captions for objectives such as ALIP, as `config.data.second_captions` reads them.

``--by=keywords`` makes a sentence of the words of a caption that carry content. ``--by=MODEL`` asks a captioning
model of the `transformers` library, a folder or a name on the hub, such as Salesforce/blip-image-captioning-base
(needs `pip install -e '.[torch]'`). Run again, it goes on after the last line that is there.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from rankclip_jax.data.commands.sections import sections_of
from rankclip_jax.data.images.decode import decode
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.sources.formats import FORMATS
from rankclip_jax.data.text.words import STOP_WORDS, letters
from rankclip_jax.errors import UserError, install_hint

Captioner = Callable[[PairSource, Sequence[int]], list[str]]
KEYWORDS = "keywords"


def define_flags() -> None:
    """Flags of this command."""
    flags.DEFINE_string("out", "second_captions.jsonl", "the file to write, or to go on with")
    flags.DEFINE_string("by", KEYWORDS, "keywords, or the folder or name of a captioning model")
    flags.DEFINE_string("template", "an image of {}", "keywords: the sentence that they are put into")
    flags.DEFINE_integer("keywords", 5, "keywords: at most so many", lower_bound=1)
    flags.DEFINE_integer("batch", 32, "pairs at a time", lower_bound=1)
    flags.DEFINE_integer("max_tokens", 30, "model: length of a caption", lower_bound=1)


def run(config: ConfigDict) -> None:
    """Caption every pair to train on; those that cannot be read are left out."""
    given, out = flags.FLAGS, Path(flags.FLAGS.out)
    if config.data.name not in FORMATS:
        raise UserError(f"data {config.data.name!r} come with their captions: name your own in config.data.train.")
    pairs = [section.pairs for section in sections_of(config) if section.name.startswith("train")]
    if not pairs:
        raise UserError("config.data.train is empty: name what to caption there.")
    caption = _by_keywords if given.by == KEYWORDS else _by_model(given.by)
    if given.by == KEYWORDS and given.template.count("{}") != 1:
        raise UserError(f"--template={given.template!r} must have one {{}}, where the keywords go.")
    done, skipped = _known_keys(out), 0
    total = sum(map(len, pairs))
    written = 0
    try:
        with open(out, "a", encoding="utf-8") as file, tqdm(total=total, unit="pair", leave=False, delay=1) as bar:
            for source in pairs:
                for start in range(0, len(source), given.batch):
                    numbers = [i for i in range(start, min(start + given.batch, len(source)))]
                    bar.update(len(numbers))
                    lines = _lines(source, [i for i in numbers if source.key(i) not in done], caption)
                    file.writelines(line for line in lines if line)
                    written, skipped = written + sum(map(bool, lines)), skipped + lines.count("")
    except OSError as error:
        raise UserError(f"cannot write --out={out} ({error.strerror}): name a file in a folder that exists.") from None
    print(f"{written:,} second captions written to {out}, {len(done):,} were there, {skipped:,} pairs cannot be read")
    print(f"train with them: --config.data.second_captions={out}")


def _lines(source: PairSource, numbers: Sequence[int], caption: Captioner) -> list[str]:
    """A line for each of the pairs, "" for one that cannot be read."""
    if not numbers:
        return []
    try:
        texts = caption(source, numbers)
    except Exception as error:
        if len(numbers) > 1:  # one of them is to blame
            return [line for number in numbers for line in _lines(source, [number], caption)]
        tqdm.write(f"{source.key(numbers[0])} left out: {error}")
        return [""]
    made = zip(numbers, texts, strict=True)
    return [json.dumps({"key": source.key(i), "second_caption": text}, ensure_ascii=False) + "\n" for i, text in made]


def _known_keys(out: Path) -> set[str]:
    """Keys that the file has; a last line that was cut off in the middle is removed."""
    if not out.exists():
        return set()
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(out, len(whole))
    try:
        return {json.loads(line)["key"] for line in whole.splitlines()}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--out={out} holds something else than second captions: name another file.") from None


def _by_keywords(source: PairSource, numbers: Sequence[int]) -> list[str]:
    return [sentence(source.captions(i), flags.FLAGS.template, flags.FLAGS.keywords) for i in numbers]


def sentence(captions: Sequence[str], template: str, most: int) -> str:
    """The first content words of all captions in one sentence: "an image of dog, snow and field"."""
    words = [word for caption in captions for word in letters(caption).split() if word not in STOP_WORDS]
    chosen = list(dict.fromkeys(words))[:most]
    if not chosen:
        raise ValueError(f"no keyword in {captions!r}")
    together = " and ".join(filter(None, (", ".join(chosen[:-1]), chosen[-1])))
    return template.replace("{}", together)


def _by_model(name: str) -> Captioner:
    """A captioner that asks a model of `transformers`."""
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

    def caption(source: PairSource, numbers: Sequence[int]) -> list[str]:
        images = [np.asarray(decode(source.image_bytes(i))) for i in numbers]
        inputs = processor(images=images, return_tensors="pt").to(device)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=flags.FLAGS.max_tokens)
        return [text.strip() for text in processor.batch_decode(made, skip_special_tokens=True)]

    return caption
