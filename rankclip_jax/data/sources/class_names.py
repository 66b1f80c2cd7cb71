"""Class names of labelled images. A folder or label that is a code is no class name: it is translated or refused.

In this order: ``class_names.tsv`` beside the data; ImageNet's name of a WordNet id; the folder or label itself, in
words and without the numbers of a numbered list (``001.Black_footed_Albatross``).
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from rankclip_jax.data.sources.captions import is_visible
from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError, first_few
from rankclip_jax.files.text_files import decode

LOG = logging.getLogger(__name__)
FILE = "class_names.tsv"  # lines "CODE<TAB>NAME"
IMAGENET = Path(__file__).resolve().parent.parent / "class_names" / "imagenet.tsv"
NUMBERED = re.compile(r"(n\d{8}|\d+)[\s._-]+(?=.*[^\W\d_])")  # "001.", and "n02085620-" of Stanford Dogs
REPEATS = re.compile(r"\d{1,3}_(?=.*[^\W\d_])")  # kohya's "10_cat": how often an epoch has these images
ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")  # of URLs, as in "red%20fox"
# Codes wherever they occur: numbers, WordNet ids, Freebase ids, hashes and UUIDs.
ALWAYS = re.compile(r"(?i)\d+|n\d{8}|/?m[./]\w{4,}|(?=.*\d)[0-9a-f]{12,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-\w{12}")
# Codes if all classes look like this: numbers with marks, hexadecimal numbers, letters and a number, country codes,
# parts of a data set. One class of many can be a "737-800", an "A320" or a "train".
TOGETHER: Sequence[re.Pattern] = tuple(
    re.compile(rf"(?i){pattern}")
    for pattern in (
        r"[\W\d_]*\d[\W\d_]*",
        r"(?:0x|(?=.*\d))[0-9a-f]+",
        r"[a-z]{1,2}[ _.-]?\d+",
        r"(?:class|cls|label|category|cat|cluster|group|id|type|target|folder|dir|part|shard|batch|fold|split|set|subset"
        r"|chunk|run|session|volume|vol|archive|images?|imgs?|photos?)[ _.-]?\d+",
        r"[a-z]{1,2}",
        r"\d{3}[a-z_]{5}",  # folders of cameras, such as 100CANON
        r"train(?:ing)?\d*|val(?:id|idation)?\d*|test(?:ing)?\d*|dev|eval|all|data|dataset|images?|imgs?|jpe?gs?|pngs?",
    )
)


def class_names_of(codes: Sequence[str], folders: Sequence[str], where: str) -> tuple[str, ...]:
    """The names of some classes.

    Args:
      codes: names of folders or labels, one for each class.
      folders: folders or URLs that may hold a file `FILE`.
      where: the data, for messages.

    Raises:
      UserError: a class has a code and no name, or a file `FILE` is invalid.
    """
    given = read_names(folders)
    shared = _without_numbers(codes)
    names = [given.get(code) or imagenet_names().get(code) or shared[code] for code in codes]
    unnamed = [code for code in codes if code not in given and code not in imagenet_names()]
    found = [code for code in unnamed if _is_code(shared[code])]
    if not found and unnamed and any(all(map(one.fullmatch, map(shared.get, unnamed))) for one in TOGETHER):
        found = unnamed
    if found:
        raise UserError(
            f"{where}: {len(found)} of {len(codes)} classes are codes, not names: {first_few(found, ', ')}. Write "
            f"{os.path.join(folders[0], FILE)} with a line CODE<TAB>NAME for each."
        )
    _warn_of_repeats(names, codes, where)
    return tuple(names)


def _warn_of_repeats(names: Sequence[str], codes: Sequence[str], where: str) -> None:
    """Log the classes with the name of another class. ImageNet itself has two classes "missile"."""
    first: dict[str, str] = {}
    for name, code in zip(names, codes, strict=True):
        other = first.setdefault(name.casefold(), code)
        if other != code and not {code, other} <= imagenet_names().keys():
            text = "%s: classes %r and %r have the same name %r, so they cannot be told apart: merge or rename them"
            LOG.warning(text, where, other, code, name)


def read_names(folders: Sequence[str]) -> dict[str, str]:
    """Names by code, from the files `FILE` in some folders; `UserError` if a line is invalid."""
    given: dict[str, str] = {}
    for path in (f"{folder.rstrip('/')}/{FILE}" for folder in folders):
        if not locations.exists(path):
            continue
        try:
            lines = decode(locations.read(path)).splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not text in UTF-8 or UTF-16 ({error}): save it again.") from None
        for number, line in enumerate(lines, 1):
            code, *names = (part.strip() for part in line.rstrip().split("\t"))
            if not code and not names:
                continue
            if not code or len(names) != 1 or not is_visible(names[0]):
                raise UserError(f"{path}, line {number}: expected CODE<TAB>NAME, found {line[:80]!r}")
            if given.setdefault(code, in_words(names[0])) != in_words(names[0]):
                raise UserError(f"{path}, line {number}: {code!r} has the name {given[code]!r} already: leave one out.")
    return given


def in_words(name: str) -> str:
    """The class name of a folder or label: its name, with spaces instead of underscores."""
    return " ".join(name.replace("_", " ").split())


@cache
def imagenet_names() -> Mapping[str, str]:
    """The names of ImageNet's 1,000 classes by WordNet id."""
    return dict(line.split("\t") for line in IMAGENET.read_text(encoding="utf-8").splitlines())


def _without_numbers(codes: Sequence[str]) -> dict[str, str]:
    """Each code in words. If all have a number or WordNet id of their own before the name, it is left out.

    Numbers of repeats (`REPEATS`) are left out too.
    """
    plain = [unquote(code) if ESCAPED.search(code) else code for code in codes]
    found = [NUMBERED.match(code) for code in plain]
    is_numbered = len(codes) > 1 and len({match[1] for match in found if match}) == len(codes)
    is_numbered = is_numbered or (len(codes) > 1 and all(map(REPEATS.match, plain)))
    return {
        code: in_words(name[match.end() :] if is_numbered and match else name)
        for code, name, match in zip(codes, plain, found, strict=True)
    }


def _is_code(name: str) -> bool:
    return not is_visible(name) or bool(ALWAYS.fullmatch(name))
