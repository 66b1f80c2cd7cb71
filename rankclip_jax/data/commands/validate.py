"""`validate`: decodes all pairs, and lists bad ones.

A pair is listed if its image or caption cannot be read (training would replace it), or if its image is smaller than
``--min_side``. With ``--strict`` two kinds of usable pairs are listed too: captions longer than the text tower's
context (training would cut them), and animations (training would use the first frame).
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.data.caption_check import CaptionCheck, section
from rankclip_jax.data.commands.repeats import Repeats
from rankclip_jax.data.commands.sections import EncodedRecords, MakeTokenizer, sections_of
from rankclip_jax.data.images.decode import DecodedRecords, ImageError, decode, open_image
from rankclip_jax.data.in_parallel import in_parallel
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.terminal.show import printable, short, show

T = TypeVar("T")
ORIENTATION = 0x0112  # of EXIF
DAMAGED_EXIF = "damaged EXIF"
OVER_LONG, ANIMATED, REPEATED = "over-long caption", "animation", "key of several pairs"
STRICT = (OVER_LONG, ANIMATED)
# Unusual properties of usable pairs, and their handling.
HANDLED = {
    OVER_LONG: "the end is cut off",
    ANIMATED: "the first frame is used",
    "CMYK": "converted to RGB",
    "palette": "converted to RGB",
    "grey": "converted to RGB",
    "16 bits": "the high 8 bits are used",
    "transparency": "dropped or laid on white, as model.image.resize says",
    "EXIF orientation": "not applied, as in CLIP's pipeline",
    DAMAGED_EXIF: "not used",
    REPEATED: "quarantine of this key skips all of them",
}
SHOWN = 3  # keys for each reason


class Finding(NamedTuple):
    """A pair to list: a kind for counting, and the full reason."""

    key: str
    kind: str
    reason: str


class Report(NamedTuple):
    """Result for a chunk of pairs: pairs to list, counts of properties in `HANDLED`, hashes of keys, captions."""

    bad: list[Finding]
    unusual: Counter
    hashes: np.ndarray
    check: CaptionCheck


class _Bad:
    """Counts findings by kind, and keeps the first keys of each kind. `count` is the number of findings."""

    def __init__(self):
        self.count = 0
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self.count += 1
            self._counts[finding.kind] += 1
            first = self._first.setdefault(finding.kind, [])
            if len(first) < SHOWN:
                first.append(printable(finding.key))

    def lines(self) -> list[str]:
        """One line for each kind, the most frequent one first."""
        return [
            f"  {count:>12,} {kind}: {', '.join(self._first[kind])}" + (", ..." if count > SHOWN else "")
            for kind, count in self._counts.most_common()
        ]


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("out", "quarantine.jsonl", "file to write")
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "number of reading and decoding threads", lower_bound=1)
    flags.DEFINE_integer("min_side", 16, "images with a shorter side in pixels are listed", lower_bound=1)
    flags.DEFINE_bool("strict", False, "also list over-long captions and animations")


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Check the pairs of every location in ``config.data``, also quarantined pairs."""
    out, threads = Path(flags.FLAGS.out), flags.FLAGS.threads
    min_side, strict = flags.FLAGS.min_side, flags.FLAGS.strict
    sections = sections_of(config)
    tokenizer = make_tokenizer(config, DecodedRecords(sections[0].pairs))
    bad, unusual, repeats, check = _Bad(), Counter(), Repeats(), CaptionCheck()
    try:
        with replaced_file(out) as file:
            for name, pairs, _ in sections:
                work = partial(_report, pairs, tokenizer, min_side, strict)
                for report in in_parallel(work, range(len(pairs)), threads, f"validating {name}"):
                    bad.add(report.bad)
                    unusual += report.unusual
                    repeats.add(report.hashes)
                    check.merge(report.check)
                    file.writelines(_line(finding) for finding in report.bad)
    except OSError as error:
        raise UserError(f"cannot write --out={out} ({error.strerror}): name a file in an existing folder.") from None
    unusual[REPEATED] = repeats.repeated()
    show(f"{sum(len(section.pairs) for section in sections):,} pairs, {bad.count:,} of them bad")
    show("\n".join([*bad.lines(), *_handled(unusual), *section(check), f"list: {out}"]))
    if bad.count and not isinstance(sections[0].pairs, EncodedRecords):
        show(f"train without them: --config.data.quarantine={out}")


