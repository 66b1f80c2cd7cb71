"""`validate`: decode every pair, and list those that cannot be used.

A pair goes on the list when it would be replaced in training (its image or caption cannot be read), or when its
image is smaller than ``--min_side``. With ``--strict`` so does what is usable but odd: over-long captions, of
which the end is cut off, and animations, of which the first frame is taken.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.data.commands.sections import EncodedRecords, Section, in_parallel, sections_of, tokenizer_of
from rankclip_jax.data.images.decode import DecodedRecords, ImageError, decode, open_image
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.files import replaced_file

ORIENTATION = 0x0112  # of EXIF
OVER_LONG, ANIMATED = "over-long caption", "animation"
ODD = (OVER_LONG, ANIMATED)
HANDLED = {
    OVER_LONG: "the end is cut off",
    ANIMATED: "the first frame is taken",
    "CMYK": "becomes RGB",
    "palette": "becomes RGB",
    "grey": "becomes RGB",
    "16 bits": "the high 8 are taken",
    "transparency": "is dropped: what is painted under it shows",
    "EXIF orientation": "is not applied, as in CLIP's pipeline",
    "key of several pairs": "in quarantine, it leaves out all of them",
}
SHOWN = 3  # keys for each reason


class Finding(NamedTuple):
    """What is wrong with a pair: a kind to count by, and the whole reason."""

    key: str
    kind: str
    reason: str


class Report(NamedTuple):
    """What was found in some pairs: the bad ones, how many are odd or handled, and a hash of every key."""

    bad: list[Finding]
    notes: Counter
    hashes: np.ndarray


def define_flags() -> None:
    """Flags of this command."""
    flags.DEFINE_string("out", "quarantine.jsonl", "the list to write")
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "threads that read and decode", lower_bound=1)
    flags.DEFINE_integer("min_side", 16, "images with a shorter side go on the list", lower_bound=1)
    flags.DEFINE_bool("strict", False, "also list over-long captions and animations")


def run(config: ConfigDict) -> None:
    """Walk over every place of ``config.data``, quarantined pairs included."""
    out = Path(flags.FLAGS.out)
    sections = sections_of(config)
    tokenizer = tokenizer_of(config, DecodedRecords(sections[0].pairs))
    found, notes, hashes = [], Counter(), []
    try:
        with replaced_file(out) as file:
            for section in sections:
                for report in _examine(section, tokenizer):
                    found += [Finding(*finding) for finding in report.bad]
                    notes += report.notes
                    hashes.append(report.hashes)
                    file.writelines(_line(finding) for finding in report.bad)
    except OSError as error:
        raise UserError(f"cannot write --out={out} ({error.strerror}): name a file in a folder that exists.") from None
    notes["key of several pairs"] = _repeated(np.concatenate(hashes))
    is_set = isinstance(sections[0].pairs, EncodedRecords)
    _print(found, notes, sum(len(section.pairs) for section in sections), out, is_set)


def _examine(section: Section, tokenizer: Tokenizer):
    min_side, strict = flags.FLAGS.min_side, flags.FLAGS.strict

    def work(numbers: np.ndarray) -> Report:
        bad, notes, hashes = [], Counter(), []
        for number in numbers.tolist():
            key = section.pairs.key(number)
            hashes.append(hash(key))
            reasons, odd = examine(section.pairs, number, tokenizer, min_side)
            reasons += [(kind, kind) for kind in odd if strict and kind in ODD]
            notes.update(odd)
            if reasons:
                bad.append(Finding(key, reasons[0][0], "; ".join(reason for _, reason in reasons)))
        return Report(bad, notes, np.array(hashes, np.int64))

    return in_parallel(work, np.arange(len(section.pairs)), flags.FLAGS.threads, f"validating {section.name}")


def examine(
    pairs: PairSource, number: int, tokenizer: Tokenizer, min_side: int
) -> tuple[list[tuple[str, str]], list[str]]:
    """What is wrong with a pair, as (kind, reason), and what is odd about it, as keys of `HANDLED`."""
    reasons, odd = [], []
    for read in (pairs.captions, getattr(pairs, "second_captions", None)):
        try:
            captions = read(number) if read else ()
            if captions and (tokenizer.lengths(captions) > tokenizer.context_length).any():
                odd.append(OVER_LONG)
        except UnicodeDecodeError as error:
            reasons.append(("caption is not UTF-8", f"caption is not UTF-8: {error}"))
        except Exception as error:  # whatever a reader raises
            reasons.append(("caption", f"caption: {error}"))
    try:
        data = pairs.image_bytes(number)
    except Exception as error:
        return [*reasons, ("image cannot be read", f"image cannot be read: {error}")], odd
    try:
        odd += _oddities(open_image(data))
        side = min(decode(data).size)
    except ImageError as error:
        return [*reasons, (error.kind, str(error))], odd
    if side < min_side:
        reasons.append(("tiny", f"tiny: the shorter side is {side} pixels"))
    return reasons, odd


def _oddities(image: Image.Image) -> list[str]:
    """Keys of `HANDLED` that its header tells."""
    mode = image.mode
    tests = {
        ANIMATED: getattr(image, "is_animated", False) and image.format != "MPO",  # two views of a 3D camera
        "CMYK": mode == "CMYK",
        "palette": mode in ("P", "PA"),
        "grey": mode in ("1", "L", "LA"),
        "16 bits": mode.startswith("I"),
        "transparency": mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info,
        "EXIF orientation": "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1,
    }
    return [kind for kind, is_so in tests.items() if is_so]


def _repeated(hashes: np.ndarray) -> int:
    """How many distinct keys are there more than once."""
    counts = np.unique(hashes, return_counts=True)[1]
    return int((counts > 1).sum())


def _line(finding: Finding) -> str:
    return json.dumps({"key": finding.key, "reason": finding.reason}, ensure_ascii=False) + "\n"


def _print(found: list[Finding], notes: Counter, count: int, out: Path, is_embedded: bool) -> None:
    print(f"{count:,} pairs, {len(found):,} of them bad")
    by_kind = Counter(finding.kind for finding in found)
    for kind, number in by_kind.most_common():
        keys = [finding.key for finding in found if finding.kind == kind][:SHOWN]
        print(f"  {number:>12,} {kind}: {', '.join(keys)}" + (", ..." if number > SHOWN else ""))
    rows = [(f"{notes[kind]:>12,}", f" {kind}", f": {what}") for kind, what in HANDLED.items() if notes[kind]]
    if rows:
        print("handled:")
        print("\n".join("".join(row) for row in rows))
    print(f"list: {out}")
    if found and not is_embedded:
        print(f"train without them: --config.data.quarantine={out}")
