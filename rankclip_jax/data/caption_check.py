"""Captions that are probably no captions: rows of a table, lists, codes, markup. `validate` and `stats` count them in
all pairs; training and evaluation warn of them in the captions that they read first."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rankclip_jax.terminal.show import printable

ONE_CAPTION = "one caption for many images"
MANY = 0.05  # fraction of the images that may have the same caption
FEW = 5  # images that may have the same caption in a small data set
MANY_COUNTED = 10_000  # different captions that are counted at a time
SHOWN = 60  # characters of an example
SAMPLE = 1000  # pairs that training checks
WARNED = 0.01  # fraction of the pairs above which training warns

# Escapes of JSON, SQL and Excel that were not decoded; control characters without white space; undecodable bytes.
ESCAPES = r"(?<!:)\\(?:[nrt]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})|_x00[01][0-9A-F]_"
CONTROLS = rf"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]|{ESCAPES}"
IMAGE_NAME = re.compile(r"\.(?:jpe?g|png|webp)\b", re.IGNORECASE)
TAGS = "a|abbr|b|big|blockquote|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|script|small|span|strong|style|su[bp]"


class Kind(NamedTuple):
    """A test of a caption, true for any value but None and False; and what the user can do."""

    test: Callable[[str], object]
    advice: str


def _has_rows(caption: str) -> bool:
    """Whether a caption holds lines with the separators of a table, or lines with names of images."""
    lines = caption.splitlines()
    if len(lines) < 2:
        return False
    return "\t" in caption or any(map(IMAGE_NAME.search, lines[1:])) or sum("|" in line for line in lines) > 1


KINDS = {
    "several lines with separators": Kind(_has_rows, "these may be rows of the table: look for an unclosed quote"),
    "several lines": Kind(
        re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]").search, "if each is a caption: config.data.caption_split=lines"
    ),
    "lists": Kind(
        re.compile(
            r"(?s)^\s*(?:\[.*\]|\{.*\}|\((?:'.*',?|\".*\",?)\)|(?:array|list|set|tuple)\(.*\)|b(?:'.*'|\".*\"))\s*$"
        ).search,
        "if each item is a caption: config.data.caption_split=list; otherwise write the texts alone",
    ),
    "only codes or numbers": Kind(
        re.compile(
            r"(?i)^(?:(?=.*\d)[\W\d_]+|[\s!-@\[-`{-~]+|(?=.*\d)[!-~]+|[a-z]+://\S+|\S+\.(?:jpe?g|png|webp|gif|bmp|tiff?))$"
        ).search,
        "choose the column or field of the captions by config.data.caption_key",
    ),
    "control characters": Kind(re.compile(CONTROLS).search, "write the text as UTF-8, without control characters"),
    "HTML": Kind(
        re.compile(rf"(?i)</?(?:{TAGS}|t[adhr]\w*|ul|u)\b[^<>]*>|&(?:[a-z]{{2,8}}|#x?[0-9a-f]{{2,6}});").search,
        "remove the markup",
    ),
    ONE_CAPTION: Kind(lambda caption: False, "check that each image has its own caption"),
}
# Most captions match none of the patterns: this one decides it in one pass.
UNUSUAL = re.compile(
    rf"[\n\r\t\x0b\x0c\x85\u2028\u2029<&]|{CONTROLS}|^\s*(?:[\[{{(]|(?:array|list|set|tuple)\(|b['\"])|^\S*$|^[\W\d_]*$"
)


class CaptionCheck:
    """Counts suspicious captions; the memory does not depend on the number of pairs."""

    def __init__(self):
        self.pairs = 0
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._repeats: Counter[str] = Counter()

    def add(self, captions: Sequence[str]) -> None:
        """Add the captions of one pair."""
        self.pairs += 1
        found = {kind: caption for caption in captions if UNUSUAL.search(caption) for kind in kinds_of(caption)}
        self._counts.update(found.keys())
        self._examples = found | self._examples
        self._repeats.update({*captions})
        self._forget()

    def merge(self, other: "CaptionCheck") -> None:
        """Add the pairs of another check."""
        self.pairs += other.pairs
        self._counts.update(other._counts)
        self._examples = other._examples | self._examples
        self._repeats.update(other._repeats)
        self._forget()

    def lines(self, above: float = 0) -> list[str]:
        """One line for each kind that more than the fraction `above` of the pairs have, with an example and advice."""
        counts, examples = self._counts.copy(), self._examples.copy()
        if self._repeats:
            examples[ONE_CAPTION], most = self._repeats.most_common(1)[0]
            counts[ONE_CAPTION] = most if most > max(FEW, MANY * self.pairs) else 0
        found = [kind for kind in KINDS if counts[kind] > above * self.pairs]
        of = f"of {self.pairs:,} pairs, such as"
        return [f"{kind}: {counts[kind]:,} {of} '{_short(examples[kind])}'; {KINDS[kind].advice}" for kind in found]

    def _forget(self) -> None:
        """Drop rare captions when there are too many: all counts fall by one, at most once in `MANY_COUNTED` pairs."""
        while len(self._repeats) > MANY_COUNTED:
            self._repeats = Counter({caption: count - 1 for caption, count in self._repeats.items() if count > 1})


def kinds_of(caption: str) -> list[str]:
    """The keys of `KINDS` that describe a caption; only the more precise one of the two kinds of several lines."""
    found = [kind for kind, (test, _) in KINDS.items() if test(caption)]
    return [kind for kind in found if kind != "several lines" or "several lines with separators" not in found]


def check(captions_of_pairs: Iterable[Sequence[str]]) -> CaptionCheck:
    """The check of some pairs, each with its captions."""
    found = CaptionCheck()
    for captions in captions_of_pairs:
        found.add(captions)
    return found


def section(found: CaptionCheck) -> list[str]:
    """The lines of a command's output; none if no caption is suspicious."""
    lines = found.lines()
    return ["suspicious captions:", *(f"  {line}" for line in lines)] if lines else []


def warnings_of(name: str, captions_of_pairs: Iterable[Sequence[str]]) -> list[str]:
    """One line for each kind of suspicious captions that more than `WARNED` of the pairs have; `name` begins it."""
    return [f"captions of {name}, {line}" for line in check(captions_of_pairs).lines(WARNED)]


def _short(caption: str) -> str:
    return printable(caption if len(caption) <= SHOWN else f"{caption[:SHOWN]}...")