def _report(pairs: PairSource, tokenizer: Tokenizer, min_side: int, strict: bool, indices: Sequence[int]) -> Report:
    bad, unusual, hashes, check = [], Counter(), [], CaptionCheck()
    for index in indices:
        key = pairs.key(index)
        hashes.append(hash(key))
        reasons, found = examine(pairs, index, tokenizer, min_side, check)
        unusual.update(found)
        reasons += [(kind, kind) for kind in found if strict and kind in STRICT]
        if reasons:
            bad.append(Finding(key, reasons[0][0], "; ".join(short(reason) for _, reason in reasons)))
    return Report(bad, unusual, np.array(hashes, np.int64), check)


def examine(
    pairs: PairSource, index: int, tokenizer: Tokenizer, min_side: int, check: CaptionCheck
) -> tuple[list[tuple[str, str]], list[str]]:
    """Problems of a pair as (kind, text), and its unusual properties as keys of `HANDLED`.

    Its captions are added to `check`, except second captions and captions made of class names.
    """
    reasons, unusual = [], []
    for is_first, read in ((True, pairs.captions), (False, pairs.second_captions)):
        try:
            captions = read(index)
            if is_first and not pairs.class_names:
                check.add(captions)
            if captions and (tokenizer.lengths(captions) > tokenizer.context_length).any():
                unusual.append(OVER_LONG)
        except UnicodeDecodeError as error:
            reasons.append(("caption is not UTF-8", f"caption is not UTF-8: {error}"))
        except Exception as error:  # readers may raise any exception
            reasons.append(("caption", f"caption: {error}"))
    try:
        data = pairs.image_bytes(index)
    except Exception as error:
        kind = "image file is missing" if isinstance(error, FileNotFoundError) else "image cannot be read"
        return [*reasons, (kind, f"{kind}: {error}")], unusual
    try:
        unusual += _unusual(open_image(data))
        side = min(decode(data).size)
    except ImageError as error:
        return [*reasons, (error.kind, str(error))], unusual
    except Exception as error:  # from the header: plugins of Pillow may raise any exception
        return [*reasons, ("image", f"image: {type(error).__name__}: {error}")], unusual
    if side < min_side:
        reasons.append(("tiny", f"tiny: the shorter side is {side} pixels"))
    return reasons, unusual


def _unusual(image: Image.Image) -> list[str]:
    """Keys of `HANDLED` that apply to an image, from its header."""
    mode, orientation = image.mode, _from_header(lambda: _orientation(image), None)
    tests = {
        # MPO: two views of a 3D camera
        ANIMATED: image.format != "MPO" and _from_header(lambda: getattr(image, "is_animated", False), True),
        "CMYK": mode == "CMYK",
        "palette": mode in ("P", "PA"),
        "grey": mode in ("1", "L", "LA"),
        "16 bits": mode.startswith("I;16") or (mode == "I" and image.format == "PPM"),
        "transparency": mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info,
        "EXIF orientation": orientation not in (None, 1),
        DAMAGED_EXIF: orientation is None,
    }
    return [kind for kind, applies in tests.items() if applies]


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if there is none."""
    return image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1


def _from_header(read: Callable[[], T], damaged: T) -> T:
    """What `read` returns; `damaged` if parts of a file that training does not use cannot be read."""
    try:
        return read()
    except Exception:  # Pillow raises SyntaxError, struct.error, TypeError ...
        return damaged


def _line(finding: Finding) -> str:
    return json.dumps({"key": finding.key, "reason": finding.reason}, ensure_ascii=False) + "\n"


def _handled(unusual: Counter) -> list[str]:
    lines = [f"{unusual[kind]:>12,} {kind}: {handling}" for kind, handling in HANDLED.items() if unusual[kind]]
    return ["handled:", *lines] if lines else []
